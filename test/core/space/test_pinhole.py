"""Rays, back-projection and resolutions, against numbers worked out by hand."""

import numpy as np
import pytest

from ovseg_ros.core.errors import DepthError
from ovseg_ros.core.space.pinhole import Pinhole, fit_depth


def camera(width: int = 4, height: int = 3) -> Pinhole:
    return Pinhole(fx=2.0, fy=4.0, cx=1.0, cy=2.0, width=width, height=height)


def test_rays_are_x_and_y_at_depth_1() -> None:
    columns, rows = camera().rays()
    assert columns.tolist() == [-0.5, 0.0, 0.5, 1.0]
    assert rows.tolist() == [-0.5, -0.25, 0.0]
    assert columns.dtype == rows.dtype == np.float32


def test_projection_inverts_back_projection() -> None:
    columns, rows = camera().rays()
    points = np.array([[columns[3] * 5, rows[0] * 5, 5.0], [columns[0] * 0.5, rows[2] * 0.5, 0.5]])
    assert [list(values) for values in camera().project(points)] == [[3, 0], [0, 2]]


def test_at_twice_the_resolution_a_pixel_becomes_four() -> None:
    double = camera().resized(8, 6)
    assert (double.fx, double.fy) == (4.0, 8.0)
    # Pixel 1, whose centre is the optical axis, becomes pixels 2 and 3, and the axis lies between their centres.
    assert (double.cx, double.cy) == (2.5, 4.5)
    assert double.resized(4, 3) == camera()
    assert camera().resized(4, 3) is not None


def test_another_aspect_ratio_is_another_view() -> None:
    with pytest.raises(DepthError, match="4x3 pixels and the image has 8x8: another aspect ratio"):
        camera().resized(8, 8)


def test_a_crop_moves_the_principal_point() -> None:
    assert camera().cropped(1, 2, 2, 1) == Pinhole(2.0, 4.0, 0.0, 0.0, 2, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 1.0, 1.0, 1.0, 2, 2), "not calibrated: fx 0.0"),
        ((1.0, float("nan"), 1.0, 1.0, 2, 2), "not calibrated"),
        ((1.0, 1.0, float("inf"), 1.0, 2, 2), "not calibrated"),
        ((1.0, 1.0, 1.0, 1.0, 0, 2), "0x2 pixels"),
    ],
)
def test_an_uncalibrated_camera_is_refused(values: tuple[float, float, float, float, int, int], message: str) -> None:
    with pytest.raises(DepthError, match=message):
        Pinhole(*values)


def test_depth_is_resized_by_the_nearest_reading() -> None:
    depth = np.array([[1.0, 2.0], [3.0, np.nan]], dtype=np.float32)
    assert fit_depth(depth, 2, 2) is depth
    np.testing.assert_array_equal(
        fit_depth(depth, 4, 4), [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, np.nan, np.nan], [3, 3, np.nan, np.nan]]
    )
    assert fit_depth(np.arange(16, dtype=np.float32).reshape(4, 4), 2, 2).tolist() == [[5, 7], [13, 15]]
    with pytest.raises(DepthError, match="depth has 2x2 pixels and the image 4x2"):
        fit_depth(depth, 4, 2)
