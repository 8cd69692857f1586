"""Moving objects, and where everything truly is."""

import numpy as np
import pytest

from ovseg_ros.sim.motion import moving_frames
from ovseg_ros.sim.scene import CameraPose
from ovseg_ros.sim.simulator import TabletopSimulator
from ovseg_ros.sim.spatial_truth import optical_frame


def test_a_take_moves_objects_and_names_them_the_same_in_every_frame() -> None:
    with TabletopSimulator(3, width=160, height=120) as simulator:
        count = len(simulator.scene.objects)
        before = np.array([simulator.object_position(index) for index in range(count)])
        takes = list(moving_frames(simulator, seconds=4.0, rate=2.0, seed=3))
        after = np.array([simulator.object_position(index) for index in range(count)])
        labels = [item.label for item in simulator.scene.objects]
    assert [time for time, _ in takes] == [0.5 * number for number in range(8)]
    moved = np.linalg.norm(after - before, axis=1)
    assert moved.max() > 0.03
    for _, frame in takes:
        things = [segment for segment in frame.segments if segment.is_thing]
        assert all(labels[segment.object_index] == segment.label for segment in things)
        assert len({segment.object_index for segment in things}) == len(things) >= 1
        assert all(segment.object_index == -1 for segment in frame.segments if not segment.is_thing)


def test_what_happens_does_not_depend_on_the_rate() -> None:
    positions = []
    for rate in (1.0, 4.0):
        with TabletopSimulator(5, width=64, height=48) as simulator:
            for _ in moving_frames(simulator, seconds=3.0 + 1 / rate, rate=rate, seed=5):
                pass
            positions.append([simulator.object_position(index) for index in range(len(simulator.scene.objects))])
    np.testing.assert_array_equal(*positions)


def test_axes_of_the_optical_frame() -> None:
    """A camera 2 m behind the origin in -x, level, looking along +x: x is right (-y), y is down, z is +x."""
    position, axes = optical_frame(CameraPose((0, 0, 0), 2.0, 0.0, 0.0, 45.0))
    np.testing.assert_allclose(position, [-2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(axes, [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)


def test_true_poses_agree_with_the_picture() -> None:
    """Rays and renderer see the same objects at the same pixels and depths."""
    with TabletopSimulator(3, width=160, height=120) as simulator:
        frame, poses = simulator.render(), simulator.object_poses(simulator.scene.camera)
    pixels = {s.object_index: np.count_nonzero(frame.segment_ids == s.id) for s in frame.segments if s.is_thing}
    assert {pose.object_index for pose in poses if pose.pixels} >= pixels.keys()
    for index, count in pixels.items():
        pose = poses[index]
        assert pose.pixels == pytest.approx(count, rel=0.05, abs=8)
        column, row = (frame.camera_matrix @ (pose.surface_centroid / pose.surface_centroid[2]))[:2]
        assert 0 <= column < 160 and 0 <= row < 120
        # The middle of the object lies behind its visible surface, by no more than its size.
        assert 0 < pose.centre[2] - pose.surface_centroid[2] < np.linalg.norm(pose.size)
        np.testing.assert_allclose(pose.rotation.T @ pose.rotation, np.eye(3), atol=1e-9)
