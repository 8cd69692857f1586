"""The simulated tabletop: exact, repeatable ground truth."""

from collections.abc import Callable

import numpy as np
import pytest

from ovseg_ros.sim.categories import SEEN, UNSEEN
from ovseg_ros.sim.makes import OTHER, USUAL, WIDE
from ovseg_ros.sim.scene import SPLITS, make_scene
from ovseg_ros.sim.shapes import MESHES, Mesh
from ovseg_ros.sim.simulator import Frame, TabletopSimulator, orbit


@pytest.fixture(scope="module")
def simulator() -> TabletopSimulator:
    with TabletopSimulator(3, split="test") as made:
        yield made


def test_a_frame_has_its_shapes_types_and_ground_truth(simulator: TabletopSimulator) -> None:
    frame = simulator.render()
    assert frame.image.shape == (240, 320, 3) and frame.image.dtype == np.uint8
    assert frame.depth.shape == (240, 320) and frame.depth.dtype == np.float32
    assert frame.segment_ids.shape == (240, 320) and frame.segment_ids.dtype == np.uint16
    assert {segment.id for segment in frame.segments} == set(np.unique(frame.segment_ids)) - {0}
    assert [segment.id for segment in frame.segments] == list(range(1, len(frame.segments) + 1))
    assert {segment.label for segment in frame.segments} <= SEEN | UNSEEN
    assert {s.label for s in frame.segments if not s.is_thing} <= {"table", "floor", "wall", "mat"}
    assert sum(segment.is_thing for segment in frame.segments) >= 2
    assert frame.image.std() > 10
    assert 0.2 < np.median(frame.depth) < 4.0


def test_the_same_seed_gives_the_same_frame(simulator: TabletopSimulator) -> None:
    with TabletopSimulator(3, split="test") as again:
        first, second = simulator.render(1.5), again.render(1.5)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.segment_ids, second.segment_ids)
    assert first.segments == second.segments


def test_the_camera_moves_and_the_scene_stays(simulator: TabletopSimulator) -> None:
    now, later = simulator.render(0.0), simulator.render(3.0)
    assert not np.array_equal(now.image, later.image)
    labels = [{segment.label for segment in frame.segments if segment.is_thing} for frame in (now, later)]
    assert len(labels[0] & labels[1]) >= 2
    assert orbit(simulator.scene.camera, 0.0) == simulator.scene.camera


def test_depth_and_intrinsics_put_the_table_on_a_plane(simulator: TabletopSimulator) -> None:
    """Back-projected table pixels are coplanar to a millimetre: depth, camera matrix and labels agree."""
    frame = simulator.render()
    table = next(segment.id for segment in frame.segments if segment.label == "table")
    rows, columns = np.nonzero(frame.segment_ids == table)
    depth = frame.depth[rows, columns]
    pixels = np.stack([columns, rows, np.ones_like(rows)]).astype(np.float64)
    points = (np.linalg.inv(frame.camera_matrix) @ pixels) * depth  # (3, N) metres, optical frame
    points = points - np.median(points, axis=1, keepdims=True)
    normal = np.linalg.svd(points @ points.T)[0][:, -1]
    assert np.median(np.abs(normal @ points)) < 1e-3


def test_other_sizes_show_the_same_view() -> None:
    def centre(frame: Frame) -> str:
        height, width = frame.segment_ids.shape
        labels = {segment.id: segment.label for segment in frame.segments}
        return labels.get(int(frame.segment_ids[height // 2, width // 2]), "void")

    with TabletopSimulator(3, width=160, height=120) as small:
        frame = small.render()
    assert frame.image.shape == (120, 160, 3)
    assert frame.camera_matrix[0, 2] == 79.5
    with TabletopSimulator(3) as normal:
        assert centre(frame) == centre(normal.render())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed of 0 or more"),
        ({"seed": 0, "split": "tset"}, "'tset'"),
        ({"seed": 0, "width": 8}, "8x240"),
        ({"seed": 0, "height": 4000}, "320x4000"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabletopSimulator(**arguments)


def test_training_scenes_show_seen_categories_only_and_splits_differ() -> None:
    shown = {item.label for seed in range(60) for item in make_scene("train", seed).objects}
    assert shown <= SEEN
    others = {item.label for seed in range(60) for item in make_scene("test", seed).objects}
    assert others & UNSEEN
    first = {split: make_scene(split, 7).objects for split in SPLITS}
    assert len(set(first.values())) == len(SPLITS)


def test_wide_training_scenes_show_seen_categories_only_and_vary_more() -> None:
    wide, usual = ([make_scene(split, seed) for seed in range(60)] for split in ("train_wide", "train"))
    assert {item.label for scene in wide for item in scene.objects} <= SEEN
    for spread in (
        lambda scenes: np.ptp([item.size for scene in scenes for item in scene.objects]),
        lambda scenes: np.ptp([scene.camera.vertical_fov for scene in scenes]),
        lambda scenes: np.ptp([scene.camera.distance for scene in scenes]),
        lambda scenes: len({(name, kind) for scene in scenes for name, kind in scene.textures.items()}),
    ):
        assert spread(wide) > 1.5 * spread(usual)


def test_the_other_make_draws_what_no_training_draws() -> None:
    trained = (USUAL, WIDE)
    for make in trained:
        assert OTHER.vertical_fov[0] > make.vertical_fov[1]
        assert OTHER.light_height[0] > make.light_height[1] and OTHER.room_half_size[0] > make.room_half_size[1]
        patterns = {kind for kinds in make.textures.values() for kind in kinds}
        assert not set(OTHER.textures["floor"]) & patterns - {"plain"}  # which have other tints
        assert all(OTHER.colors[name] != color for name, color in make.colors.items())
    with TabletopSimulator(0, split="other") as simulator:
        frame = simulator.render()
    assert {segment.label for segment in frame.segments} <= SEEN | UNSEEN
    assert sum(segment.is_thing for segment in frame.segments) >= 2 and frame.image.std() > 10


def test_other_makes_leave_the_past_alone() -> None:
    """Scenes of the splits that figures are known of are what they always were."""
    described = [make_scene(split, seed).xml for split in ("train", "val", "test", "captions") for seed in range(3)]
    assert all('reflectance="0"' in xml for xml in described)
    scene = make_scene("test", 0)
    assert [item.label for item in scene.objects[:3]] == ["red ball", "orange cylinder", "white cylinder"]
    assert scene.camera.distance == pytest.approx(0.6033101762333926, abs=1e-12)


@pytest.mark.parametrize("shape", MESHES.values())
def test_meshes_face_outwards(shape: Callable[[], Mesh]) -> None:
    """A closed mesh whose faces all look outwards encloses a positive volume."""
    vertices, faces = shape()
    assert faces.min() >= 0 and faces.max() < len(vertices)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 > 0.1
