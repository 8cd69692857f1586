"""Class-agnostic mask recall: the share of true segments that some predicted mask covers well enough."""

import numpy as np

from ovseg_ros.core.metrics.bootstrap import bootstrap_interval
from ovseg_ros.core.metrics.overlaps import mask_overlaps, segment_overlaps


class MaskRecall:
    """Recall of true segments, things and stuff alike, at one IoU threshold.

    A true segment is found when any predicted mask has IoU >= `threshold` with it. Masks may overlap.
    Pixels that the truth leaves void count neither for nor against a mask.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self._threshold = threshold
        self._found: list[int] = []
        self._segments: list[int] = []

    def add_masks(self, masks: np.ndarray, truth_ids: np.ndarray) -> None:
        """Add one image with freely overlapping masks.

        Args:
            masks: (Q, H, W) bool; Q may be 0.
            truth_ids: (H, W) integer, 0 = void.

        Raises:
            DatasetError: the masks are not at the truth's resolution.
        """
        self.add_best(mask_overlaps(masks, truth_ids).best_iou())

    def add_best(self, best_iou: np.ndarray) -> None:
        """Add one image by the best IoU (T,) that any mask has with each of its true segments."""
        self._found.append(int(np.count_nonzero(best_iou >= self._threshold)))
        self._segments.append(len(best_iou))

    def add_counts(self, found: int, segments: int) -> None:
        """Add one image by its number of found and of all true segments."""
        self._found.append(found)
        self._segments.append(segments)

    def add_segments(self, predicted_ids: np.ndarray, truth_ids: np.ndarray) -> None:
        """Add one image with predicted segments, whatever their category.

        Args:
            predicted_ids: (H, W) integer, 0 = void.
            truth_ids: (H, W) integer, 0 = void.

        Raises:
            DatasetError: the maps differ in shape.
        """
        self.add_best(segment_overlaps(predicted_ids, truth_ids)[1].best_iou())

    def merge(self, other: "MaskRecall") -> None:
        """Append the images of `other`."""
        self._found.extend(other._found)
        self._segments.extend(other._segments)

    def result(self) -> float:
        """Recall in percent over all segments of all images; NaN when there was none."""
        return 100.0 * sum(self._found) / sum(self._segments) if sum(self._segments) else float("nan")

    def confidence_interval(self, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Percentile-bootstrap interval in percent, resampling images; (NaN, NaN) when there was no segment."""
        found, segments = np.array(self._found), np.array(self._segments)
        return bootstrap_interval(
            lambda weights: 100.0 * (weights @ found) / (weights @ segments), len(found), level, resamples, seed
        )
