"""The COCO panoptic PNG: a pixel's segment id is R + 256 G + 65536 B; 0 is void."""

import numpy as np


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), integers from 0 to 2^24 - 1, as uint8 RGB (H, W, 3).

    Raises:
        ValueError: an id does not fit.
    """
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= 1 << 24):
        raise ValueError(f"segment ids must be 0 to {(1 << 24) - 1}, got {int(ids.min())} to {int(ids.max())}")
    wide = ids.astype(np.uint32)
    return np.stack([wide & 255, (wide >> 8) & 255, wide >> 16], axis=-1).astype(np.uint8)


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """The inverse: uint8 RGB (H, W, 3) to int32 ids (H, W)."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)


def tight_box(mask: np.ndarray) -> list[int]:
    """[x, y, width, height] in pixels around a bool mask (H, W); [0, 0, 0, 0] when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return [0, 0, 0, 0]
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]
