"""What segments look like, as vectors that can be compared: the cosine of two is 1 where they look the same."""

import cv2
import numpy as np

from ovseg_ros.core.types import PanopticResult

_BINS = 64
_PIXELS = 40_000
"""About this many pixels are looked at."""


def segment_appearance(image: np.ndarray, result: PanopticResult) -> np.ndarray:
    """Colours and embedding of every segment: (N, 64 + C) float32, unit rows; C = 0 where the result has no embeddings.

    Colours are the square root of a histogram with 4 levels a channel, so that their cosine is the Bhattacharyya
    coefficient of two histograms, in [0, 1]. The cosine of two rows is the mean of those of colours and of embeddings:
    on simulated takes either alone followed predicted masks less well.

    Args:
        image: uint8 RGB (H, W, 3).
        result: its segments.

    Raises:
        ValueError: image and result differ in size.
    """
    if image.shape[:2] != result.segment_ids.shape:
        raise ValueError(f"the image is {image.shape[:2]} and its segments are {result.segment_ids.shape}")
    rows = np.zeros(int(result.segment_ids.max(initial=0)) + 1, np.intp)  # row 0 is void
    rows[[segment.id for segment in result.segments]] = np.arange(1, len(result.segments) + 1)
    # Thinned where there are many pixels; a histogram does not need each. OpenCV picks single pixels much faster than
    # a strided copy of three channels.
    stride = max(1, round(np.sqrt(result.segment_ids.size / _PIXELS)))
    height, width = result.segment_ids.shape
    size = (max(1, width // stride), max(1, height // stride))
    ids: np.ndarray = cv2.resize(result.segment_ids, size, interpolation=cv2.INTER_NEAREST)
    row = rows.take(ids)  # (h, w)
    pixels = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    levels = np.bitwise_and(pixels, 0xC0, dtype=np.uint8)  # (h, w, 3), the two upper bits of each channel
    color = (levels[..., 0] >> 2) | (levels[..., 1] >> 4) | (levels[..., 2] >> 6)
    count = (len(result.segments) + 1) * _BINS
    histogram = np.bincount((row * _BINS + color).ravel(), minlength=count).reshape(-1, _BINS)[1:]
    colors = np.sqrt(histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    if result.embeddings is None:
        return colors
    return np.concatenate([colors, result.embeddings], axis=1) * np.float32(np.sqrt(0.5))
