"""Mean IoU by hand."""

import math

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.mean_iou import MeanIoU

VOID = 65535


def row(*ids):
    return np.array([ids], dtype=np.uint16)


def test_counts_are_taken_over_all_images():
    miou = MeanIoU(VOID)
    miou.add(row(1, 1, 2), row(1, 2, 2))
    miou.add(row(1, 1, 1), row(1, 1, 1))
    assert miou.per_category() == {1: pytest.approx(80.0), 2: pytest.approx(50.0)}
    assert miou.result() == pytest.approx(65.0)
    assert miou.result({2, 9}) == pytest.approx(50.0)


def test_void_truth_is_ignored_and_void_prediction_is_an_error():
    miou = MeanIoU(VOID)
    miou.add(row(3, 1, VOID), row(VOID, 1, 1))
    assert miou.per_category() == {1: pytest.approx(50.0)}


def test_no_pixels_is_nan():
    assert math.isnan(MeanIoU(VOID).result())


def test_different_shapes_are_refused():
    with pytest.raises(DatasetError, match="agree"):
        MeanIoU(VOID).add(row(1, 1), row(1))


def test_categories_without_a_true_pixel_count_or_not_as_asked():
    miou = MeanIoU(VOID)
    miou.add(row(1, 2), row(1, 1))
    assert miou.result() == pytest.approx(25.0)
    assert miou.result(only_in_truth=True) == pytest.approx(50.0)


def test_counts_travel():
    miou, copy = MeanIoU(VOID), MeanIoU(VOID)
    miou.add(row(1, 1, 2, VOID), row(1, 2, 3, 3))
    copy.add_counts(miou.counts())
    assert miou.counts() == copy.counts() == {1: (1, 2, 1), 2: (0, 1, 1), 3: (0, 0, 2)}
    assert copy.result(only_in_truth=True) == miou.result(only_in_truth=True)
