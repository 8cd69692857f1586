"""A trained EoMT as an encoder: its patches know where objects end."""

from torch import Tensor

from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, Canvas, squash
from ovseg_ros.core.proposals.eomt.network import EoMT


class EoMTFeatures(ImageEncoder):
    """The patches of an EoMT after its last block; frozen."""

    def __init__(self, network: EoMT) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        network.fold_norms()
        self.width = network.config.width
        self._canvas = Canvas(IMAGENET_MEAN, IMAGENET_STD)

    def train(self, mode: bool = True) -> "EoMTFeatures":
        """It stays in evaluation mode: frozen, its normalisation takes no statistics of a batch."""
        return super().train(False)

    def pixels(self, images: Tensor) -> Tensor:
        """Scaled to the network's size, and normalised."""
        return self._canvas(squash(images, self.network.config.image_size))

    def features(self, pixels: Tensor) -> Tensor:
        """See `ImageEncoder`."""
        return self.network.patches(pixels)
