"""How freely overlapping masks and true segments cover each other; pixels that the truth leaves void do not exist."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ovseg_ros.core.errors import DatasetError


@dataclass(frozen=True, slots=True)
class MaskOverlaps:
    """Pixel counts of Q masks and T true segments, over the pixels that the truth labels.

    Attributes:
        segment_ids: (T,) ids of the true segments, ascending.
        intersection: (Q, T) int64.
        mask_areas: (Q,) int64.
        segment_areas: (T,) int64, 1 or more.
    """

    segment_ids: np.ndarray
    intersection: np.ndarray
    mask_areas: np.ndarray
    segment_areas: np.ndarray

    def iou(self) -> np.ndarray:
        """(Q, T) float64 in [0, 1]."""
        union = self.segment_areas[None, :] + self.mask_areas[:, None] - self.intersection
        return self.intersection / np.maximum(union, 1)

    def best_iou(self) -> np.ndarray:
        """(T,) float64: of each true segment, the IoU of the mask that fits it best; 0 without masks."""
        return self.iou().max(axis=0, initial=0.0)

    def covered(self, threshold: float) -> int:
        """How many true segments some mask covers with an IoU of `threshold` or more."""
        return int(np.count_nonzero(self.best_iou() >= threshold))

    def of_masks(self, chosen: np.ndarray) -> "MaskOverlaps":
        """Those of some masks, chosen by a bool array (Q,)."""
        return replace(self, intersection=self.intersection[chosen], mask_areas=self.mask_areas[chosen])


def segment_overlaps(predicted_ids: np.ndarray, truth_ids: np.ndarray) -> tuple[np.ndarray, MaskOverlaps]:
    """Count for masks that do not overlap each other: the predicted segments (Q,), ascending, and their overlaps.

    Args:
        predicted_ids: (H, W) integer, 0 = void.
        truth_ids: (H, W) integer, 0 = void.

    Raises:
        DatasetError: the maps differ in shape.
    """
    predicted, truth, joint = joint_areas(predicted_ids, truth_ids)
    labelled = joint[:, 1:]
    return predicted[1:], MaskOverlaps(truth[1:], labelled[1:], labelled[1:].sum(axis=1), labelled.sum(axis=0))


def joint_areas(predicted_ids: np.ndarray, truth_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of every pair of a predicted and a true segment.

    Args:
        predicted_ids: (H, W) integer of 0 or more, 0 = void.
        truth_ids: (H, W), likewise.

    Returns:
        Ids of the prediction (P,) and of the truth (T,), ascending; the first of either is void, whether it occurs or
        not; and (P, T) int64 pixels.

    Raises:
        DatasetError: the maps differ in shape or are none.
    """
    if predicted_ids.shape != truth_ids.shape or predicted_ids.ndim != 2:
        raise DatasetError(
            f"the prediction is {predicted_ids.shape} and the truth is {truth_ids.shape}; they must agree, both the "
            "same (H, W): resize the prediction to the truth's resolution first"
        )
    (predicted, row), (truth, column) = _places(predicted_ids), _places(truth_ids)
    shape = (len(predicted), len(truth))
    joint = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1]).reshape(shape)
    return predicted, truth, joint


def _places(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Void and the ids that occur, ascending, and the place among them of every pixel."""
    values, index = np.unique(ids, return_inverse=True)
    index = index.reshape(-1)
    return (values, index) if values.size and values[0] == 0 else (np.insert(values, 0, 0), index + 1)


def mask_overlaps(masks: Iterable[np.ndarray], truth_ids: np.ndarray) -> MaskOverlaps:
    """Count.

    Args:
        masks: Q times (H, W) bool, such as an array (Q, H, W); Q may be 0.
        truth_ids: (H, W) integer, 0 = void.

    Raises:
        DatasetError: a mask is not at the truth's resolution.
    """
    labelled = truth_ids != 0
    values, index = np.unique(truth_ids[labelled], return_inverse=True)
    index = index.reshape(-1)
    intersection, mask_areas = [], []
    for mask in masks:
        if mask.shape != truth_ids.shape:
            raise DatasetError(f"masks must be {truth_ids.shape} as the truth, got {mask.shape}; resize them first")
        inside = mask[labelled]
        intersection.append(np.bincount(index[inside], minlength=len(values)))
        mask_areas.append(np.count_nonzero(inside))
    return MaskOverlaps(
        values,
        np.array(intersection, dtype=np.int64).reshape(len(mask_areas), len(values)),
        np.array(mask_areas, dtype=np.int64),
        np.bincount(index, minlength=len(values)),
    )
