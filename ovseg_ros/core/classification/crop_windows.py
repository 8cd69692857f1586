"""Square windows around masks, for classifiers that read crops."""

import torch
from torch import Tensor


def square_windows(masks: Tensor, size: tuple[int, int], context: float) -> Tensor:
    """Windows around masks, cut to the image's size and shifted into it.

    Args:
        masks: (M, h, w) logits that cover the image.
        size: (height, width) of the image, pixels.
        context: side of a window over the longer side of its mask's box. An empty mask's box is the whole image.

    Returns:
        (M, 4) left, top, right, bottom in image pixels.
    """
    height, width = size
    inside = masks > 0  # (M, h, w)
    left, right = _extent(inside.any(dim=1))
    top, bottom = _extent(inside.any(dim=2))
    across, down = width / masks.shape[2], height / masks.shape[1]
    left, right, top, bottom = left * across, right * across, top * down, bottom * down
    side = context * torch.maximum(right - left, bottom - top)
    window_width, window_height = side.clamp(max=width), side.clamp(max=height)
    x = ((left + right - window_width) / 2).clamp(min=0).minimum(width - window_width)
    y = ((top + bottom - window_height) / 2).clamp(min=0).minimum(height - window_height)
    return torch.stack([x, y, x + window_width, y + window_height], dim=1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied index and one past the last, along the last axis of (M, n) bool; the whole axis where none is."""
    length = occupied.shape[1]
    positions = torch.arange(length, device=occupied.device)
    first = torch.where(occupied, positions, length).amin(dim=1)
    last = torch.where(occupied, positions + 1, 0).amax(dim=1)
    empty = last == 0
    return first.masked_fill(empty, 0).float(), last.masked_fill(empty, length).float()
