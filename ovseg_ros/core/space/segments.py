"""Where every segment is: its depth, its visible surface's centroid and a box around the whole object.

The centroid of what is visible lies on the camera's side of an object. The box is completed by what is known: a
supported object reaches down to the plane that it stands on, and is taken to be as deep behind its top as before it,
as far as it can hide that part itself.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ovseg_ros.core.errors import DepthError
from ovseg_ros.core.space.boxes import OrientedBox, principal_boxes, upright_boxes
from ovseg_ros.core.space.grouped import lengths_of, means, quantiles, starts_of
from ovseg_ros.core.space.pinhole import Pinhole
from ovseg_ros.core.space.planes import Plane, find_planes

_SAMPLES = 2048  # readings of a segment that are used at most, about
_MIN_POINTS = 12  # a segment with fewer valid readings is left out
_MIN_DEVIATION = 0.02  # metres; readings nearer to the segment's median depth are never taken for flying pixels
_MAX_DEVIATIONS = 4.0  # normal standard deviations; readings further from the median are dropped
_SUPPORT_GAP = 0.02  # metres; a segment whose lowest visible point is this near to a plane stands on it...
_SUPPORT_SHARE = 0.4  # ... and so does one whose lowest visible point is within this share of its visible height
_TOP_SHARE = 0.05  # of the height, that counts as an object's top
_HIDDEN_MARGIN = 0.003  # metres; a point this far behind the surface that was seen is hidden
_BACKGROUND_POINTS = 4000  # in which planes are sought, about
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplying by it scatters consecutive numbers


@dataclass(frozen=True, slots=True)
class SegmentGeometry:
    """One segment in the camera's optical frame, metres.

    Attributes:
        id: value of its pixels in the segment image.
        depth: median of its readings along the optical axis.
        centroid: (3,) mean of the visible surface, over pixels.
        box: around the object, hidden parts completed where it stands on something.
        points: number of pixels with a valid reading.
        is_supported: whether a plane was found that it stands on.
    """

    id: int
    depth: float
    centroid: np.ndarray
    box: OrientedBox
    points: int
    is_supported: bool


class _View(NamedTuple):
    """The maps (H, W) that are measured, and their camera."""

    depth: np.ndarray
    segment_ids: np.ndarray
    camera: Pinhole


def measure_segments(
    depth: np.ndarray, camera: Pinhole, segment_ids: np.ndarray, thing_ids: Collection[int]
) -> list[SegmentGeometry]:
    """Measures every segment that has enough valid depth, in order of id.

    Args:
        depth: (H, W) float32 metres along the optical axis; NaN, infinite, 0 and negative mean "no reading".
        camera: intrinsics at this resolution.
        segment_ids: (H, W) uint16, 0 = void.
        thing_ids: ids of things. What stands is a thing; what it stands on is sought in all other pixels.

    Raises:
        DepthError: depth, camera and segments differ in size.
    """
    if depth.shape != segment_ids.shape or depth.shape != (camera.height, camera.width):
        raise DepthError(
            f"depth is {depth.shape}, the segment image {segment_ids.shape} and the camera "
            f"{(camera.height, camera.width)}; all must be the image's (H, W)"
        )
    ids = segment_ids.ravel()
    is_valid = np.isfinite(depth) & (depth > 0)
    size = int(ids.max(initial=0)) + 1
    counts = np.bincount(ids[is_valid.ravel()], minlength=size)
    samples = _sample(_trusted_pixels(segment_ids, is_valid, counts), ids)
    points = _points_at(samples, depth, camera)
    samples, points, depths = _without_flying_pixels(samples, points, ids)
    if not len(samples):
        return []
    group = ids[samples]
    starts = starts_of(group)
    segment = group[starts]  # (N,)
    is_thing = np.isin(segment, list(thing_ids))
    view = _View(depth, segment_ids, camera)
    planes = find_planes(_background_points(view, is_valid, thing_ids))
    centroids = means(points, starts)
    if planes:
        boxes, supported = _standing_boxes(points, starts, segment, is_thing, planes, view)
    else:
        boxes, supported = principal_boxes(points, starts), np.zeros(len(segment), bool)
    return [
        SegmentGeometry(int(id_), float(depths[id_]), centroid, box, int(counts[id_]), bool(stands))
        for id_, centroid, box, stands in zip(segment, centroids, boxes, supported, strict=True)
    ]


def _trusted_pixels(segment_ids: np.ndarray, is_valid: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Valid pixels (H, W) of segments, without their edges where enough is left: depth mixes there, masks err there."""
    inner = np.ones_like(is_valid)
    for axis in (0, 1):
        ids, inside = np.moveaxis(segment_ids, axis, 0), np.moveaxis(inner, axis, 0)
        same = ids[1:] == ids[:-1]
        inside[1:] &= same
        inside[:-1] &= same
    inner &= is_valid
    inner_counts = np.bincount(segment_ids[inner], minlength=len(counts))
    has_inner = inner_counts >= np.maximum(_MIN_POINTS, 0.3 * counts)
    is_used = counts >= _MIN_POINTS
    is_used[0] = False
    return np.asarray(is_valid & is_used[segment_ids] & (inner | ~has_inner[segment_ids]))


