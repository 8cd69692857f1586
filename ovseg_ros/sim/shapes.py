"""Triangle meshes of the tabletop's shapes, made from a few formulas. Unit: one object radius or half height.

Every mesh is (vertices (V, 3) float, faces (F, 3) int, counter-clockwise seen from outside), z up, centred near zero.
Hard edges are made by not sharing vertices: the renderer smooths normals over shared ones.
"""

import numpy as np

Mesh = tuple[np.ndarray, np.ndarray]
_SEGMENTS = 28


def _revolve(profile: np.ndarray) -> Mesh:
    """Surface of revolution about z of a polyline `profile` (N, 2) of (radius, z), walked with the outside on its right
    hand (upwards along an outer wall). Repeat a point to get a hard edge there."""
    angles = np.linspace(0, 2 * np.pi, _SEGMENTS, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (S, 2)
    vertices = np.concatenate(
        [np.concatenate([radius * ring, np.full((_SEGMENTS, 1), z)], axis=1) for radius, z in profile]
    )
    faces = []
    for row in range(len(profile) - 1):
        if np.allclose(profile[row], profile[row + 1]):
            continue
        for column in range(_SEGMENTS):
            a, b = row * _SEGMENTS + column, row * _SEGMENTS + (column + 1) % _SEGMENTS
            c, d = a + _SEGMENTS, b + _SEGMENTS
            if profile[row][0] > 1e-9:
                faces.append((a, b, d))
            if profile[row + 1][0] > 1e-9:
                faces.append((a, d, c))
    return vertices, np.array(faces)


def _hard(points: list[tuple[float, float]]) -> np.ndarray:
    """A profile whose every inner corner is a hard edge."""
    doubled = [points[0]]
    for point in points[1:-1]:
        doubled += [point, point]
    return np.array([*doubled, points[-1]])


def _tube(path: np.ndarray, radii: np.ndarray, sides: int = 14) -> Mesh:
    """Round tube along `path` (N, 3), which lies in a plane of constant y, with a radius for every point."""
    tangents = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    tangents[0], tangents[-1] = path[1] - path[0], path[-1] - path[-2]
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    binormal = np.array([0.0, 1.0, 0.0])
    normals = np.cross(binormal, tangents)
    angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    rings = (
        path[:, None]
        + radii[:, None, None] * np.cos(angles)[None, :, None] * normals[:, None]
        + radii[:, None, None] * np.sin(angles)[None, :, None] * binormal
    )  # (N, sides, 3)
    base = (len(path) - 1) * sides
    faces = []
    for row in range(0, base, sides):
        for column in range(sides):
            a, b = row + column, row + (column + 1) % sides
            faces += [(a, b, a + sides), (b, b + sides, a + sides)]
    first, last = base + sides, base + sides + 1  # caps: fans to the end points
    for column in range(sides):
        following = (column + 1) % sides
        faces += [(first, following, column), (last, base + column, base + following)]
    return np.concatenate([rings.reshape(-1, 3), path[:1], path[-1:]]), np.array(faces)


def _join(*meshes: Mesh) -> Mesh:
    """One mesh of several."""
    offsets = np.cumsum([0] + [len(vertices) for vertices, _ in meshes[:-1]])
    return (
        np.concatenate([vertices for vertices, _ in meshes]),
        np.concatenate([faces + offset for (_, faces), offset in zip(meshes, offsets, strict=True)]),
    )


def cone() -> Mesh:
    """A cone that stands on its base."""
    return _revolve(_hard([(0, -1), (0.9, -1), (0.9, -0.92), (0, 1)]))


def ring() -> Mesh:
    """A torus lying flat."""
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    profile = np.stack([0.72 + 0.28 * np.cos(angles), 0.28 * np.sin(angles)], axis=1)
    return _revolve(np.concatenate([profile, profile[:1]]))


def egg() -> Mesh:
    """An egg, pointed towards +z."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, 18)
    radius = 0.72 * np.cos(angles) * (1 - 0.22 * np.sin(angles))
    radius[[0, -1]] = 0
    return _revolve(np.stack([radius, np.sin(angles)], axis=1))


def star() -> Mesh:
    """A flat five-pointed prism."""
    angles = np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    outline = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    half_height = 0.22
    parts = []
    for z, flip in ((half_height, False), (-half_height, True)):
        vertices = np.concatenate([np.column_stack([outline, np.full(10, z)]), [[0, 0, z]]])
        faces = np.array([(10, i, (i + 1) % 10) for i in range(10)])
        parts.append((vertices, faces[:, ::-1] if flip else faces))
    for i in range(10):
        (x0, y0), (x1, y1) = outline[i], outline[(i + 1) % 10]
        side = np.array([(x0, y0, -half_height), (x1, y1, -half_height), (x1, y1, half_height), (x0, y0, half_height)])
        parts.append((side, np.array([(0, 1, 2), (0, 2, 3)])))
    return _join(*parts)


def cup() -> Mesh:
    """An open cup with a handle."""
    wall = _revolve(_hard([(0, -0.9), (0.62, -0.9), (0.72, 0.9), (0.62, 0.9), (0.53, -0.78), (0, -0.78)]))
    angles = np.linspace(-np.pi / 2, np.pi / 2, 12)
    path = np.column_stack([0.66 + 0.48 * np.cos(angles), np.zeros(12), 0.5 * np.sin(angles)])
    return _join(wall, _tube(path, np.full(12, 0.11), sides=8))


def bowl() -> Mesh:
    """A round open shell."""
    outer = np.linspace(-np.pi / 2 + 0.45, 0, 10)
    inner = outer[::-1]
    profile = [(0.0, -0.5 * 0.9)]
    profile += [(float(np.cos(a)), float(0.9 * np.sin(a) * 0.6)) for a in outer]
    profile += [(float(0.9 * np.cos(a)), float(0.06 + 0.8 * np.sin(a) * 0.6)) for a in inner]
    profile += [(0.0, profile[-1][1])]
    return _revolve(np.array(profile))


def bottle() -> Mesh:
    """A bottle with shoulders and a neck."""
    shoulder = np.linspace(0, np.pi / 2, 6)
    curve = [(0.16 + 0.26 * float(np.cos(a)), 0.2 + 0.28 * float(np.sin(a))) for a in shoulder]
    body = [(0.0, -1.0), (0.42, -1.0), (0.42, -1.0), *curve, (0.16, 0.85), (0.2, 0.85), (0.2, 0.85), (0.2, 1.0)]
    return _revolve(np.array([*body, (0.2, 1.0), (0.0, 1.0)]))


def banana() -> Mesh:
    """A tapered curved tube lying flat."""
    angles = np.linspace(-1.05, 1.05, 16)
    path = np.column_stack([1.1 * np.sin(angles), np.zeros(16), 1.1 * np.cos(angles) - 0.8])
    taper = 0.26 * np.clip(1.12 - (np.abs(angles) / 1.05) ** 4, 0.25, 1.0)
    vertices, faces = _tube(path, taper)
    return vertices[:, [0, 2, 1]] * np.array([1.0, 1.0, -1.0]), faces  # turned to lie in the table's plane


MESHES = {make.__name__: make for make in (cone, ring, egg, star, cup, bowl, bottle, banana)}
"""Mesh maker of every shape that is not a MuJoCo primitive."""
