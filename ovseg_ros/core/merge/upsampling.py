"""Masks at some of the pixels of a larger image: equal to bilinear interpolation of the whole, up to rounding."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_LARGEST_LOGIT = 1e4


def finite(mask_logits: Tensor) -> Tensor:
    """In float32, without infinities, since infinity times zero is not a number; not a number is outside."""
    return mask_logits.float().nan_to_num(nan=-_LARGEST_LOGIT).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


class Axis(NamedTuple):
    """Which cells some pixels lie between, along one axis.

    Attributes:
        before, after: (n,) int64, not descending.
        share: (n,) float32, of the cell after.
    """

    before: Tensor
    after: Tensor
    share: Tensor

    @classmethod
    def resized(cls, cells: int, pixels: int, device: torch.device | None = None) -> "Axis":
        """Between centres, without aligned corners; the outermost cells go on outwards."""
        position = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0, cells - 1)
        before = position.astype(np.int64)
        after, share = np.minimum(before + 1, cells - 1), (position - before).astype(np.float32)
        return cls(*(torch.from_numpy(part).to(device) for part in (before, after, share)))

    def reached(self, first: int, end: int) -> slice:
        """The pixels in which any cell from `first` to `end` has a part; of an axis on the CPU."""
        if first == end:
            return slice(0, 0)
        return slice(int(self.after.numpy().searchsorted(first)), int(self.before.numpy().searchsorted(end)))

    def of(self, pixels: slice) -> "Axis":
        """The same for some of the pixels."""
        return Axis(self.before[pixels], self.after[pixels], self.share[pixels])


def upsampled(mask_logits: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Masks (..., h, w) at those pixels: (..., rows, columns) float32, in the same way whichever are asked for."""
    top, left = int(rows.before[0]), int(columns.before[0])
    cells = finite(mask_logits[..., top : int(rows.after[-1]) + 1, left : int(columns.after[-1]) + 1])
    across = torch.lerp(
        cells.index_select(-1, columns.before - left), cells.index_select(-1, columns.after - left), columns.share
    )
    return torch.lerp(
        across.index_select(-2, rows.before - top), across.index_select(-2, rows.after - top), rows.share[:, None]
    )
