"""The tabletop under physics, seen by a camera, with exact ground truth for every frame."""

import math
import os
from dataclasses import dataclass, replace

import numpy as np

# A machine without a display renders through EGL; whoever has set MUJOCO_GL keeps it. MuJoCo reads it on import.
os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco

from ovseg_ros.sim.categories import STUFF
from ovseg_ros.sim.scene import CameraPose, Scene, make_scene
from ovseg_ros.sim.spatial_truth import ObjectPose, body_box, cast_rays, optical_frame

MIN_VISIBLE_AREA = 40
"""A segment with fewer visible pixels at 320x240 (scaled with the resolution) is void: too little to judge."""

_STUFF = tuple(word.name for word in STUFF)
_MAX_SETTLING_STEPS = 300
_ORBIT_PERIOD = 24.0


@dataclass(frozen=True, slots=True)
class GroundTruthSegment:
    """One visible thing, or one stuff category: its value in `Frame.segment_ids` and its category's name."""

    id: int
    label: str
    is_thing: bool
    object_index: int
    """Place of a thing in `Scene.objects`, the same in every frame; -1 for stuff."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the camera saw.

    Attributes:
        image: uint8 RGB (H, W, 3).
        depth: float32 (H, W), metres along the optical axis.
        segment_ids: uint16 (H, W), 0 = void.
        segments: one entry for each id present.
        camera_matrix: float64 (3, 3), pinhole intrinsics without distortion; pixel centres are at integers.
    """

    image: np.ndarray
    depth: np.ndarray
    segment_ids: np.ndarray
    segments: tuple[GroundTruthSegment, ...]
    camera_matrix: np.ndarray


