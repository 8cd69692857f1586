"""A region of interest: what is cut out, and where it is put back."""

import numpy as np
import pytest

from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.region import Region
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment


def result_of(height: int, width: int) -> PanopticResult:
    """One segment over everything."""
    return PanopticResult(
        segment_ids=np.ones((height, width), np.uint16),
        category_ids=np.full((height, width), 7, np.uint16),
        confidence=np.full((height, width), 200, np.uint8),
        segments=(Segment(1, 7, "cup", 0.8, True, height * width, (0, 0, width, height)),),
        vocabulary_version=3,
    )


@pytest.mark.parametrize(
    ("region", "rows", "columns"),
    [
        (Region(), (0, 10), (0, 20)),
        (Region(4, 2, 5, 3), (2, 5), (4, 9)),
        (Region(4, 2), (2, 10), (4, 20)),
        (Region(0, 9, 0, 0), (9, 10), (0, 20)),
        (Region(15, 8, 100, 100), (8, 10), (15, 20)),
        (Region(0, 0, 1, 1), (0, 1), (0, 1)),
    ],
)
def test_crop_and_place_agree(region: Region, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    image = np.arange(10 * 20 * 3).reshape(10, 20, 3).astype(np.uint8)
    part = region.crop(image)
    np.testing.assert_array_equal(part, image[slice(*rows), slice(*columns)])
    placed = region.place(result_of(*part.shape[:2]), image.shape[:2])
    inside = np.zeros((10, 20), dtype=bool)
    inside[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(placed.segment_ids, inside)
    np.testing.assert_array_equal(placed.category_ids, np.where(inside, 7, NO_CATEGORY))
    np.testing.assert_array_equal(placed.confidence, np.where(inside, 200, 0))
    assert placed.segments[0].box == (columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
    assert (placed.segments[0].area, placed.vocabulary_version) == (inside.sum(), 3)


def test_without_segments_all_is_void() -> None:
    nothing = PanopticResult(
        np.zeros((2, 2), np.uint16), np.full((2, 2), NO_CATEGORY, np.uint16), np.zeros((2, 2), np.uint8), (), 1
    )
    placed = Region(1, 1, 2, 2).place(nothing, (4, 4))
    assert placed.segment_ids.shape == (4, 4) and not placed.segment_ids.any() and not placed.segments
    assert (placed.category_ids == NO_CATEGORY).all()


@pytest.mark.parametrize("region", [Region(20, 0, 5, 5), Region(0, 10), Region(100, 100, 1, 1)])
def test_a_region_outside_the_image_is_refused_with_both_sizes(region: Region) -> None:
    with pytest.raises(ImageError, match="20x10"):
        region.crop(np.zeros((10, 20, 3), np.uint8))


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ImageError, match="negative"):
        Region(-1, 0, 5, 5)
