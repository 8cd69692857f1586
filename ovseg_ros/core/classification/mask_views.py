"""What CLIP looks at, and which of its patches each mask holds: the whole image, or a crop around each mask."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

_BAND_ELEMENTS = 1 << 24
"""Most mask values upsampled at once: 100 masks at 896 x 896 would be 320 MB."""
_ROUNDING = 1e-5
"""By how much a score may exceed the objectness that bounds it."""


def likeliest(objectness: Tensor, most: int, worth: float, least: float) -> tuple[Tensor, Tensor]:
    """Masks worth reading, of each image the likeliest first.

    Args:
        objectness: (B, Q), the probability of being any segment.
        most: read in one image.
        worth: masks below this objectness are not worth it.
        least: nor are those with no more objectness than this, whose score cannot be above it.

    Returns:
        Queries (B, M), and (B, M) bool: whether each is worth reading, or only fills up. On a CPU M is the number that
        some image needs; elsewhere, where the host would have to wait for that number, always `most`.
    """
    scores, queries = objectness.topk(min(most, objectness.shape[1]), dim=1)
    is_read = (scores >= worth) & (scores > least - _ROUNDING)
    if objectness.device.type == "cpu" and is_read.numel():
        count = int(is_read.sum(dim=1).max())
        queries, is_read = queries[:, :count], is_read[:, :count]
    return queries, is_read


def view_size(height: int, width: int, longer_side: int, patch: tuple[int, int]) -> tuple[int, int]:
    """What an image is resized to: its longer side to `longer_side`, each side to the nearest whole patch.

    Nothing is padded or cut, so masks that cover the image cover the view; the aspect ratio changes by at most half a
    patch.
    """
    scale = longer_side / max(height, width)
    return _whole(height * scale, patch[0]), _whole(width * scale, patch[1])


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) -> (B, 3, *size)."""
    if tuple(images.shape[-2:]) == size:
        return images
    shrinks = size[0] < images.shape[-2] or size[1] < images.shape[-1]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=shrinks)


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


def rois(index: Tensor, windows: Tensor) -> Tensor:
    """(N, 5) as `roi_align` takes them: which image (N,), then the window (N, 4)."""
    return torch.cat([index[:, None].to(windows), windows], dim=1)


def crop_images(images: Tensor, windows: Tensor, image_index: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows (N, 4) of images (B, 3, H, W), in their pixels, each of image `image_index` (N,): (N, 3, *size)."""
    return roi_align(images, rois(image_index, windows).to(images), size, sampling_ratio=2, aligned=True)


def both_ways(views: Tensor) -> Tensor:
    """Views (N, ..., w), then their mirror images."""
    return torch.cat([views, views.flip(-1)])


def crop_masks(mask_logits: Tensor, windows: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Window n (of (N, 4), in the image's pixels) of mask n (of (N, h, w)), bilinearly: (N, 1, *size)."""
    across, down = mask_logits.shape[-1] / image_size[1], mask_logits.shape[-2] / image_size[0]
    scaled = torch.stack([windows[:, 0::2] * across, windows[:, 1::2] * down], dim=-1).flatten(1)
    own = rois(torch.arange(len(windows), device=windows.device), scaled)
    masks = mask_logits[:, None].float()  # roi_align knows no bfloat16
    return roi_align(masks, own.to(masks), size, sampling_ratio=1, aligned=True)


def patch_shares(mask_logits: Tensor, windows: Tensor, image_width: int, grid: tuple[int, int]) -> Tensor:
    """Share (M, rows, columns) of each patch of a crop that its mask covers.

    Args:
        mask_logits: (M, h, w), covering images `image_width` pixels wide.
        windows: (M, 4) of the crops, in the image's pixels.
        grid: rows and columns of patches.
    """
    return roi_align(
        (mask_logits > 0).to(windows)[:, None],
        rois(torch.arange(len(windows), device=windows.device), windows),
        grid,
        spatial_scale=mask_logits.shape[-1] / image_width,
        sampling_ratio=4,
        aligned=True,
    )[:, 0]


def patches_inside(mask_logits: Tensor, size: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Which patches hold any pixel of a mask, FISA Eq. 5.

    Masks are resized bilinearly to the pixels that CLIP sees, cut at probability 0.5, and max-pooled over patches.

    Args:
        mask_logits: (N, M, h, w).
        size: (height, width) of what CLIP sees, multiples of `patch`.

    Returns:
        (N, M, P) bool, patches row by row. NaN counts as outside.
    """
    count, masks = mask_logits.shape[:2]
    grid = (size[0] // patch[0], size[1] // patch[1])
    flat = mask_logits.reshape(-1, 1, *mask_logits.shape[2:])  # (N * M, 1, h, w)
    band = max(1, _BAND_ELEMENTS // (size[0] * size[1]))
    pooled = [flat.new_zeros((0, 1, *grid))]
    for part in flat.split(band) if len(flat) else ():
        if part.shape[-2:] != size:
            part = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        pooled.append(F.max_pool2d((part >= 0).to(part.dtype), patch))
    return (torch.cat(pooled) > 0).view(count, masks, grid[0] * grid[1])


def _whole(length: float, patch: int) -> int:
    """The nearest positive multiple of a patch."""
    return max(1, round(length / patch)) * patch


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied index and one past the last, along the last axis of (M, n) bool; the whole axis where none is."""
    length = occupied.shape[1]
    positions = torch.arange(length, device=occupied.device)
    first = torch.where(occupied, positions, length).amin(dim=1)
    last = torch.where(occupied, positions + 1, 0).amax(dim=1)
    empty = last == 0
    return first.masked_fill(empty, 0).float(), last.masked_fill(empty, length).float()
