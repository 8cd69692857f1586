"""Images with fewer pixels, for measures that need not see all."""

import cv2
import numpy as np


def subsampled_ids(ids: np.ndarray, count: int, pixels: int) -> np.ndarray:
    """Every few pixels of a segment image.

    Args:
        ids: (H, W) uint16, less than `count`.
        pixels: about so many are left, at most.

    Returns:
        (h, w), uint8 where `count` allows that, since OpenCV counts bytes fastest; else uint16.
    """
    stride, height, width = _grid(ids, pixels)
    return ids[: height * stride : stride, : width * stride : stride].astype(np.uint8 if count <= 256 else np.uint16)


def subsampled_image(image: np.ndarray, pixels: int) -> np.ndarray:
    """The colours (h, w, 3) of `image` (H, W, 3) at the places that `subsampled_ids` takes of an image of this size."""
    stride, height, width = _grid(image, pixels)
    # OpenCV picks single pixels much faster than a strided copy of three channels.
    return cv2.resize(image[: height * stride, : width * stride], (width, height), interpolation=cv2.INTER_NEAREST)


def _grid(image: np.ndarray, pixels: int) -> tuple[int, int, int]:
    """Distance of the pixels taken, and how many rows and columns of them."""
    height, width = image.shape[:2]
    stride = min(max(1, round((height * width / pixels) ** 0.5)), height, width)
    return stride, height // stride, width // stride
