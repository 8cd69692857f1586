"""Run-length codes of segments against pycocotools' own of the whole image."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from pycocotools import mask

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.run_length import mask_codes
from ovseg_ros.core.types import Segment


def segments_of(ids: np.ndarray) -> list[Segment]:
    found = []
    for value in np.unique(ids[ids > 0]).tolist():
        rows, columns = np.nonzero(ids == value)
        box = (int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
        found.append(Segment(value, 0, "cup", 1.0, True, len(rows), box))
    return found


def assert_codes_are_pycocotools(ids: np.ndarray) -> None:
    codes = mask_codes(ids, segments_of(ids))
    whole = [np.asfortranarray(ids == segment.id, np.uint8) for segment in segments_of(ids)]
    assert codes == [mask.encode(pixels)["counts"].decode() for pixels in whole]


@settings(deadline=None, max_examples=300)
@given(stn.arrays(np.uint16, stn.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3)))
def test_codes_of_any_map(ids: np.ndarray) -> None:
    assert_codes_are_pycocotools(ids)


@pytest.mark.parametrize("size", [(3, 5), (480, 640), (1080, 1920)])
@pytest.mark.parametrize("part", [np.s_[:], np.s_[1:-1, 1:-1], np.s_[:, :1], np.s_[:, -1:], np.s_[:1], np.s_[-1:]])
def test_codes_at_edges_of_small_and_large_images(size: tuple[int, int], part) -> None:
    ids = np.zeros(size, np.uint16)
    ids[part] = 65535
    assert_codes_are_pycocotools(ids)


def test_a_code_decodes_to_the_whole_images_mask() -> None:
    ids = np.zeros((4, 6), np.uint16)
    ids[1:3, 2:5], ids[0, 0] = 7, 2
    for segment, code in zip(segments_of(ids), mask_codes(ids, segments_of(ids)), strict=True):
        np.testing.assert_array_equal(mask.decode({"size": [4, 6], "counts": code.encode()}), ids == segment.id)


def test_without_pycocotools_the_remedy_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(ConfigError, match="pip install pycocotools"):
        mask_codes(np.ones((2, 2), np.uint16), [])
