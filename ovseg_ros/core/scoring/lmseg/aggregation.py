"""Refining how well each word fits each cell: over cells by windowed attention, over words by linear attention.

The operations are CAT-Seg's (Cho et al., CVPR 2024), whose weights fit. What is alike for all words (features of the
image) or for all cells (features of the words, padding) is projected once and broadcast.

Notation: B images, K words, (h, w) cells, C channels, G of guidance.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.scoring.lmseg.config import LMSegConfig

_MASKED = -100.0
"""Added to the logits of cells that were no neighbours before the windows were shifted."""
_EPSILON = 1e-6


def _guided(layer: nn.Linear, cells: Tensor, guidance: Tensor) -> Tensor:
    """A layer of cells (..., C) and guidance (..., G) side by side, where the one is broadcast over the other."""
    width = cells.shape[-1]
    return F.linear(cells, layer.weight[:, :width]) + F.linear(guidance, layer.weight[:, width:], layer.bias)


class WindowAttention(nn.Module):
    """A Swin block without position biases, whose queries and keys also read the image's features."""

    mask: Tensor | None

    def __init__(self, config: LMSegConfig, grid: tuple[int, int], *, shifted: bool) -> None:
        """`grid`: (h, w), multiples of the window unless one of them is no larger."""
        super().__init__()
        width, guided = config.width, config.width + config.guidance_width
        self._heads = config.heads
        has_one = min(grid) <= config.window
        self._window = min(grid) if has_one else config.window
        self._shift = self._window // 2 if shifted and not has_one else 0
        self.norm1 = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(guided, width), nn.Linear(guided, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        mask = self._shift_mask(grid) if self._shift else None  # (windows, cells, cells)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, cells: Tensor, guidance: Tensor) -> Tensor:
        """Cells (B, K, h, w, C), guidance (B, h, w, G) -> (B, K, h, w, C)."""
        normalised, beside = self.norm1(cells), guidance[:, None]
        queries, keys = _guided(self.query, normalised, beside), _guided(self.key, normalised, beside)
        # (B * K, windows * heads, cells, C / heads) each
        queries, keys, values = (self._in_windows(part) for part in (queries, keys, self.value(normalised)))
        mask = None if self.mask is None else self.mask.to(cells.dtype).repeat_interleave(self._heads, dim=0)
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        cells = cells + self.out(self._in_place(read, cells.shape))
        return cells + self.mlp(self.norm2(cells))

    def _in_windows(self, cells: Tensor) -> Tensor:
        """(B, K, h, w, C) -> (B * K, windows * heads, cells of a window, C / heads)."""
        side = self._window
        if self._shift:
            cells = cells.roll((-self._shift, -self._shift), dims=(2, 3))
        parts = cells.flatten(0, 1).unflatten(2, (-1, side)).unflatten(1, (-1, side))  # (N, down, s, across, s, C)
        parts = parts.unflatten(-1, (self._heads, -1)).permute(0, 1, 3, 5, 2, 4, 6)
        return parts.flatten(4, 5).flatten(1, 3)

    def _in_place(self, read: Tensor, shape: torch.Size) -> Tensor:
        """Back from `_in_windows` to (B, K, h, w, C)."""
        side, (rows, columns) = self._window, shape[2:4]
        parts = read.unflatten(2, (side, side)).unflatten(1, (rows // side, columns // side, self._heads))
        cells = parts.permute(0, 1, 4, 2, 5, 3, 6).reshape(shape)
        return cells.roll((self._shift, self._shift), dims=(2, 3)) if self._shift else cells

    def _shift_mask(self, grid: tuple[int, int]) -> Tensor:
        """(windows, cells, cells): 0 between cells that are neighbours in the image, else `_MASKED`."""
        side, parts = self._window, []
        for cells in grid:
            place = torch.arange(cells)
            parts.append((place >= cells - side).long() + (place >= cells - self._shift))  # 0, 1 or 2
        region = 3 * parts[0][:, None] + parts[1]  # (h, w)
        windows = region.unflatten(1, (-1, side)).unflatten(0, (-1, side)).transpose(1, 2).flatten(2).flatten(0, 1)
        return (windows[:, None] != windows[:, :, None]).float() * _MASKED


class WordAttention(nn.Module):
    """A transformer block over words at each cell, by linear attention (Katharopoulos et al., 2020)."""

    def __init__(self, config: LMSegConfig) -> None:
        super().__init__()
        width, guided = config.width, config.width + config.guidance_width
        self._heads, self._pooling, self._padded = config.heads, config.pooling, config.padded_words
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(guided, width), nn.Linear(guided, width)
        self.value = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        if config.padded_words:
            self.padding = nn.Parameter(torch.zeros(width))
            self.padding_guidance = nn.Parameter(torch.zeros(config.guidance_width))

    def forward(self, cells: Tensor, guidance: Tensor) -> Tensor:
        """Cells (B, K, h, w, C), guidance (B or 1, K, G) -> (B, K, h, w, C); cells count twice in the result."""
        grid = cells.shape[2:4]
        pooling = self._pooling if self.training else 1
        pooled = _resized(cells, lambda maps: F.avg_pool2d(maps, pooling)) if pooling > 1 else cells
        pooled = pooled + self._read(self.norm1(pooled), guidance[:, :, None, None])
        pooled = pooled + self.mlp(self.norm2(pooled))
        if pooling > 1:
            pooled = _resized(pooled, lambda maps: F.interpolate(maps, grid, mode="bilinear", align_corners=True))
        return cells + pooled

    def _read(self, cells: Tensor, guidance: Tensor) -> Tensor:
        queries, keys = _guided(self.query, cells, guidance), _guided(self.key, cells, guidance)
        queries, keys, values = (self._in_heads(part) for part in (queries, keys, self.value(cells)))
        queries, keys = F.elu(queries) + 1, F.elu(keys) + 1  # (B, K, h, w, heads, d)
        read = torch.einsum("bkyxnd,bkyxne->byxnde", keys, values)
        weight = keys.sum(dim=1)  # (B, h, w, heads, d)
        if (missing := self._padded - cells.shape[1]) > 0:  # all alike, at every cell
            padding = self.norm1(self.padding)
            key = F.elu(self._in_heads(_guided(self.key, padding, self.padding_guidance))) + 1  # (heads, d)
            value = self._in_heads(self.value(padding))
            read = read + missing * torch.einsum("nd,ne->nde", key, value)
            weight = weight + missing * key
        total = torch.einsum("bkyxnd,byxnd->bkyxn", queries, weight) + _EPSILON
        return (torch.einsum("bkyxnd,byxnde->bkyxne", queries, read) / total[..., None]).flatten(-2)

    def _in_heads(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self._heads, -1))


def _resized(cells: Tensor, resize: Callable[[Tensor], Tensor]) -> Tensor:
    """Each word's map by itself: (B, K, h, w, C) -> (B, K, h', w', C)."""
    maps = resize(cells.flatten(0, 1).movedim(-1, 1))
    return maps.movedim(1, -1).unflatten(0, cells.shape[:2])
