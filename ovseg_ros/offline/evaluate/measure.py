"""One image through the segmenter, and what it contributes to every figure."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.merge import merge_panoptic
from ovseg_ros.core.merge.upsampling import Axis, upsampled
from ovseg_ros.core.metrics.confusion import confusion_pairs
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.overlaps import MaskOverlaps, mask_overlaps, segment_overlaps
from ovseg_ros.core.metrics.panoptic_quality import CategoryCounts, PanopticQuality
from ovseg_ros.core.model import Prompt, TwoStage, TwoStagePrompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Prediction
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.semantic import regions
from ovseg_ros.offline.evaluate.instances import detected_instances, true_instances, upsampled_masks
from ovseg_ros.offline.evaluate.oracle import Oracle, named_rightly, true_classes, true_proposals
from ovseg_ros.offline.evaluate.record import ImageRecord, Kept
from ovseg_ros.offline.evaluate.truth import Truth

Keep = Callable[[Truth, PanopticResult, np.ndarray], Kept]
"""Keeps an image's prediction: its segments, and the category (H, W) of each pixel as `semantic_map` gives it."""

_BAND_ELEMENTS = 1 << 23
"""Most scores (categories x pixels) or mask values held at once."""


class Evaluator:
    """Measures a segmenter under one vocabulary, one image at a time.

    Attributes:
        segmenter: what is measured.
        vocabulary: its words; category ids are the data set's category indices.
    """

    def __init__(
        self,
        segmenter: PanopticSegmenter,
        prompt: Prompt,
        oracle: Oracle = "",
        *,
        renamed: Mapping[str, Prompt] | None = None,
        min_objectness: float = 0.0,
        detections: bool = True,
    ) -> None:
        """What is measured.

        Args:
            prompt: prepared for the segmenter, as are those of `renamed`; the rest is as in `Plan`.
            detections: False leaves them out, and so the average precision, which costs as much as all other figures.
        """
        self.segmenter, self.vocabulary = segmenter, prompt.vocabulary
        self._prompt, self._oracle, self._min_objectness = prompt, oracle, min_objectness
        self._renamed, self._detections = renamed or {}, detections
        merge = segmenter.merge
        self._merge = replace(merge, object_threshold=0.0) if oracle == "classes" else merge

    def measure(self, truth: Truth, keep: Keep | None = None) -> ImageRecord:
        """What the image contributes; one without anything to find is segmented only for `keep`."""
        if truth.is_void and keep is None:
            return ImageRecord(truth.name, is_void=True, size=truth.size)
        began = time.perf_counter()
        predicted, overlaps, panoptic = self._segment(truth, self._prompt)
        seconds = 0.0 if self._oracle else time.perf_counter() - began
        masks, logits = predicted.mask_logits[0], predicted.class_logits[0]
        labels = semantic_map(masks, logits, self.vocabulary, truth.size)
        kept = keep(truth, panoptic, labels) if keep else None
        counts_things = truth.is_panoptic and self._detections
        detections = detected_instances(masks, logits, self.vocabulary, truth.size) if counts_things else ()
        if truth.is_void:
            return ImageRecord(truth.name, is_void=True, size=truth.size, detections=detections, kept=kept)
        pixels = MeanIoU(NO_CATEGORY)
        pixels.add(labels, truth.labels)
        classified = named_rightly(truth, logits) if self._oracle == "masks" else (0, 0)
        record = ImageRecord(
            truth.name, size=truth.size, pixels=pixels.counts(), classified=classified, seconds=seconds, kept=kept
        )
        if not truth.is_panoptic:
            return record
        is_counted = (predicted.objectness[0] >= self._min_objectness).cpu().numpy()  # (Q,)
        proposed = (overlaps or _overlaps(masks, truth)).of_masks(is_counted)
        _, final = segment_overlaps(panoptic.segment_ids, truth.without_crowd())
        found, true = (panoptic.segment_ids, _categories(panoptic)), (truth.segment_ids, truth.categories)
        return replace(
            record,
            quality=_quality(truth, panoptic),
            unnamed=_quality(truth, panoptic, named=False),
            renamed={name: _quality(truth, self._segment(truth, p)[2]) for name, p in self._renamed.items()},
            recall=(len(final.segment_ids), proposed.covered(0.5), proposed.covered(0.75), final.covered(0.5)),
            confusion=tuple((*pair, n) for pair, n in confusion_pairs(*found, *true, truth.crowd_ids).items()),
            detections=detections,
            instances=true_instances(truth, self.vocabulary) if counts_things else (),
        )

    def segments(self, truth: Truth) -> tuple[np.ndarray, Mapping[int, int]]:
        """What is found in the image: ids (H, W), 0 = void, and their categories; see `regions` without instances."""
        predicted, _, panoptic = self._segment(truth, self._prompt)
        if truth.is_panoptic:
            return panoptic.segment_ids, _categories(panoptic)
        masks, logits = predicted.mask_logits[0], predicted.class_logits[0]
        return regions(semantic_map(masks, logits, self.vocabulary, truth.size))

    def _segment(self, truth: Truth, prompt: Prompt) -> tuple[Prediction, MaskOverlaps | None, PanopticResult]:
        """As `PanopticSegmenter.segment` does, but for the oracle's part; the overlaps only if it needed them."""
        overlaps = None
        if self._oracle == "masks":
            predicted = self._with_true_masks(truth, prompt)
        else:
            predicted = self.segmenter.predict([truth.image], prompt)
        if self._oracle == "classes":
            overlaps = _overlaps(predicted.mask_logits[0], truth)
            logits = true_classes(truth, overlaps, len(prompt.vocabulary.categories))
            predicted = replace(predicted, class_logits=logits.to(predicted.mask_logits.device))
        masks, logits = predicted.mask_logits[0], predicted.class_logits[0]
        return predicted, overlaps, merge_panoptic(masks, logits, prompt.vocabulary, truth.size, self._merge)

    @torch.inference_mode()
    def _with_true_masks(self, truth: Truth, prompt: Prompt) -> Prediction:
        """What the second stage says of the true masks."""
        model = self.segmenter.model
        assert isinstance(model, TwoStage) and isinstance(prompt, TwoStagePrompt)  # as `resolved` says
        pixels = self.segmenter.to_pixels([truth.image])
        return model.classify(pixels, true_proposals(truth, model.propose(pixels, prompt)), prompt)


