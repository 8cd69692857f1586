"""Panoptic quality (Kirillov et al. 2019, "Panoptic Segmentation") by the rules of COCO's panopticapi.

A predicted segment and a true segment of the same category match when their IoU is above 0.5, where pixels of the
prediction that the truth leaves void do not count towards the union. Crowd regions are never matched and never missed.
An unmatched prediction is not a false positive when more than half of it lies on void or on crowd of its own category.
PQ, SQ and RQ are averaged over the categories that occur in the truth or in the predictions.

panopticapi remembers one crowd region a category and image, the last in the annotation's order, and so does this.

Sums are exact (`math.fsum`), so figures do not depend on the order in which images or parts of a data set are added.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.bootstrap import bootstrap_interval
from ovseg_ros.core.metrics.overlaps import joint_areas

VOID = 0
"""Segment id of pixels that belong to no segment."""

_TP, _FP, _FN, _IOU = range(4)

CategoryCounts = tuple[int, int, int, int, float]
"""A category, and its tp, fp, fn and iou as in `CategoryQuality`."""


@dataclass(frozen=True, slots=True)
class CategoryQuality:
    """Counts of one category over all images.

    Attributes:
        tp, fp, fn: matched pairs, unmatched predictions, unmatched true segments.
        iou: sum of the IoU of the matched pairs.
    """

    tp: int
    fp: int
    fn: int
    iou: float

    @property
    def pq(self) -> float:
        """Panoptic quality in percent; 0 when the category never occurred."""
        return self.sq * self.rq / 100.0

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matched pairs, in percent; 0 without a match."""
        return 100.0 * self.iou / self.tp if self.tp else 0.0

    @property
    def rq(self) -> float:
        """Recognition quality: F1 of the matches, in percent; 0 when the category never occurred."""
        return 100.0 * self.tp / (self.tp + 0.5 * self.fp + 0.5 * self.fn) if self.tp else 0.0


@dataclass(frozen=True, slots=True)
class QualityResult:
    """Averages over categories, in percent; NaN when `categories` is 0.

    Attributes:
        pq, sq, rq: panoptic, segmentation and recognition quality.
        categories: how many categories occurred (tp + fp + fn > 0) and were averaged.
    """

    pq: float
    sq: float
    rq: float
    categories: int


