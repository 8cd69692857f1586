"""The pipeline on one screen: check, model, merge."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ovseg_ros.core.engine.options import REFERENCE, Engine
from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.images import check_image, to_tensors
from ovseg_ros.core.merge import Candidates, MergeConfig, start_merge
from ovseg_ros.core.model import Model, Prompt
from ovseg_ros.core.types import PanopticResult, Prediction
from ovseg_ros.core.vocabulary import Vocabulary


class Pending:
    """Images whose segmentation has begun; the device may still be at it."""

    def __init__(self, finish: Callable[[], list[PanopticResult]]) -> None:
        """`finish` waits for the device, once, and makes the results."""
        self._finish = finish

    def results(self) -> list[PanopticResult]:
        """One for each image; called once, from any thread."""
        return self._finish()


class PanopticSegmenter:
    """Gives every pixel of an image a word of a vocabulary and every object an identity.

    `segment`, `segment_batch` and `predict` belong to one thread at a time; `prepare` may be called beside them.

    Attributes:
        model: in evaluation mode, on `device`.
        merge: the preset's thresholds, in force unless a call has others.
        engine: what runs the model.
    """

    engine: Engine = REFERENCE

    def __init__(self, model: Model, merge: MergeConfig, device: torch.device) -> None:
        self.device = device
        self.merge = merge
        self.model = model.to(device).eval()
        self._candidates = Candidates()

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

    def segment_batch(
        self, images: Sequence[np.ndarray], prompt: Prompt, merge: MergeConfig | None = None
    ) -> list[PanopticResult]:
        """As `segment`, for B >= 1 images in one pass of the networks; ImageError also if they differ in size."""
        return self.start(images, prompt, merge).results()

    @torch.inference_mode()
    def start(self, images: Sequence[np.ndarray], prompt: Prompt, merge: MergeConfig | None = None) -> Pending:
        """As `segment_batch`, but returns as soon as the work is queued on the device; on a CPU, when it is done.

        So the next images are read while these are segmented. Each pending call holds page-locked memory: more than two
        need more of it.
        """
        merge = merge or self.merge
        predicted = self.model(self.to_pixels(images), prompt, merge.object_threshold)
        return Pending(
            start_merge(
                predicted.mask_logits,
                predicted.class_logits,
                prompt.vocabulary,
                images[0].shape[:2],
                merge,
                query_embeddings=predicted.query_embeddings,
                traits=prompt.traits,
                candidates=self._candidates,
            )
        )

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
        return to_tensors(images, self.device)
