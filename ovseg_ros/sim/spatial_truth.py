"""Where the simulated objects truly are, from MuJoCo's geometry: neither the depth image nor the masks take part."""

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from ovseg_ros.sim.scene import CameraPose

# From MuJoCo 3.5 on, mj_multiRay takes one array more, for surface normals; without it none are computed.
_MUJOCO = tuple(int(part) for part in mujoco.__version__.split(".")[:2])
_NO_NORMALS: tuple[None, ...] = (None,) if _MUJOCO >= (3, 5) else ()


@dataclass(frozen=True, slots=True)
class ObjectPose:
    """One object, in the camera's optical frame (REP 103), metres.

    Attributes:
        object_index: its place in `Scene.objects`.
        centre: (3,) middle of the smallest box along the object's own axes.
        size: (3,) full extents of that box along those axes.
        rotation: (3, 3); its columns are the axes.
        surface_centroid: (3,) mean of the points where the rays of the pixels hit it, NaN where none does.
        pixels: how many rays hit it.
    """

    object_index: int
    centre: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    surface_centroid: np.ndarray
    pixels: int


def optical_frame(pose: CameraPose) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) of the camera in the world, and its optical axes x right, y down, z forward as columns (3, 3)."""
    azimuth, elevation = math.radians(pose.azimuth), math.radians(pose.elevation)
    forward = np.array(
        [math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)]
    )
    right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
    position = np.array(pose.look_at) - pose.distance * forward
    return position, np.stack([right, np.cross(forward, right), forward], axis=-1)


def body_box(model: mujoco.MjModel, body: int) -> tuple[np.ndarray, np.ndarray]:
    """Middle and full extents (3,) of the smallest box along a body's own axes around all its geoms."""
    corners = []
    for geom in np.flatnonzero(model.geom_bodyid == body):
        if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first = model.mesh_vertadr[mesh]
            points = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        else:
            middle, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
            signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
            points = middle + signs * half
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
        corners.append(points @ rotation.reshape(3, 3).T + model.geom_pos[geom])
    everything = np.concatenate(corners)
    low, high = everything.min(axis=0), everything.max(axis=0)
    return (low + high) / 2, high - low


def cast_rays(
    model: mujoco.MjModel, data: mujoco.MjData, pose: CameraPose, camera_matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What the rays of all pixels of a (H, W) image hit first.

    Returns:
        Points (H * W, 3) in the optical frame (NaN where nothing is hit) and the geoms hit (H * W,), -1 = none.
    """
    height, width = size
    position, axes = optical_frame(pose)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([columns.ravel(), rows.ravel(), np.ones(height * width)])
    rays = (np.linalg.inv(camera_matrix) @ pixels).T  # (H * W, 3), z = 1
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    geoms = np.full(len(rays), -1, dtype=np.int32)
    distances = np.full(len(rays), -1.0)
    world = np.ascontiguousarray(rays @ axes.T)
    results = (geoms, distances, *_NO_NORMALS)
    mujoco.mj_multiRay(model, data, position, world.ravel(), None, True, -1, *results, len(rays), mujoco.mjMAXVAL)
    return rays * np.where(geoms >= 0, distances, np.nan)[:, None], geoms
