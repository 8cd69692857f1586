"""One image through the segmenter, and what it contributes to every figure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.merge import merge_panoptic
from ovseg_ros.core.metrics.confusion import confusion_pairs
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.overlaps import MaskOverlaps, mask_overlaps
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.model import Prompt, TwoStage
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Prediction
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.evaluate.instances import Instance, detected_instances, true_instances, upsampled_masks
from ovseg_ros.offline.evaluate.oracle import Oracle, true_classes, true_proposals
from ovseg_ros.offline.evaluate.record import ImageRecord
from ovseg_ros.offline.evaluate.semantic import semantic_map
from ovseg_ros.offline.evaluate.truth import Truth


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """What was predicted for one image.

    Attributes:
        panoptic: the merged segments.
        semantic: (H, W) uint16 category ids, from all masks and scores.
        detections: things, for average precision; empty where the truth has no instances.
        overlaps: of the proposals with the truth without its crowd regions.
        classified: see `ImageRecord`.
    """

    panoptic: PanopticResult
    semantic: np.ndarray
    detections: tuple[Instance, ...]
    overlaps: MaskOverlaps
    classified: tuple[int, int]


class Evaluator:
    """Measures a segmenter under one vocabulary, one image at a time.

    Args:
        segmenter: what is measured.
        prompt: its prepared vocabulary; category ids are the data set's category indices.
        oracle: which of its stages an oracle replaces; None for none.
    """

    def __init__(self, segmenter: PanopticSegmenter, prompt: Prompt, oracle: Oracle | None = None) -> None:
        self._segmenter = segmenter
        self._prompt = prompt
        self._oracle = oracle

    @property
    def vocabulary(self) -> Vocabulary:
        """What the segmenter is asked for."""
        return self._prompt.vocabulary

    def measure(self, truth: Truth) -> ImageRecord:
        """What the image contributes; an image without anything to find is not segmented."""
        if truth.is_void:
            return ImageRecord(truth.name, is_void=True, size=truth.size)
        return record_of(truth, self.predict(truth), [c.is_thing for c in self.vocabulary.categories])

    def predict(self, truth: Truth) -> ImagePrediction:
        """Segment the image; the truth beyond the image is read by an oracle and for the overlaps only."""
        vocabulary, merge = self.vocabulary, self._segmenter.merge
        without_crowd = truth.without_crowd()
        classified = (0, 0)
        if self._oracle == "masks":
            predicted, categories = self._with_true_masks(truth)
            classified = len(categories), _hits(predicted, categories)
        else:
            predicted = self._segmenter.predict([truth.image], self._prompt)
        overlaps = _overlaps(predicted.mask_logits[0], without_crowd)
        masks, logits = predicted.mask_logits[0], predicted.class_logits[0]
        if self._oracle == "classes":
            logits = true_classes(truth, overlaps, len(vocabulary.categories))[0].to(masks.device)
            merge = replace(merge, object_threshold=0.0)
        return ImagePrediction(
            merge_panoptic(masks, logits, vocabulary, truth.size, merge),
            semantic_map(masks, logits, vocabulary, truth.size),
            detected_instances(masks, logits, vocabulary, truth.size) if truth.is_panoptic else (),
            overlaps,
            classified,
        )

    @torch.inference_mode()
    def _with_true_masks(self, truth: Truth) -> tuple[Prediction, list[int]]:
        """What the second stage says of the true masks, and their categories."""
        model = self._segmenter.model
        if not isinstance(model, TwoStage):
            raise ConfigError("the oracle 'masks' is for models of two stages; this one makes and names masks at once")
        pixels = self._segmenter.to_pixels([truth.image])
        proposals, categories = true_proposals(truth, model.propose(pixels, self._prompt))
        return model.classify(pixels, proposals, self._prompt), categories


def record_of(truth: Truth, prediction: ImagePrediction, is_thing: Iterable[bool]) -> ImageRecord:
    """The counts of one image.

    Args:
        truth, prediction: of the image.
        is_thing: of each category index.
    """
    pixels = MeanIoU(NO_CATEGORY)
    pixels.add(prediction.semantic, truth.labels)
    record = ImageRecord(truth.name, size=truth.size, pixels=pixels.counts(), classified=prediction.classified)
    if not truth.is_panoptic:
        return record
    predicted_ids = prediction.panoptic.segment_ids
    predicted = {segment.id: segment.category_id for segment in prediction.panoptic.segments}
    quality = PanopticQuality()
    quality.add(predicted_ids, predicted, truth.segment_ids, truth.categories, truth.crowd_ids, truth.areas)
    best = prediction.overlaps.best_iou()
    found_50, found_75 = (int(np.count_nonzero(best >= threshold)) for threshold in (0.5, 0.75))
    return replace(
        record,
        quality=quality.per_category(),
        recall=(len(best), found_50, found_75),
        confusion=confusion_pairs(predicted_ids, predicted, truth.segment_ids, truth.categories, truth.crowd_ids),
        detections=prediction.detections,
        instances=true_instances(truth, list(is_thing)),
    )


def _overlaps(mask_logits: torch.Tensor, truth_ids: np.ndarray) -> MaskOverlaps:
    size = (truth_ids.shape[0], truth_ids.shape[1])
    return mask_overlaps(upsampled_masks(mask_logits, size), truth_ids)


def _hits(predicted: Prediction, categories: list[int]) -> int:
    """How many masks have the highest score, "no object" aside, at their true category."""
    best = predicted.class_logits[0, :, :-1].argmax(dim=-1).tolist()
    return sum(int(index == category) for index, category in zip(best, categories, strict=True))
