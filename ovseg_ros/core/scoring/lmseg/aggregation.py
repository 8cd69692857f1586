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
_SHARE = 2**-8
"""Of sums over words, so that they are no longer than means of the usual 256, and float16 can hold them. A power of two
changes no bit of float32.
"""
ABSENT = -1e4
"""Added to the keys of words that are none, which an engine fills up with: e^-10000 is nothing in any precision."""


def _guided(layer: nn.Linear, cells: Tensor, guidance: Tensor, offset: Tensor | None = None) -> Tensor:
    """A layer of cells (..., C) and guidance (..., G) side by side, where the one is broadcast over the other.

    `offset` is added to what guidance makes.
    """
    width = cells.shape[-1]
    beside = F.linear(guidance, layer.weight[:, width:], layer.bias)
    return F.linear(cells, layer.weight[:, :width]) + (beside if offset is None else beside + offset)


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

    def forward(self, cells: Tensor, guidance: Tensor, absence: Tensor | None = None) -> Tensor:
        """Cells (B, K, h, w, C), guidance (B or 1, K, G) -> (B, K, h, w, C); cells count twice in the result.

        `absence` (K,): 0 of words, `ABSENT` of what fills them up, which no word reads; None for words alone.
        """
        grid = cells.shape[2:4]
        pooling = self._pooling if self.training else 1
        pooled = _resized(cells, lambda maps: F.avg_pool2d(maps, pooling)) if pooling > 1 else cells
        pooled = pooled + self._read(self.norm1(pooled), guidance[:, :, None, None], absence)
        pooled = pooled + self.mlp(self.norm2(pooled))
        if pooling > 1:
            pooled = _resized(pooled, lambda maps: F.interpolate(maps, grid, mode="bilinear", align_corners=True))
        return cells + pooled

    def _read(self, cells: Tensor, guidance: Tensor, absence: Tensor | None) -> Tensor:
        offset = None if absence is None else absence[:, None, None, None]
        queries, keys = _guided(self.query, cells, guidance), _guided(self.key, cells, guidance, offset)
        queries, keys, values = (self._in_heads(part) for part in (queries, keys, self._values(cells)))
        queries, keys = F.elu(queries) + 1, F.elu(keys) + 1  # (B, K, h, w, heads, d)
        read = torch.einsum("bkyxnd,bkyxne->byxnde", keys, values)
        weight = _summed(keys)  # (B, h, w, heads, d)
        missing = self._missing(cells.shape[1], absence)
        if missing is not None:  # all alike, at every cell
            padding = self.norm1(self.padding)
            key = F.elu(self._in_heads(_guided(self.key, padding, self.padding_guidance))) + 1  # (heads, d)
            value = self._in_heads(self._values(padding))
            read = read + missing * torch.einsum("nd,ne->nde", key, value)
            weight = weight + missing * (_SHARE * key)
        least = max(_SHARE * _EPSILON, torch.finfo(weight.dtype).tiny)
        total = torch.einsum("bkyxnd,byxnd->bkyxn", queries, weight) + least
        return (torch.einsum("bkyxnd,byxnde->bkyxne", queries, read) / total[..., None]).flatten(-2)

    def _values(self, cells: Tensor) -> Tensor:
        """What words are read as, times `_SHARE`."""
        return F.linear(cells, _SHARE * self.value.weight, _SHARE * self.value.bias)

    def _missing(self, count: int, absence: Tensor | None) -> Tensor | int | None:
        """How many learned words fill these up; None for none at all."""
        if absence is not None and self._padded:
            present = (absence > ABSENT / 2).sum()
            return (self._padded - present).clamp(min=0).to(absence.dtype)
        return self._padded - count if count < self._padded else None

    def _in_heads(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self._heads, -1))


def _summed(keys: Tensor) -> Tensor:
    """The sum over words, added up in float32, times `_SHARE`: (B, K, ...) -> (B, ...)."""
    return (_SHARE * keys.sum(dim=1, dtype=torch.float32)).to(keys.dtype)


class AggregationLayer(nn.Module):
    """Over cells, plainly and with shifted windows; then over words."""

    def __init__(self, config: LMSegConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.spatial = nn.ModuleList(
            WindowAttention(config, grid, shifted=shifted) for shifted in ((False, True) if config.spatial else ())
        )
        self.guidance_norm = nn.LayerNorm(config.guidance_width) if config.spatial else None
        self.by_word = WordAttention(config) if config.by_word else None

    def forward(self, cells: Tensor, image: Tensor, words: Tensor, absence: Tensor | None = None) -> Tensor:
        """Cells (B, K, h, w, C); of the image (B, h, w, G), of the words (B or 1, K, G); `absence` as `WordAttention`
        has it.
        """
        if self.guidance_norm is not None:
            guidance = self.guidance_norm(image)
            for block in self.spatial:
                cells = block(cells, guidance)
        return cells if self.by_word is None else self.by_word(cells, words, absence)


def _resized(cells: Tensor, resize: Callable[[Tensor], Tensor]) -> Tensor:
    """Each word's map by itself: (B, K, h, w, C) -> (B, K, h', w', C)."""
    maps = resize(cells.flatten(0, 1).movedim(-1, 1))
    return maps.movedim(1, -1).unflatten(0, cells.shape[:2])