def _sample(mask: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Flat indices (P,) of the mask's pixels sorted by segment, evenly subsampled to about `_SAMPLES` a segment."""
    flat = np.flatnonzero(mask)
    stride = -(-np.bincount(ids[flat], minlength=1) // _SAMPLES)
    scattered = (flat.astype(np.uint64) * _GOLDEN) >> np.uint64(40)
    flat = flat[scattered % stride[ids[flat]].astype(np.uint64) == 0] if len(flat) else flat
    return flat[np.argsort(ids[flat], kind="stable")]


def _points_at(flat: np.ndarray, depth: np.ndarray, camera: Pinhole) -> np.ndarray:
    """Back-projected pixels (P, 3) float64."""
    rows, columns = np.divmod(flat, camera.width)
    z = depth.ravel()[flat].astype(np.float64)
    return np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z, z], axis=-1)


def _without_flying_pixels(
    flat: np.ndarray, points: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drops readings far from their segment's median depth. Also returns the median of every id (0 where none)."""
    medians = np.zeros(int(ids.max(initial=0)) + 1)
    if not len(flat):
        return flat, points, medians
    group = ids[flat]
    starts = starts_of(group)
    lengths = lengths_of(starts, len(group))
    medians[group[starts]] = quantiles(points[:, 2], starts, 0.5)
    deviation = np.abs(points[:, 2] - medians[group])
    spread = 1.4826 * quantiles(deviation, starts, 0.5)  # of a normal distribution, the standard deviation
    limit = np.maximum(_MAX_DEVIATIONS * spread, _MIN_DEVIATION)
    kept = deviation <= np.repeat(limit, lengths)
    return flat[kept], points[kept], medians


def _background_points(view: _View, is_valid: np.ndarray, thing_ids: Collection[int]) -> np.ndarray:
    """Evenly subsampled points (N, 3) of what is no thing; of everything where that is less than a twentieth."""
    depth, segment_ids, camera = view
    is_thing = np.zeros(int(segment_ids.max(initial=0)) + 1, bool)
    is_thing[list(thing_ids)] = True
    flat = np.flatnonzero(is_valid & ~is_thing[segment_ids])
    if len(flat) * 20 < is_valid.sum():
        flat = np.flatnonzero(is_valid)
    return _points_at(flat[:: max(1, len(flat) // _BACKGROUND_POINTS)], depth, camera)


def _standing_boxes(
    points: np.ndarray,
    starts: np.ndarray,
    segment: np.ndarray,
    is_thing: np.ndarray,
    planes: list[Plane],
    view: _View,
) -> tuple[list[OrientedBox], np.ndarray]:
    """Boxes upright on the plane that each segment stands on, or, without one, on the largest plane."""
    index = np.repeat(np.arange(len(starts)), lengths_of(starts, len(points)))
    heights = np.stack([plane.heights(points) for plane in planes])  # (planes, P)
    low = np.stack([quantiles(values, starts, 0.02) for values in heights])
    high = np.stack([quantiles(values, starts, 0.98) for values in heights])
    reach = np.maximum(_SUPPORT_GAP, _SUPPORT_SHARE * (high - low))
    is_near = (np.abs(low) <= reach) & (high > _SUPPORT_GAP / 2) & is_thing
    choice = np.where(is_near, np.abs(low), np.inf).argmin(axis=0)  # (N,), the first plane where none is near
    supported = is_near.any(axis=0)

    frames = _frames(np.stack([plane.normal for plane in planes])[choice], means(points, starts))
    local = np.einsum("pd,pda->pa", points, frames[index])
    local[:, 2] = heights[choice[index], np.arange(len(points))]
    hidden, hidden_index = _turned_behind(points, local, starts, frames, supported, segment, view)
    # One point on the plane under the first of each supported group makes the box reach down to it; it is repeated, as
    # single points count as outliers.
    below = np.repeat(starts[supported], np.maximum(lengths_of(starts, len(points))[supported] // 50, 2))
    ground = local[below] * [1, 1, 0]
    everything = np.concatenate([local, hidden, ground])
    group = np.concatenate([index, hidden_index, index[below]])
    order = np.argsort(group, kind="stable")
    everything = everything[order]
    offsets = np.array([plane.offset for plane in planes])[choice]  # heights are from the plane, points are not
    everything[:, 2] -= offsets[group[order]]
    return upright_boxes(everything, starts_of(group[order]), frames), supported


def _frames(normals: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(N, 3, 3) rotations; columns: away from the camera along the plane, sideways, up from the plane."""
    away = centroids - np.sum(centroids * normals, axis=1, keepdims=True) * normals
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    sideways = np.cross(normals, np.array([1.0, 0.0, 0.0]))  # where the camera looks straight down, any direction does
    away = np.where(lengths > 1e-6, away, np.cross(sideways, normals))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return np.stack([away, np.cross(normals, away), normals], axis=-1)


def _turned_behind(
    points: np.ndarray,
    local: np.ndarray,
    starts: np.ndarray,
    frames: np.ndarray,
    supported: np.ndarray,
    segment: np.ndarray,
    view: _View,
) -> tuple[np.ndarray, np.ndarray]:
    """The visible points turned by 180 degrees about a vertical axis through the middle of the object's top, where the
    object itself hides what they would be: (M, 3) local and their groups (M,). Boxes, bottles, balls and most things
    that people make look the same from behind."""
    camera = view.camera
    index = np.repeat(np.arange(len(starts)), lengths_of(starts, len(points)))
    top = quantiles(local[:, 2], starts, 0.99)
    is_top = local[:, 2] >= (top - _TOP_SHARE * np.abs(top))[index]
    # The middle of the top's extent; its mean over pixels would lean to the camera, as what faces it has more pixels.
    top_starts = starts_of(index[is_top])
    low, high = (
        np.stack([quantiles(local[is_top, axis], top_starts, share) for axis in (0, 1)], axis=-1)
        for share in (0.02, 0.98)
    )
    turned = local.copy()
    turned[:, :2] = (low + high)[index] - local[:, :2]
    shift = np.einsum("pa,pda->pd", turned[:, :2] - local[:, :2], frames[index][:, :, :2])
    candidates = points + shift
    chosen = np.flatnonzero(supported[index] & (candidates[:, 2] > 0))
    columns, rows = camera.project(candidates[chosen])
    is_inside = (columns >= 0) & (columns < camera.width) & (rows >= 0) & (rows < camera.height)
    chosen, columns, rows = chosen[is_inside], columns[is_inside], rows[is_inside]
    is_hidden = (view.segment_ids[rows, columns] == segment[index[chosen]]) & (
        view.depth[rows, columns] < candidates[chosen, 2] - _HIDDEN_MARGIN
    )
    chosen = chosen[is_hidden]
    return turned[chosen], index[chosen]
