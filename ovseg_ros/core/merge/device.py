"""Who owns each pixel, on a GPU: no shape depends on data, so the host waits for nothing before the results."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.merge.segments import Kept, Owned
from ovseg_ros.core.merge.upsampling import finite

# Most mask values (images x queries x pixels) upsampled at once, but for one mask of each image: 64 MiB.
_CHUNK_ELEMENTS = 1 << 24


def assign_pixels(
    mask_logits: Tensor, queries: Tensor, kept: Kept, size: tuple[int, int], mask_threshold: float
) -> tuple[Tensor, Tensor, Owned]:
    """As `boxes.assign_pixels`, of B images and N queries of each, of which the valid come first.

    Args:
        mask_logits: (B, Q, h, w).
        queries: (B, N), which; N >= 1.
        kept: what they are.
        size, mask_threshold: as of `merge_panoptic`.

    Returns:
        The owner (B, H, W) int64, an index of `queries`, or N; the confidence (B, H, W) uint8; what each query owns.
    """
    (images, count), (height, width), device = queries.shape, size, mask_logits.device
    best = torch.full((images, height, width), -1.0, device=device)
    owner = torch.full((images, height, width), count, dtype=torch.int64, device=device)
    mask_areas = []
    image = torch.arange(images, device=device)[:, None]
    step = max(1, _CHUNK_ELEMENTS // (images * height * width))
    for first in range(0, count, step):
        some = slice(first, first + step)
        masks = finite(mask_logits[image, queries[:, some]])
        probabilities = F.interpolate(masks, size=size, mode="bilinear", align_corners=False).sigmoid_()
        is_inside = probabilities >= mask_threshold
        mask_areas.append(is_inside.sum(dim=(2, 3)))
        value, winner = probabilities.mul_(kept.scores[:, some, None, None]).max(dim=1)  # the first of equals
        is_covered = is_inside.gather(1, winner[:, None])[:, 0]
        is_better = value > best
        owner = torch.where(is_better, torch.where(is_covered, winner + first, count), owner)
        best = torch.where(is_better, value, best)
    row_counts = _histogram(owner, count, torch.arange(height, device=device)[:, None], height)
    column_counts = _histogram(owner, count, torch.arange(width, device=device), width)
    owned = Owned(torch.cat(mask_areas, dim=1), row_counts.sum(dim=2), *_extents(column_counts, row_counts))
    return owner, (best * 255).round_().to(torch.uint8), owned


def _histogram(owner: Tensor, count: int, position: Tensor, positions: int) -> Tensor:
    """How many pixels each of `count` owners has at each position along an axis: (B, N, positions) int64.

    Unlike `bincount`, it does not wait for a CUDA device.
    """
    image = torch.arange(len(owner), device=owner.device)[:, None, None] * (count + 1)
    flat = ((image + owner) * positions + position).flatten()
    ones = torch.ones(1, dtype=torch.int64, device=owner.device).expand_as(flat)
    counts = torch.zeros(len(owner) * (count + 1) * positions, dtype=torch.int64, device=owner.device)
    return counts.scatter_add_(0, flat, ones).view(len(owner), count + 1, positions)[:, :-1]


def _extents(column_counts: Tensor, row_counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, y, width and height (B, N) of what is occupied."""
    (x, width), (y, height) = _extent(column_counts), _extent(row_counts)
    return x, y, width, height


def _extent(counts: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied position and length of the occupied range along the last axis; meaningless for empty rows."""
    occupied = (counts > 0).to(torch.uint8)
    first = occupied.argmax(dim=-1)
    last = counts.shape[-1] - 1 - occupied.flip(-1).argmax(dim=-1)
    return first, last - first + 1
