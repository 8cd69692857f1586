"""The pipeline on one screen: check, model, merge."""

from collections.abc import Sequence

import numpy as np
import torch

from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.images import check_image, to_tensor
from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.model import Model, Prompt
from ovseg_ros.core.types import PanopticResult, Prediction
from ovseg_ros.core.vocabulary import Vocabulary


class PanopticSegmenter:
    """Gives every pixel of an image a word of a vocabulary and every object an identity.

    `segment`, `segment_batch` and `predict` belong to one thread at a time; `prepare` may be called beside them.

    Attributes:
        model: in evaluation mode, on `device`.
        merge: the preset's thresholds, in force unless a call has others.
    """

    def __init__(self, model: Model, merge: MergeConfig, device: torch.device) -> None:
        self.device = device
        self.merge = merge
        self.model = model.to(device).eval()

    def prepare(self, vocabulary: Vocabulary) -> Prompt:
        """Make a vocabulary ready for `segment`: work for each new word, not for each frame."""
        return self.model.prepare(vocabulary)

    def segment(self, image: np.ndarray, prompt: Prompt, merge: MergeConfig | None = None) -> PanopticResult:
        """Segment one image; the maps have its size.

        Args:
            image: uint8 RGB (H, W, 3), any size from 1x1.
            prompt: from `prepare`.
            merge: thresholds in place of the preset's.

        Raises:
            ImageError: the image has another shape or type.
        """
        return self.segment_batch([image], prompt, merge)[0]

    @torch.inference_mode()
    def segment_batch(
        self, images: Sequence[np.ndarray], prompt: Prompt, merge: MergeConfig | None = None
    ) -> list[PanopticResult]:
        """As `segment`, for B >= 1 images in one pass of the networks; ImageError also if they differ in size."""
        predicted = self.predict(images, prompt)
        size = images[0].shape[:2]
        return [
            merge_panoptic(masks, scores, prompt.vocabulary, size, merge or self.merge, query_embeddings=embeddings)
            for masks, scores, embeddings in zip(
                predicted.mask_logits, predicted.class_logits, predicted.query_embeddings, strict=True
            )
        ]

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray], prompt: Prompt) -> Prediction:
        """What the merge gets of images; arguments and errors as of `segment_batch`."""
        return self.model(self.to_pixels(images), prompt)

    def to_pixels(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Images of one size, and no others, as the model takes them: (B, 3, H, W) float in [0, 1] on the device."""
        for image in images:
            check_image(image)
        sizes = {image.shape[:2] for image in images}
        if len(sizes) != 1:
            raise ImageError(f"a batch needs images of one size, got {sorted(sizes)}; segment them one by one")
        return torch.cat([to_tensor(image, self.device) for image in images])