class PanopticQuality:
    """Accumulates panoptic quality, one image at a time.

    The counts are kept by image, so that `confidence_interval` can resample images.
    """

    def __init__(self) -> None:
        # One entry an image: categories (n,) int64 and counts (n, 4) float64 in the order _TP, _FP, _FN, _IOU.
        self._images: list[tuple[np.ndarray, np.ndarray]] = []

    @property
    def images(self) -> int:
        """How many images were added."""
        return len(self._images)

    def add(
        self,
        predicted_ids: np.ndarray,
        predicted_categories: Mapping[int, int],
        truth_ids: np.ndarray,
        truth_categories: Mapping[int, int],
        crowd_ids: Collection[int] = frozenset(),
        truth_areas: Mapping[int, int] | None = None,
    ) -> None:
        """Match one image's segments and add the counts.

        Args:
            predicted_ids: (H, W) integer, segment id of every pixel, 0 = void.
            predicted_categories: category of every id in `predicted_ids`, and of no other.
            truth_ids: (H, W) integer, 0 = void.
            truth_categories: category of every id in `truth_ids`, in the annotation's order. An id without pixels
                counts as missed.
            crowd_ids: the keys of `truth_categories` that are crowd regions.
            truth_areas: pixels of every id as its annotation declares them, which panopticapi takes for the union even
                where the map has others; None counts them in the map.

        Raises:
            DatasetError: the maps differ in shape, are not integer, or disagree with the categories given for them.
        """
        unknown_crowd = set(crowd_ids) - set(truth_categories)
        if unknown_crowd:
            raise DatasetError(f"crowd ids {sorted(unknown_crowd)} are not among the truth's segments")
        predicted_segments, truth_segments, joint = joint_areas(predicted_ids, truth_ids)
        predicted_segments, truth_segments, overlap = predicted_segments[1:], truth_segments[1:], joint.T
        _check(predicted_segments, predicted_categories, "prediction")
        _check(truth_segments, truth_categories, "truth")
        without_pixels = set(predicted_categories) - set(predicted_segments.tolist())
        if without_pixels:
            raise DatasetError(f"predicted segments {sorted(without_pixels)} have a category but no pixel")

        # overlap[t, p] counts the pixels of truth t under prediction p; row 0 and column 0 are void.
        truth_area = overlap.sum(axis=1)[1:]  # (T,)
        if truth_areas is not None:
            truth_area = np.array([truth_areas[int(i)] for i in truth_segments], dtype=np.int64)
        predicted_area = overlap.sum(axis=0)[1:]  # (P,)
        on_void = overlap[0, 1:]  # (P,)
        intersection = overlap[1:, 1:]  # (T, P)

        truth_category = np.array([truth_categories[int(i)] for i in truth_segments], dtype=np.int64)
        predicted_category = np.array([predicted_categories[int(i)] for i in predicted_segments], dtype=np.int64)
        crowd = np.array([int(i) in crowd_ids for i in truth_segments], dtype=bool)
        same_category = truth_category[:, None] == predicted_category[None, :]

        union = truth_area[:, None] + predicted_area[None, :] - intersection - on_void[None, :]
        iou = intersection / np.maximum(union, 1)
        matched = same_category & ~crowd[:, None] & (iou > 0.5)  # at most one a row and a column, since IoU > 0.5
        last_crowd = {category: i for i, category in truth_categories.items() if i in crowd_ids}
        forgiving = np.isin(truth_segments, list(last_crowd.values()))  # (T,)
        on_own_crowd = np.where(same_category & forgiving[:, None], intersection, 0).sum(axis=0)
        ignored = (on_void + on_own_crowd) / predicted_area > 0.5
        missed = ~crowd & ~matched.any(axis=1)
        wrong = ~matched.any(axis=0) & ~ignored

        invisible_categories = [
            truth_categories[i] for i in set(truth_categories) - set(truth_segments.tolist()) - set(crowd_ids)
        ]
        categories = np.unique(
            np.concatenate([truth_category, predicted_category, np.array(invisible_categories, dtype=np.int64)])
        )
        counts = np.zeros((len(categories), 4))
        matched_truth, matched_prediction = np.nonzero(matched)
        matched_rows = np.searchsorted(categories, truth_category[matched_truth])
        np.add.at(counts[:, _TP], matched_rows, 1)
        np.add.at(counts[:, _IOU], matched_rows, iou[matched_truth, matched_prediction])
        np.add.at(counts[:, _FP], np.searchsorted(categories, predicted_category[wrong]), 1)
        np.add.at(counts[:, _FN], np.searchsorted(categories, truth_category[missed]), 1)
        np.add.at(counts[:, _FN], np.searchsorted(categories, invisible_categories).astype(np.intp), 1)
        self._images.append((categories, counts))

    def counts(self) -> tuple[CategoryCounts, ...]:
        """The sums of every category that was met, in the order of its id."""
        categories, counts = self._dense()
        return tuple(
            (int(k), int(row[_TP]), int(row[_FP]), int(row[_FN]), float(row[_IOU]))
            for k, row in zip(categories, _exact_sum(counts), strict=True)
        )

    def add_counts(self, counts: Sequence[CategoryCounts]) -> None:
        """Add one image by what `counts` gave where that image alone had been added."""
        table = np.array(counts, dtype=np.float64).reshape(-1, 5)
        self._images.append((table[:, 0].astype(np.int64), table[:, 1:]))

    def per_category(self) -> dict[int, CategoryQuality]:
        """`counts` by category."""
        return {k: CategoryQuality(tp, fp, fn, iou) for k, tp, fp, fn, iou in self.counts()}

    def result(self, categories: Collection[int] | None = None) -> QualityResult:
        """Averages over `categories`, or over all; those that never occurred are left out."""
        _, counts = self._dense(categories)
        pq, sq, rq, counted = _average(_exact_sum(counts)[None])
        return QualityResult(float(pq[0]), float(sq[0]), float(rq[0]), int(counted[0]))

    def confidence_interval(
        self, categories: Collection[int] | None = None, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Interval of PQ in percent, over `categories` as in `result`; see `bootstrap_interval`."""
        _, counts = self._dense(categories)
        return bootstrap_interval(
            lambda weights: _average(np.tensordot(weights, counts, axes=1))[0], len(counts), level, resamples, seed
        )

    def _dense(self, categories: Collection[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Categories met (K,) int64, restricted to `categories`, and their counts by image (N, K, 4) float64."""
        met = np.array(sorted({int(k) for ids, _ in self._images for k in ids}), dtype=np.int64)
        if categories is not None:
            met = met[np.isin(met, list(categories))]
        counts = np.zeros((len(self._images), len(met), 4))
        for image, (ids, rows) in enumerate(self._images):
            kept = np.isin(ids, met)
            counts[image, np.searchsorted(met, ids[kept])] = rows[kept]
        return met, counts


def _check(segments: np.ndarray, categories: Mapping[int, int], what: str) -> None:
    """Refuse ids (n,) of a map's segments, without void, that are not those of its categories."""
    if not np.issubdtype(segments.dtype, np.integer):
        raise DatasetError(f"segment ids of the {what} must be integers, got {segments.dtype}")
    unknown = [value for value in segments.tolist() if value not in categories]
    if unknown:
        raise DatasetError(f"pixels of the {what} carry segment ids {unknown[:10]} that have no category")
    if VOID in categories:
        raise DatasetError(f"the {what} gives segment id {VOID} a category, but {VOID} means void")
    if segments.size and segments.min() < VOID:
        raise DatasetError(f"segment ids of the {what} must be 0 or more, got {segments.min()}")


def _exact_sum(counts: np.ndarray) -> np.ndarray:
    """(N, K, 4) summed over images to (K, 4); the sums of IoU are correctly rounded, whatever the order."""
    total = counts.sum(axis=0)
    for k in range(counts.shape[1]):
        total[k, _IOU] = math.fsum(counts[:, k, _IOU])
    return total


def _average(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """PQ, SQ, RQ in percent and the number of categories counted, each (S,), from counts (S, K, 4).

    A category counts where tp + fp + fn > 0; averages are NaN where none does.
    """
    tp, fp, fn, iou = (counts[..., i] for i in (_TP, _FP, _FN, _IOU))
    weight = tp + 0.5 * fp + 0.5 * fn
    occurs = weight > 0
    rq = np.divide(tp, weight, out=np.zeros_like(tp), where=occurs)
    sq = np.divide(iou, tp, out=np.zeros_like(tp), where=tp > 0)
    counted = occurs.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        pq_mean, sq_mean, rq_mean = (100.0 * value.sum(axis=-1) / counted for value in (sq * rq, sq, rq))
    return pq_mean, sq_mean, rq_mean, counted
