"""The pipeline on one screen: fit, propose, classify, merge."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, check_image, normalize, to_tensor
from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import MaskClassification, MaskProposals, PanopticResult, TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary

_ALIGNMENT = 4
"""Images are fitted to multiples of the mask logits' stride, so that masks and image stay aligned to the pixel."""


class PanopticSegmenter:
    """Gives every pixel of an image a word of a vocabulary and every object an identity.

    `segment`, `segment_batch` and `propose` belong to one thread at a time; `encode_vocabulary` may be called beside
    them.
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
        padding_color: tuple[float, float, float] = IMAGENET_MEAN,
    ) -> None:
        """`proposer`: images -> MaskProposals; `classifier`: (images, proposals, text) -> MaskClassification.

        `padding_color` (RGB in [0, 1]) is what the mask generator was trained to see beside an image that does not fill
        the input size: black for the published EoMTs, the mean colour for Mask2Former.
        """
        self.device = device
        self.merge = merge
        self._proposer = proposer.to(device).eval()
        self._classifier = classifier.to(device).eval()
        self._text_encoder = text_encoder
        self._input_size = input_size
        self._padding_color = padding_color

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
        return self.segment_batch([image], text)[0]

    @torch.inference_mode()
    def segment_batch(self, images: Sequence[np.ndarray], text: TextEmbeddings) -> list[PanopticResult]:
        """Segment images of one size, at least one, in one pass of the networks.

        Args:
            images: B times uint8 RGB (H, W, 3).
            text: from `encode_vocabulary`.

        Returns:
            As `segment`, one for each image.

        Raises:
            ImageError: if an image has another shape or type, or they differ in size.
        """
        for image in images:
            check_image(image)
        sizes = {image.shape[:2] for image in images}
        if len(sizes) != 1:
            raise ImageError(f"a batch needs images of one size, got {sorted(sizes)}; segment them one by one")
        pixels = self._fit(torch.cat([to_tensor(image, self.device) for image in images]))  # (B, 3, h, w)
        proposals = self._propose(pixels)
        logits = self._classifier(pixels, proposals, text).logits  # (B, Q, K + 1)
        return [
            merge_panoptic(masks, scores, text.vocabulary, images[0].shape[:2], self.merge, query_embeddings=embeddings)
            for masks, scores, embeddings in zip(proposals.mask_logits, logits, proposals.query_embeddings, strict=True)
        ]

    @torch.inference_mode()
    def classify(
        self, image: np.ndarray, text: TextEmbeddings, proposals: MaskProposals | None = None
    ) -> tuple[MaskProposals, MaskClassification]:
        """Masks and their class scores as they enter the merge, which evaluation needs.

        Args:
            image: uint8 RGB (H, W, 3).
            text: from `encode_vocabulary`.
            proposals: masks of the whole image to classify in place of the generator's own, B = 1.

        Raises:
            ImageError: if the image has another shape or type.
        """
        check_image(image)
        pixels = self._fit(to_tensor(image, self.device))  # (1, 3, h, w)
        if proposals is None:
            proposals = self._propose(pixels)
        return proposals, self._classifier(pixels, proposals, text)

    @torch.inference_mode()
    def propose(self, image: np.ndarray) -> MaskProposals:
        """The class-agnostic masks of one image, uint8 RGB (H, W, 3); they cover the whole image.

        Raises:
            ImageError: if the image has another shape or type.
        """
        check_image(image)
        return self._propose(self._fit(to_tensor(image, self.device)))

    def _fit(self, pixels: Tensor) -> Tensor:
        """Scale (B, 3, H, W) to the largest size inside the input size with (nearly) the same aspect ratio."""
        height, width = pixels.shape[-2:]
        scale = min(self._input_size[0] / height, self._input_size[1] / width)
        fitted = [max(_ALIGNMENT, round(side * scale / _ALIGNMENT) * _ALIGNMENT) for side in (height, width)]
        if fitted == [height, width]:
            return pixels
        return F.interpolate(pixels, size=fitted, mode="bilinear", align_corners=False, antialias=scale < 1)

    def _propose(self, pixels: Tensor) -> MaskProposals:
        """Masks of fitted images (B, 3, h, w): padded at the right and bottom for the network, cut again after it."""
        height, width = pixels.shape[-2:]
        canvas = pixels
        if (height, width) != self._input_size:
            color = torch.tensor(self._padding_color, device=pixels.device)[:, None, None]
            canvas = color.expand(len(pixels), 3, *self._input_size).clone()
            canvas[..., :height, :width] = pixels
        proposals = self._proposer(normalize(canvas, IMAGENET_MEAN, IMAGENET_STD))
        rows, columns = proposals.mask_logits.shape[-2:]
        rows, columns = rows * height // self._input_size[0], columns * width // self._input_size[1]
        return MaskProposals(
            mask_logits=proposals.mask_logits[..., :rows, :columns],
            query_embeddings=proposals.query_embeddings,
            class_logits=proposals.class_logits,
        )
