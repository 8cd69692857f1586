"""Procedural surface textures: uint8 RGB (size, size, 3), tileable enough for a tabletop."""

import cv2
import numpy as np

SIZE = 128


def _noise(rng: np.random.Generator, cells_y: int, cells_x: int) -> np.ndarray:
    """Smooth noise in [0, 1], (SIZE, SIZE), with about this many bumps along each side."""
    coarse = rng.random((cells_y, cells_x)).astype(np.float32)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def make_texture(kind: str, color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A texture of a kind that `makes` name, or "flat", of one colour, around a base colour (3,) in [0, 1].

    Raises:
        ValueError: for a kind that does not exist.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    fine = 0.92 + 0.16 * (_noise(rng, 64, 64) - 0.5)
    if kind == "plain":
        brightness = fine
    elif kind == "flat":
        brightness = np.ones_like(x)
    elif kind == "speckled":
        brightness = fine - 0.35 * (_noise(rng, 48, 48) > 0.82)
    elif kind == "wooden":
        grain = np.sin(2 * np.pi * (9 * y + 1.6 * _noise(rng, 4, 3)) + 6 * _noise(rng, 24, 2))
        brightness = 0.85 + 0.12 * grain + 0.12 * (_noise(rng, 96, 6) - 0.5)
    elif kind == "marble":
        veins = np.abs(np.sin(2 * np.pi * (1.5 * x + y) + 9 * _noise(rng, 5, 5)))
        brightness = 0.7 + 0.3 * veins**0.4
    elif kind == "tiled":
        joint = ((x * 2) % 1 < 0.05) | ((y * 2) % 1 < 0.05)
        brightness = np.where(joint, 0.5, fine)
    elif kind == "brick":
        row = np.floor(y * 6)
        joint = ((y * 6) % 1 < 0.12) | ((x * 3 + 0.5 * (row % 2)) % 1 < 0.06)
        brightness = np.where(joint, 1.15, 0.8 * fine)
    elif kind == "striped":
        brightness = np.where((x * 4) % 1 < 0.5, fine, 0.6 * fine)
    elif kind == "checkered":
        brightness = np.where((np.floor(x * 4) + np.floor(y * 4)) % 2 < 0.5, fine, 0.55 * fine)
    elif kind == "woven":
        brightness = fine * (0.8 + 0.2 * np.sin(40 * np.pi * x) * np.sin(40 * np.pi * y))
    elif kind == "dotted":
        brightness = np.where(((x * 6) % 1 - 0.5) ** 2 + ((y * 6) % 1 - 0.5) ** 2 < 0.08, 0.6, 1.0)
    elif kind == "zigzag":
        brightness = np.where((y * 6 + 0.5 * np.abs((x * 8) % 2 - 1)) % 1 < 0.4, 0.75, 1.0)
    elif kind == "planked":
        row = np.floor(y * 5)
        brightness = np.where((y * 5) % 1 < 0.06, 0.4, 0.8 + 0.06 * ((3 * row) % 5) + 0.05 * np.sin(60 * y))
    else:
        raise ValueError(f"unknown texture kind {kind!r}; see ovseg_ros.sim.makes")
    return (255 * np.clip(color * np.asarray(brightness)[..., None], 0, 1)).astype(np.uint8)
