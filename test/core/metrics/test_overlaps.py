"""Overlaps by hand, and the fast way against the slow one."""

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.confusion import confusion_pairs
from ovseg_ros.core.metrics.overlaps import mask_overlaps, segment_overlaps


def row(*ids):
    return np.array([ids], dtype=np.int32)


def test_void_pixels_do_not_exist():
    overlaps = mask_overlaps(np.array([[[1, 1, 0, 0, 1]]], dtype=bool), row(5, 5, 5, 8, 0))
    assert overlaps.segment_ids.tolist() == [5, 8]
    assert overlaps.intersection.tolist() == [[2, 0]]
    assert overlaps.mask_areas.tolist() == [2] and overlaps.segment_areas.tolist() == [3, 1]
    assert overlaps.best_iou() == pytest.approx([2 / 3, 0])
    assert (overlaps.covered(2 / 3), overlaps.covered(0.67), overlaps.of_masks(np.array([False])).covered(0.5)) == (
        1,
        0,
        0,
    )


def test_no_masks_and_no_segments():
    assert mask_overlaps(np.zeros((0, 1, 2), dtype=bool), row(1, 2)).best_iou().tolist() == [0, 0]
    assert mask_overlaps(np.ones((3, 1, 2), dtype=bool), row(0, 0)).iou().shape == (3, 0)
    segments, overlaps = segment_overlaps(row(0, 0), row(0, 0))
    assert segments.size == overlaps.iou().size == 0


def test_segments_are_masks_that_do_not_overlap():
    generator = np.random.default_rng(0)
    for _ in range(10):
        predicted, truth = generator.integers(0, 5, (2, 6, 7)) * 1000
        segments, fast = segment_overlaps(predicted, truth)
        slow = mask_overlaps(predicted[None] == segments[:, None, None], truth)
        for name in ("segment_ids", "intersection", "mask_areas", "segment_areas"):
            assert np.array_equal(getattr(fast, name), getattr(slow, name))
    with pytest.raises(DatasetError, match="agree"):
        segment_overlaps(row(1), row(1, 1))


def test_confusion_pairs_match_masks_whatever_the_category():
    pairs = confusion_pairs(row(1, 1, 2, 2, 3), {1: 10, 2: 20, 3: 30}, row(7, 7, 8, 8, 8), {7: 20, 8: 20})
    assert pairs == {(20, 10): 1, (20, 20): 1}


def test_confusion_leaves_out_crowd_and_void():
    assert confusion_pairs(row(1, 1), {1: 10}, row(7, 7), {7: 20}, {7}) == {}
    assert confusion_pairs(row(1, 1, 1, 1), {1: 10}, row(7, 7, 0, 0), {7: 20}) == {(20, 10): 1}
    assert confusion_pairs(row(1, 0), {1: 10}, row(7, 7), {7: 20}) == {}  # exactly one half
