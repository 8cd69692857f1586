"""Segments in 3D on scenes whose geometry is known exactly."""

import numpy as np
import pytest

from ovseg_ros.core.errors import DepthError
from ovseg_ros.core.space.pinhole import Pinhole
from ovseg_ros.core.space.planes import find_planes
from ovseg_ros.core.space.segments import SegmentGeometry, measure_segments

WIDTH, HEIGHT = 160, 120
CAMERA = Pinhole(150.0, 150.0, 79.5, 59.5, WIDTH, HEIGHT)


def wall(depth: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A wall across the view, with a segment of 40x20 pixels in it."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    ids[30:50, 60:100] = 7
    return np.full((HEIGHT, WIDTH), depth, np.float32), ids


def box_on_a_table(size: tuple[float, float, float] = (0.1, 0.06, 0.08)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, segments (1 = box, 2 = table) and the box's true middle, by intersecting every ray with both."""
    tilt = np.deg2rad(40)
    up = np.array([0, -np.cos(tilt), -np.sin(tilt)])
    away = np.array([0, -np.sin(tilt), np.cos(tilt)])
    side = np.cross(away, up)
    turn = np.deg2rad(25)
    axes = np.stack([np.cos(turn) * side + np.sin(turn) * away, np.cos(turn) * away - np.sin(turn) * side, up], axis=-1)
    table_point = np.array([0, 0, 0.7])
    middle = table_point + up * size[2] / 2
    columns, rows = CAMERA.rays()
    rays = np.stack(np.broadcast_arrays(columns[None, :], rows[:, None], np.float32(1)), axis=-1).astype(np.float64)
    table = (table_point @ up) / (rays @ up)
    table[table <= 0] = np.inf
    origin, direction = -middle @ axes, rays @ axes
    with np.errstate(divide="ignore"):
        first, second = (sign * np.array(size) / 2 - origin for sign in (-1, 1))
        near = np.minimum(first / direction, second / direction).max(axis=-1)
        far = np.maximum(first / direction, second / direction).min(axis=-1)
    is_box = (near <= far) & (near > 0) & (near < table)
    depth = np.where(is_box, near, table)
    ids = np.where(is_box, 1, np.where(np.isfinite(table), 2, 0)).astype(np.uint16)
    return np.where(np.isfinite(depth), depth, 0).astype(np.float32), ids, middle


def only(measured: list[SegmentGeometry], segment_id: int) -> SegmentGeometry:
    return next(segment for segment in measured if segment.id == segment_id)


def test_a_flat_segment() -> None:
    depth, ids = wall()
    (measured,) = measure_segments(depth, CAMERA, ids, {7})
    assert (measured.id, measured.points, measured.depth) == (7, 800, 2.0)
    # Columns 60 to 99 and rows 30 to 49: the middle is (79.5, 39.5), 20 rows above the optical axis.
    np.testing.assert_allclose(measured.centroid, [0, -20 * 2 / 150, 2], atol=1e-9)
    assert not measured.is_supported  # it is part of the wall, it does not stand on it


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_readings_that_are_none_do_not_count(bad: float) -> None:
    depth, ids = wall()
    depth[30:50, 60:70] = bad
    (measured,) = measure_segments(depth, CAMERA, ids, {7})
    assert (measured.points, measured.depth) == (600, 2.0)
    assert np.isfinite(measured.centroid).all() and np.isfinite(measured.box.size).all()


def test_flying_pixels_move_nothing() -> None:
    depth, ids = wall()
    depth[30:50, 60] = np.linspace(2, 8, 20)  # at the edge, as a sensor that mixes two surfaces gives them
    depth[40, 80] = 0.3  # and a single wrong reading inside
    (measured,) = measure_segments(depth, CAMERA, ids, {7})
    assert measured.depth == 2.0
    np.testing.assert_allclose(measured.centroid, [0, -20 * 2 / 150, 2], atol=2e-3)
    assert np.max(measured.box.size) < 40 * 2 / 150


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_box_on_a_table(scale: float) -> None:
    """Its hidden lower and back faces are completed: at the scale of a table and of a room."""
    size = (0.1, 0.06, 0.08)
    depth, ids, middle = box_on_a_table(size)
    measured = only(measure_segments(depth * np.float32(scale), CAMERA, ids, {1}), 1)
    assert measured.is_supported
    assert np.linalg.norm(measured.box.centre / scale - middle) < 0.006  # a pixel is 4.5 mm wide there
    np.testing.assert_allclose(measured.box.size / scale, size, atol=0.01)
    np.testing.assert_allclose(measured.box.rotation.T @ measured.box.rotation, np.eye(3), atol=1e-9)
    assert np.linalg.det(measured.box.rotation) == pytest.approx(1)
    assert np.linalg.norm(measured.centroid / scale - middle) > 0.01  # the visible surface alone would mislead


def test_with_noise_as_of_a_sensor() -> None:
    depth, ids, middle = box_on_a_table()
    noisy = depth + np.random.default_rng(0).normal(scale=0.002, size=depth.shape).astype(np.float32)
    noisy[np.random.default_rng(1).random(depth.shape) < 0.2] = 0
    measured = only(measure_segments(noisy, CAMERA, ids, {1}), 1)
    assert np.linalg.norm(measured.box.centre - middle) < 0.008


def test_millions_of_readings_of_one_thing_are_thinned() -> None:
    ids = np.ones((1200, 1600), np.uint16)
    depth = np.full(ids.shape, 1.5, np.float32)
    camera = Pinhole(1500.0, 1500.0, 799.5, 599.5, 1600, 1200)
    (measured,) = measure_segments(depth, camera, ids, {1})
    assert measured.points == ids.size and measured.depth == pytest.approx(1.5)
    np.testing.assert_allclose(measured.centroid, [0, 0, 1.5], atol=0.02)


@pytest.mark.parametrize("segments", [0, 1, 40])
def test_any_number_of_segments(segments: int) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint16)
    for index in range(segments):
        row, column = divmod(index, 8)
        ids[row * 20 : row * 20 + 12, column * 20 : column * 20 + 15] = 65535 - index
    depth, _ = wall(1.0)
    measured = measure_segments(depth, CAMERA, ids, set())
    assert [segment.id for segment in measured] == sorted(65535 - index for index in range(segments))
    assert all(segment.points == 180 and segment.depth == 1.0 for segment in measured)


def test_too_few_readings_are_left_out() -> None:
    depth, ids = wall()
    ids[:] = 0
    ids[0, :5] = 1
    assert measure_segments(depth, CAMERA, ids, {1}) == []
    _, ids = wall()
    assert measure_segments(np.full_like(depth, np.nan), CAMERA, ids, {7}) == []


def test_a_line_of_pixels() -> None:
    """Without an inside, the edge is used: and a box may be flat."""
    depth, ids = wall()
    ids[:] = 0
    ids[60, 20:140] = 3
    (measured,) = measure_segments(depth, CAMERA, ids, {3})
    assert measured.points == 120 and np.isfinite(measured.box.rotation).all()


def test_sizes_that_differ_are_refused() -> None:
    depth, ids = wall()
    with pytest.raises(DepthError, match="the segment image \\(120, 160\\)"):
        measure_segments(depth[:60], CAMERA, ids, {7})


def test_planes_largest_first_and_towards_the_camera() -> None:
    rng = np.random.default_rng(0)
    floor = np.stack([rng.uniform(-1, 1, 900), np.full(900, 0.8), rng.uniform(1, 3, 900)], axis=-1)
    back = np.stack([rng.uniform(-1, 1, 400), rng.uniform(-1, 0.8, 400), np.full(400, 3.0)], axis=-1)
    clutter = rng.uniform(-1, 1, (80, 3)) + np.array([0, 0, 2])
    planes = find_planes(np.concatenate([floor, back, clutter]))
    assert len(planes) == 2
    np.testing.assert_allclose(planes[0].normal, [0, -1, 0], atol=0.02)
    np.testing.assert_allclose(planes[1].normal, [0, 0, -1], atol=0.02)
    assert [plane.offset for plane in planes] == pytest.approx([0.8, 3.0], abs=0.02)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_no_plane_in_a_few_points(count: int) -> None:
    assert find_planes(np.ones((count, 3))) == []


def test_no_plane_in_points_on_a_line() -> None:
    assert find_planes(np.linspace(0, 1, 50)[:, None] * [1.0, 2.0, 3.0]) == []
