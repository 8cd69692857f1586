"""The pipeline on one screen: fit, propose, classify, merge."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, check_image, normalize, to_tensor
from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import MaskProposals, PanopticResult, TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary

_ALIGNMENT = 4
"""Images are fitted to multiples of the mask logits' stride, so that masks and image stay aligned to the pixel."""


class PanopticSegmenter:
    """Gives every pixel of an image a word of a vocabulary and every object an identity.

    `segment` and `propose` belong to one thread at a time; `encode_vocabulary` may be called beside them.
    """

    def __init__(
        self,
        *,
        proposer: nn.Module,
        classifier: nn.Module,
        text_encoder: TextEncoder,
        merge: MergeConfig,
        input_size: tuple[int, int],
        device: torch.device,
    ) -> None:
        """`proposer`: images -> MaskProposals; `classifier`: (images, proposals, text) -> MaskClassification."""
        self.device = device
        self.merge = merge
        self._proposer = proposer.to(device).eval()
        self._classifier = classifier.to(device).eval()
        self._text_encoder = text_encoder
        self._input_size = input_size

    def encode_vocabulary(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """Embed a vocabulary for `segment`; work per new word, not per frame."""
        return self._text_encoder.encode(vocabulary)

    @torch.inference_mode()
    def segment(self, image: np.ndarray, text: TextEmbeddings) -> PanopticResult:
        """Segment one image.

        Args:
            image: uint8 RGB (H, W, 3), any size from 1x1.
            text: from `encode_vocabulary`.

        Returns:
            Maps of the input's size.

        Raises:
            ImageError: if the image has another shape or type.
        """
        check_image(image)
        pixels = self._fit(to_tensor(image, self.device))  # (1, 3, h, w)
        proposals = self._propose(pixels)
        classification = self._classifier(pixels, proposals, text)
        return merge_panoptic(
            proposals.mask_logits[0], classification.logits[0], text.vocabulary, image.shape[:2], self.merge
        )

    @torch.inference_mode()
    def propose(self, image: np.ndarray) -> MaskProposals:
        """The class-agnostic masks of one image, uint8 RGB (H, W, 3); they cover the whole image.

        Raises:
            ImageError: if the image has another shape or type.
        """
        check_image(image)
        return self._propose(self._fit(to_tensor(image, self.device)))

    def _fit(self, pixels: Tensor) -> Tensor:
        """Scale (1, 3, H, W) to the largest size inside the input size with (nearly) the same aspect ratio."""
        height, width = pixels.shape[-2:]
        scale = min(self._input_size[0] / height, self._input_size[1] / width)
        fitted = [max(_ALIGNMENT, round(side * scale / _ALIGNMENT) * _ALIGNMENT) for side in (height, width)]
        if fitted == [height, width]:
            return pixels
        return F.interpolate(pixels, size=fitted, mode="bilinear", align_corners=False, antialias=scale < 1)

    def _propose(self, pixels: Tensor) -> MaskProposals:
        """Masks of a fitted image (1, 3, h, w): padded at the right and bottom for the network, cut again after it."""
        height, width = pixels.shape[-2:]
        canvas = normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)
        canvas = F.pad(canvas, (0, self._input_size[1] - width, 0, self._input_size[0] - height))
        proposals = self._proposer(canvas)
        rows, columns = proposals.mask_logits.shape[-2:]
        rows, columns = rows * height // self._input_size[0], columns * width // self._input_size[1]
        return MaskProposals(
            mask_logits=proposals.mask_logits[..., :rows, :columns],
            query_embeddings=proposals.query_embeddings,
            class_logits=proposals.class_logits,
        )
