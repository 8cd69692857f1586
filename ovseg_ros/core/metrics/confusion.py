"""Which category is taken for which: true and predicted segments matched by their masks alone."""

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from ovseg_ros.core.metrics.overlaps import segment_overlaps


def confusion_pairs(
    predicted_ids: np.ndarray,
    predicted_categories: Mapping[int, int],
    truth_ids: np.ndarray,
    truth_categories: Mapping[int, int],
    crowd_ids: Collection[int] = frozenset(),
) -> Counter[tuple[int, int]]:
    """Count (true category, predicted category) over the segments of one image whose masks match.

    Masks match as in panoptic quality, IoU above 0.5 where void does not count, but whatever their categories; so each
    segment is in one pair at most. Crowd regions count as void. Segments without a partner are in no pair.

    Args:
        predicted_ids: (H, W) integer, 0 = void.
        predicted_categories: category of every id in `predicted_ids`.
        truth_ids: (H, W) integer, 0 = void.
        truth_categories: category of every id in `truth_ids`.
        crowd_ids: the true segments that are crowd regions.

    Raises:
        DatasetError: the maps differ in shape.
    """
    truth_ids = np.where(np.isin(truth_ids, list(crowd_ids)), 0, truth_ids)
    segments, overlaps = segment_overlaps(predicted_ids, truth_ids)
    predicted, truth = np.nonzero(overlaps.iou() > 0.5)
    return Counter(
        (truth_categories[int(overlaps.segment_ids[t])], predicted_categories[int(segments[p])])
        for p, t in zip(predicted, truth, strict=True)
    )
