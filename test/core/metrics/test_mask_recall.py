"""Class-agnostic mask recall by hand."""

import math

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.mask_recall import MaskRecall
from ovseg_ros.core.metrics.overlaps import mask_overlaps, segment_overlaps


def row(*ids):
    return np.array([ids], dtype=np.uint16)


def masks(*rows):
    return np.array(rows, dtype=bool)[:, None, :]


def add(recall, overlaps):
    recall.add(overlaps.covered(0.5), len(overlaps.segment_ids))


def test_overlapping_masks_each_find_their_segment_and_one_half_is_enough():
    recall = MaskRecall()
    add(recall, mask_overlaps(masks([1, 0, 0, 0, 0], [1, 1, 1, 1, 1]), row(1, 1, 2, 2, 2)))
    assert recall.result() == 100.0
    recall = MaskRecall()
    add(recall, mask_overlaps(masks([1, 0, 0, 0, 0]), row(1, 1, 2, 2, 2)))
    assert recall.result() == 50.0


def test_void_pixels_do_not_count_against_a_mask():
    recall = MaskRecall()
    add(recall, mask_overlaps(masks([1, 1, 1, 1]), row(1, 0, 0, 0)))
    assert recall.result() == 100.0


def test_no_masks_no_segments_and_no_images():
    recall = MaskRecall()
    assert math.isnan(recall.result())
    assert all(math.isnan(end) for end in recall.confidence_interval())
    add(recall, mask_overlaps(np.zeros((0, 1, 2), dtype=bool), row(0, 0)))
    assert math.isnan(recall.result())
    add(recall, mask_overlaps(np.zeros((0, 1, 2), dtype=bool), row(1, 1)))
    assert recall.result() == 0.0


def test_final_segments_are_masks_too():
    recall = MaskRecall()
    add(recall, segment_overlaps(row(9, 9, 0, 4), row(1, 1, 2, 2))[1])
    add(recall, segment_overlaps(row(0, 0), row(1, 2))[1])
    assert recall.result() == 50.0
    low, high = recall.confidence_interval(seed=1)
    assert 0.0 <= low <= 50.0 <= high <= 100.0
    assert (low, high) == recall.confidence_interval(seed=1)


def test_masks_of_another_resolution_are_refused():
    with pytest.raises(DatasetError, match="must be"):
        mask_overlaps(np.zeros((1, 2, 2), dtype=bool), row(1, 1))
