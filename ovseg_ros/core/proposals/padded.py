"""A mask network with the pixels it was trained on: normalised, and padded to one size."""

import torch
from torch import Tensor, nn

from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.model import Proposer
from ovseg_ros.core.types import MaskProposals, TextEmbeddings

BLACK = (0.0, 0.0, 0.0)


class PaddedProposer(Proposer):
    """Masks by a network that takes normalised images of one size (`EoMT`, `Mask2Former`) and reads no words."""

    def __init__(
        self,
        network: nn.Module,
        input_size: tuple[int, int],
        *,
        padding_color: tuple[float, float, float] = IMAGENET_MEAN,
    ) -> None:
        """`network`: (B, 3, *input_size) normalised by ImageNet's statistics -> MaskProposals.

        `padding_color` (RGB in [0, 1]) is what it was trained to see beside an image that does not fill the input size:
        black for the published EoMTs, the mean colour for Mask2Former.
        """
        super().__init__()
        self.network = network
        self._input_size, self._padding_color = input_size, padding_color

    def prepare(self, text: TextEmbeddings) -> None:
        """Nothing: these masks do not depend on words."""

    def forward(self, pixels: Tensor, words: None = None) -> MaskProposals:
        """Masks of images (B, 3, h, w) in [0, 1] that fit into the input size; h and w are multiples of 4.

        Images are padded at the right and bottom for the network, masks cut again after it.
        """
        height, width = pixels.shape[-2:]
        canvas = pixels
        if (height, width) != self._input_size:
            color = torch.tensor(self._padding_color, device=pixels.device)[:, None, None]
            canvas = color.expand(len(pixels), 3, *self._input_size).clone()
            canvas[..., :height, :width] = pixels
        proposals = self.network(normalize(canvas, IMAGENET_MEAN, IMAGENET_STD))
        rows, columns = proposals.mask_logits.shape[-2:]
        rows, columns = rows * height // self._input_size[0], columns * width // self._input_size[1]
        return MaskProposals(
            mask_logits=proposals.mask_logits[..., :rows, :columns],
            query_embeddings=proposals.query_embeddings,
            class_logits=proposals.class_logits,
        )