class TabletopSimulator:
    """One scene at rest and a camera that can orbit it. Owns a GL context: use it from one thread, in a `with`.

    Raises:
        ValueError: for an unknown split, a negative seed or a size outside 16 to 1920 pixels.
    """

    def __init__(self, seed: int, *, split: str = "test", width: int = 320, height: int = 240) -> None:
        if not (16 <= width <= 1920 and 16 <= height <= 1920):
            raise ValueError(f"width and height must be 16 to 1920 pixels, got {width}x{height}")
        self.scene: Scene = make_scene(split, seed)
        self.width, self.height = width, height
        self._model = mujoco.MjModel.from_xml_string(self.scene.xml, self.scene.assets)
        self._data = mujoco.MjData(self._model)
        self._settle()
        # A larger buffer would be cleared with every picture, in vain.
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = width, height
        self._renderer = mujoco.Renderer(self._model, height=height, width=width)
        self._owners, self._labels = self._ground_truth_table()

    def __enter__(self) -> "TabletopSimulator":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()

    def render(self, time: float = 0.0) -> Frame:
        """The frame at a time in seconds: the camera sways on a smooth orbit around the scene's first view."""
        return self.render_from(orbit(self.scene.camera, time))

    def render_from(self, pose: CameraPose, *, with_depth: bool = True) -> Frame:
        """The frame from a given pose; depth is left at zero unless asked for."""
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = pose.look_at
        camera.distance, camera.azimuth, camera.elevation = pose.distance, pose.azimuth, pose.elevation
        self._model.vis.global_.fovy = pose.vertical_fov
        renderer = self._renderer
        renderer.update_scene(self._data, camera=camera)
        image = renderer.render()
        depth = np.zeros((self.height, self.width), dtype=np.float32)
        if with_depth:
            renderer.enable_depth_rendering()
            depth = renderer.render()
            renderer.disable_depth_rendering()
        renderer.enable_segmentation_rendering()
        objects = renderer.render()  # (H, W, 2): object id, object type
        renderer.disable_segmentation_rendering()
        segment_ids, segments = self._to_segments(objects)
        return Frame(image, depth, segment_ids, segments, self._camera_matrix(pose.vertical_fov))

    @property
    def timestep(self) -> float:
        """Seconds of one step of physics."""
        return float(self._model.opt.timestep)

    def push(self, object_index: int, velocity: tuple[float, float, float]) -> None:
        """Give an object a velocity in the world, m/s; `step` then moves it, and friction soon stops it."""
        joint = self._model.body_jntadr[1 + object_index]
        start = self._model.jnt_dofadr[joint]
        self._data.qvel[start : start + 3] = velocity

    def step(self) -> None:
        """One step of physics."""
        mujoco.mj_step(self._model, self._data)
        mujoco.mj_kinematics(self._model, self._data)

    def object_position(self, object_index: int) -> np.ndarray:
        """Position (3,) of an object in the world, metres."""
        return np.array(self._data.xpos[1 + object_index])

    def object_poses(self, pose: CameraPose) -> tuple[ObjectPose, ...]:
        """Where every object of the scene truly is, visible or not, seen from a pose."""
        points, geoms = cast_rays(
            self._model, self._data, pose, self._camera_matrix(pose.vertical_fov), (self.height, self.width)
        )
        owner = self._owners[geoms]  # -1 = nothing
        position, axes = optical_frame(pose)
        poses = []
        for index in range(len(self.scene.objects)):
            body = 1 + index  # after the world, in the scene's order
            rotation = self._data.xmat[body].reshape(3, 3)
            middle, size = body_box(self._model, body)
            centre = self._data.xpos[body] + rotation @ middle
            hits = points[owner == index]
            surface = hits.mean(axis=0) if len(hits) else np.full(3, np.nan)
            poses.append(ObjectPose(index, axes.T @ (centre - position), size, axes.T @ rotation, surface, len(hits)))
        return tuple(poses)

    def _settle(self) -> None:
        """Let everything fall until it rests."""
        for step in range(_MAX_SETTLING_STEPS):
            mujoco.mj_step(self._model, self._data)
            if step > 80 and np.abs(self._data.qvel).max(initial=0.0) < 0.02:
                break

    def _ground_truth_table(self) -> tuple[np.ndarray, list[tuple[str, bool]]]:
        """For every geom (and, last, for "no geom") the index of its owner in a list of (label, is_thing)."""
        labels = [(item.label, True) for item in self.scene.objects] + [(name, False) for name in _STUFF]
        owners = np.full(self._model.ngeom + 1, -1)
        for geom in range(self._model.ngeom):
            name = mujoco.mj_id2name(self._model, mujoco.mjtObj.mjOBJ_GEOM, geom)
            if name.startswith("thing"):
                owners[geom] = int(name.removeprefix("thing").split(".")[0])
            else:
                stuff = name.split(".")[0].rstrip("0123456789")
                owners[geom] = len(self.scene.objects) + _STUFF.index(stuff)
        return owners, labels

    def _to_segments(self, objects: np.ndarray) -> tuple[np.ndarray, tuple[GroundTruthSegment, ...]]:
        is_geom = objects[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM)
        owner = self._owners[np.where(is_geom, objects[..., 0], -1)]  # (H, W), -1 = nothing
        areas = np.bincount(owner[owner >= 0], minlength=len(self._labels))
        least = MIN_VISIBLE_AREA * (self.width * self.height) / (320 * 240)
        visible = np.flatnonzero(areas >= least)
        ids = np.zeros(len(self._labels) + 1, dtype=np.uint16)  # the last entry serves owner -1
        ids[visible] = np.arange(1, len(visible) + 1)
        segments = []
        for index in visible.tolist():
            label, is_thing = self._labels[index]
            segments.append(GroundTruthSegment(int(ids[index]), label, is_thing, index if is_thing else -1))
        return ids[owner], tuple(segments)

    def _camera_matrix(self, vertical_fov: float) -> np.ndarray:
        focal = 0.5 * self.height / math.tan(math.radians(vertical_fov) / 2)
        return np.array([[focal, 0, (self.width - 1) / 2], [0, focal, (self.height - 1) / 2], [0, 0, 1.0]])


def orbit(start: CameraPose, time: float) -> CameraPose:
    """A slow sway of a robot's camera around its first pose; periodic, smooth, and equal to it at time 0."""
    phase = 2 * math.pi * time / _ORBIT_PERIOD
    return replace(
        start,
        azimuth=start.azimuth + 40 * math.sin(phase),
        elevation=start.elevation + 6 * math.sin(2 * phase),
        distance=start.distance * (1 + 0.08 * math.sin(phase)),
    )
