"""Oriented boxes around groups of points; see `grouped` for what a group is."""

from dataclasses import dataclass

import numpy as np

from ovseg_ros.core.space.grouped import covariances, lengths_of, means, quantiles

_ANGLES = 45
_SEARCH_SAMPLES = 512
_TRIM = 0.005
"""Share of the points that may stick out of each side: single wrong readings do not make a box grow."""


@dataclass(frozen=True, slots=True)
class OrientedBox:
    """A box in the camera's optical frame.

    Attributes:
        centre: (3,) metres.
        size: (3,) full extents along the box's own axes, metres.
        rotation: (3, 3), right-handed; its columns are the box's axes.
    """

    centre: np.ndarray
    size: np.ndarray
    rotation: np.ndarray


def principal_boxes(points: np.ndarray, starts: np.ndarray) -> list[OrientedBox]:
    """Boxes along the principal axes, longest first, of groups of points (P, 3)."""
    axes = np.linalg.eigh(covariances(points, starts))[1][:, :, ::-1].copy()  # (N, 3, 3), columns
    axes[:, :, 2] = np.cross(axes[:, :, 0], axes[:, :, 1])
    index = np.repeat(np.arange(len(starts)), lengths_of(starts, len(points)))
    middle = means(points, starts)
    local = np.einsum("pd,pda->pa", points - middle[index], axes[index])
    low, high = _extents(local, starts)
    centres = middle + np.einsum("nda,na->nd", axes, (low + high) / 2)
    return [OrientedBox(*values) for values in zip(centres, high - low, axes, strict=True)]


def upright_boxes(local: np.ndarray, starts: np.ndarray, frames: np.ndarray) -> list[OrientedBox]:
    """Boxes with a given vertical axis whose footprint is the smallest rectangle, longer side first.

    Args:
        local: (P, 3) points along the axes of their group's frame.
        starts: (N,) groups.
        frames: (N, 3, 3) rotations whose columns are the axes; the last is the vertical.
    """
    angle = _smallest_footprints(local[:, :2], starts)  # (N,)
    cosine, sine = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(angle), np.ones_like(angle)
    turns = np.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    index = np.repeat(np.arange(len(starts)), lengths_of(starts, len(local)))
    turned = np.einsum("pd,pda->pa", local, turns[index])
    low, high = _extents(turned, starts)
    axes = frames @ turns
    centres = np.einsum("nda,na->nd", axes, (low + high) / 2)
    sizes = high - low
    is_swapped = sizes[:, 1] > sizes[:, 0]
    swapped = np.stack([axes[:, :, 1], -axes[:, :, 0], axes[:, :, 2]], axis=-1)
    axes = np.where(is_swapped[:, None, None], swapped, axes)
    sizes = np.where(is_swapped[:, None], sizes[:, [1, 0, 2]], sizes)
    return [OrientedBox(*values) for values in zip(centres, sizes, axes, strict=True)]


def _smallest_footprints(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """For each group of points (P, 2) the turn of the axes in [0, pi / 2) whose bounding rectangle is smallest."""
    lengths = lengths_of(starts, len(points))
    index = np.repeat(np.arange(len(starts)), lengths)
    stride = -(-lengths // _SEARCH_SAMPLES)
    chosen = (np.arange(len(points)) - starts[index]) % stride[index] == 0
    points, index = points[chosen], index[chosen]
    starts = np.searchsorted(index, np.arange(len(starts)))
    angles = np.arange(_ANGLES) * (np.pi / 2 / _ANGLES)
    areas = np.ones((len(starts), _ANGLES))
    for axis in (np.stack([np.cos(angles), np.sin(angles)]), np.stack([-np.sin(angles), np.cos(angles)])):
        along = points @ axis  # (P, A)
        areas *= np.maximum.reduceat(along, starts) - np.minimum.reduceat(along, starts)
    return np.asarray(angles[areas.argmin(axis=1)])


def _extents(local: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value along each axis of groups of points (P, 3), but for outliers: (N, 3) each."""
    low, high = (
        np.stack([quantiles(local[:, axis], starts, share) for axis in range(3)], axis=-1)
        for share in (_TRIM, 1 - _TRIM)
    )
    return low, high
