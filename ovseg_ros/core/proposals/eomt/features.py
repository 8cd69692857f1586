"""A trained EoMT as an encoder: its patches know where objects end."""

from torch import Tensor, nn

from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize, squash
from ovseg_ros.core.proposals.eomt.network import EoMT


class EoMTFeatures(nn.Module):
    """The patches of an EoMT after its last block; frozen.

    Attributes:
        width: of the features.
    """

    def __init__(self, network: EoMT) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.width = network.config.width

    def train(self, mode: bool = True) -> "EoMTFeatures":
        """It stays in evaluation mode: frozen, its normalisation takes no statistics of a batch."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], scaled to the network's size -> (B, C, rows, columns)."""
        pixels = normalize(squash(images, self.network.config.image_size), IMAGENET_MEAN, IMAGENET_STD)
        return self.network.patches(pixels)