@torch.inference_mode()
def semantic_map(
    mask_logits: Tensor, class_logits: Tensor, vocabulary: Vocabulary, size: tuple[int, int]
) -> np.ndarray:
    """The category with the highest score at every pixel.

    A category's score at a pixel is the sum over queries of its probability times the mask probability. "No object" has
    its share in the softmax but is no category. Scores exist at the output's resolution before the highest is taken;
    labels are never resized.

    Args:
        mask_logits, class_logits, vocabulary: as of `detected_instances`; masks are resized bilinearly.
        size: (H, W) of the output in pixels.

    Returns:
        (H, W) uint16 category ids; `NO_CATEGORY` where every score is zero, or where a negative has the highest.
    """
    probabilities = class_logits.float().softmax(dim=-1)[:, :-1].nan_to_num(nan=0.0)  # (Q, K)
    counts = probabilities.sum(dim=1) > 0
    probabilities, mask_logits = probabilities[counts], mask_logits[counts]
    output = np.full(size, NO_CATEGORY, dtype=np.uint16)
    if len(probabilities) == 0:
        return output
    ids = [NO_CATEGORY if category.negative else category.id for category in vocabulary.categories]
    id_of_index = np.array(ids, dtype=np.uint16)
    band_height = max(1, _BAND_ELEMENTS // (max(probabilities.shape) * size[1]))
    rows, columns = (
        Axis.resized(cells, pixels, mask_logits.device)
        for cells, pixels in zip(mask_logits.shape[1:], size, strict=True)
    )
    for top in range(0, size[0], band_height):
        logits = upsampled(mask_logits, rows.of(slice(top, top + band_height)), columns)
        scores = torch.einsum("qk,qrw->krw", probabilities, logits.sigmoid_())  # (K, rows, W)
        best, index = scores.max(dim=0)
        band = id_of_index[index.cpu().numpy()]
        band[(best <= 0).cpu().numpy()] = NO_CATEGORY
        output[top : top + len(band)] = band
    return output


def _quality(truth: Truth, panoptic: PanopticResult, *, named: bool = True) -> tuple[CategoryCounts, ...]:
    """Counts of each category; without names, of all segments as one category, 0."""
    found = _categories(panoptic)
    if not named:
        found, truth = dict.fromkeys(found, 0), truth.without_names()
    quality = PanopticQuality()
    quality.add(panoptic.segment_ids, found, truth.segment_ids, truth.categories, truth.crowd_ids, truth.areas)
    return quality.counts()


def _categories(panoptic: PanopticResult) -> dict[int, int]:
    return {segment.id: segment.category_id for segment in panoptic.segments}


def _overlaps(mask_logits: Tensor, truth: Truth) -> MaskOverlaps:
    return mask_overlaps(upsampled_masks(mask_logits, truth.size), truth.without_crowd())
