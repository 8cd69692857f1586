"""What segments look like, as vectors that can be compared: the cosine of two is 1 where they look the same."""

import cv2
import numpy as np

from ovseg_ros.core.tracking.subsampling import subsampled_ids, subsampled_image
from ovseg_ros.core.types import PanopticResult

_BINS = 64
_PIXELS = 10_000  # about so many of an image are looked at
_UPPER_BITS = 0xC0
_BIN = np.array([[1 / 4, 1 / 16, 1 / 64]], np.float32)  # puts the two upper bits of each channel side by side


def segment_appearance(image: np.ndarray, result: PanopticResult) -> np.ndarray:
    """Colours and embedding of every segment: (N, 64 + C) float32, unit rows; C = 0 where the result has no embeddings.

    Embeddings may depend on the words that were asked for (PMP), so rows of two vocabularies have to be compared by
    `color_similarity`.

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
    own = [segment.id for segment in result.segments]
    count = 1 + max(own, default=0)  # with void
    bins = cv2.transform(np.bitwise_and(subsampled_image(image, _PIXELS), _UPPER_BITS, dtype=np.uint8), _BIN)  # (h, w)
    ids = subsampled_ids(result.segment_ids, count, _PIXELS)
    pair = [ids, bins.astype(ids.dtype, copy=False)]
    histogram = cv2.calcHist(pair, [0, 1], None, [count, _BINS], [0, count, 0, _BINS])[own]
    colors = np.sqrt(histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    if result.embeddings is None:
        return colors
    return np.concatenate([colors, result.embeddings], axis=1) * np.float32(np.sqrt(0.5))


def color_similarity(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Likeness (N, M), in [0, 1], of the colours alone of two sets of appearances, (N, C) and (M, C)."""
    colors, other_colors = rows[:, :_BINS], others[:, :_BINS]
    lengths = np.linalg.norm(colors, axis=1)[:, None] * np.linalg.norm(other_colors, axis=1)
    return colors @ other_colors.T / np.maximum(lengths, 1e-12)
