"""Who owns each pixel, on a CPU: a mask is looked at only in the box in which it could matter."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.merge.segments import Owned
from ovseg_ros.core.merge.upsampling import Axis, upsampled

# Most pixels of a mask that are looked at together: they stay in a core's cache, and one thread is enough for them.
_BAND_PIXELS = 1 << 15

_SURELY_BELOW_ONE = 15.0  # The sigmoid of higher logits may be rounded to 1.
_ROUNDING = 1e-3  # More than interpolation can add to a logit.


class Winners(NamedTuple):
    """Who owns each pixel before anyone is dropped, for N kept queries.

    Attributes:
        owner: (H, W) unsigned: 0 where nobody's mask covers the pixel, else 1 + the index of the winning query.
        confidence: (H, W) uint8, 255 x score x mask probability of the owner.
        owned: of each query, all (1, N).
    """

    owner: np.ndarray
    confidence: np.ndarray
    owned: Owned


def assign_pixels(masks: Sequence[Tensor], scores: Tensor, size: tuple[int, int], mask_threshold: float) -> Winners:
    """Each pixel to the highest score x mask probability, the first of equals.

    Args:
        masks: N >= 1 of (h, w) float32 logits, resized bilinearly.
        scores: (N,) float32, above 0.
        size, mask_threshold: as of `merge_panoptic`.
    """
    count, (height, width) = len(masks), masks[0].shape
    rows, columns = Axis.resized(height, size[0]), Axis.resized(width, size[1])
    # What is highest so far, and twice the number of its owner, plus one inside the owner's mask. A later query has a
    # higher code than an earlier one.
    best = np.full(size, -1, np.float32)
    codes = np.zeros(size, np.min_scalar_type(2 * count + 1))
    mask_areas = np.zeros(count, np.int64)
    looked_at = []
    queries = zip(masks, scores.tolist(), _least_logits(scores, mask_threshold).tolist(), strict=True)
    for query, (mask, score, least) in enumerate(queries):
        x, y, across, down = cv2.boundingRect(
            (~(mask < least)).numpy().view(np.uint8)
        )  # of cells, what is no number included
        box = rows.reached(y, y + down), columns.reached(x, x + across)
        looked_at.append(box)
        for part in _bands(*box):
            values = upsampled(mask, rows.of(part[0]), columns.of(part[1])).sigmoid_().numpy()
            is_inside = values >= np.float32(mask_threshold)
            mask_areas[query] += np.count_nonzero(is_inside)
            values *= score
            code = np.add(is_inside, 2 * (query + 1), dtype=codes.dtype)
            code *= values > best[part]
            np.maximum(codes[part], code, out=codes[part])
            np.maximum(best[part], values, out=best[part])

    is_owned = codes & 1
    codes >>= 1
    codes *= is_owned
    best *= is_owned
    owned = np.zeros((5, count), np.int64)
    for query, box in enumerate(looked_at):
        own = codes[box] == query + 1
        x, y, *extent = cv2.boundingRect(own.view(np.uint8))
        owned[:, query] = np.count_nonzero(own), box[1].start + x, box[0].start + y, *extent
    of_queries = Owned(*torch.from_numpy(np.vstack((mask_areas, owned))[:, None]))
    return Winners(codes, cv2.convertScaleAbs(best, alpha=255), of_queries)


def _bands(rows: slice, columns: slice) -> Iterator[tuple[slice, slice]]:
    """What a box consists of, from top to bottom; nothing if it is empty."""
    width = columns.stop - columns.start
    if width == 0:
        return
    height = max(1, _BAND_PIXELS // width)
    for top in range(rows.start, rows.stop, height):
        yield slice(top, min(top + height, rows.stop)), columns


def _least_logits(scores: Tensor, mask_threshold: float) -> Tensor:
    """Logits (N,) below which a query can neither reach `mask_threshold` nor win a pixel from one that does.

    Such a rival's score x probability is at least the lowest score x `mask_threshold`.
    """
    least = torch.logit(mask_threshold * scores.min() / scores).clamp(max=_SURELY_BELOW_ONE)
    return least - _ROUNDING
