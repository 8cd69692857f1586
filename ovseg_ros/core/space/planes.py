"""The planes that things stand on: table, floor, shelf."""

from dataclasses import dataclass

import numpy as np

_HYPOTHESES = 256
_SAMPLES = 1500
_REFINEMENTS = 3
_MOST_PLANES = 3
_LEAST_SHARE = 0.1  # of the points, on a plane that counts
_TOLERANCE = 0.008  # metres at which a point still belongs to a plane...
_RELATIVE_TOLERANCE = 0.01  # ... and as a share of the point's depth, as depth sensors err more far away


@dataclass(frozen=True, slots=True)
class Plane:
    """Points p with normal . p + offset = 0.

    Attributes:
        normal: (3,) unit vector towards the camera's side.
        offset: the camera's own height above the plane, metres, positive.
    """

    normal: np.ndarray
    offset: float

    def heights(self, points: np.ndarray) -> np.ndarray:
        """Signed distance of points (..., 3), positive on the camera's side."""
        return np.asarray(points @ self.normal + self.offset)


def find_planes(points: np.ndarray) -> list[Plane]:
    """The largest planes in a cloud, one after the other (RANSAC, Fischler and Bolles 1981, then least squares).

    The same points give the same planes: samples are drawn from a fixed seed. `points` are (N, 3), finite, in the
    camera's optical frame.
    """
    rng = np.random.default_rng(0)
    if len(points) > _SAMPLES:
        points = points[rng.choice(len(points), _SAMPLES, replace=False)]
    points = points.astype(np.float64)
    least = max(int(_LEAST_SHARE * len(points)), 8)
    planes: list[Plane] = []
    while len(planes) < _MOST_PLANES and len(points) >= least:
        plane, inside = _largest_plane(points, np.maximum(_TOLERANCE, _RELATIVE_TOLERANCE * points[:, 2]), rng)
        if plane is None or np.count_nonzero(inside) < least:
            break
        planes.append(plane)
        points = points[~inside]
    return planes


def _largest_plane(
    points: np.ndarray, tolerance: np.ndarray, rng: np.random.Generator
) -> tuple[Plane | None, np.ndarray]:
    """The plane with most points (N, 3) within their tolerance (N,), and which they are (N,)."""
    corners = points[rng.integers(0, len(points), (_HYPOTHESES, 3))]  # (T, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    is_plane = lengths > 1e-9  # three points on a line span none
    if not is_plane.any():
        return None, np.zeros(len(points), bool)
    normals = normals[is_plane] / lengths[is_plane, None]
    offsets = -np.einsum("td,td->t", normals, corners[is_plane, 0])
    distances = np.abs(normals @ points.T + offsets[:, None])  # (T, N)
    inside = distances[np.argmax((distances <= tolerance).sum(axis=1))] <= tolerance
    for _ in range(_REFINEMENTS):
        plane = _fit_plane(points[inside])
        inside = np.abs(plane.heights(points)) <= tolerance
        if np.count_nonzero(inside) < 3:
            return None, inside
    return plane, inside


def _fit_plane(points: np.ndarray) -> Plane:
    """Least squares through (N, 3), N >= 3."""
    centre = points.mean(axis=0)
    normal = np.linalg.eigh(np.cov((points - centre).T))[1][:, 0]
    offset = -float(normal @ centre)
    return Plane(normal, offset) if offset >= 0 else Plane(-normal, -offset)
