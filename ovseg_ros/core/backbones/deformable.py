"""Multi-scale deformable attention (Zhu et al., ICLR 2021), sampled by transformers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from ovseg_ros.core.text_attention import in_float32

Grid = tuple[int, int]
"""Rows and columns of a level."""


class Layout(NamedTuple):
    """Where the cells of some levels lie, (x, y) in [0, 1] over the image, float32.

    Attributes:
        grids: of the levels.
        places: (sum of h * w, 2), the cells' middles, level after level.
        cells: (levels, 2), width and height of a cell.
    """

    grids: list[Grid]
    places: Tensor
    cells: Tensor


def layout_of(grids: Sequence[Grid], device: torch.device) -> Layout:
    """Made on the device, which waits for no number of the host."""
    levels = []
    for rows, columns in grids:
        y = (torch.arange(rows, device=device) + 0.5) / rows
        x = (torch.arange(columns, device=device) + 0.5) / columns
        levels.append(torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=-1))
    # The middle of the first cell is half a cell from the corner.
    return Layout(list(grids), torch.cat(levels), 2 * torch.stack([level[0] for level in levels]))


class DeformableAttention(nn.Module):
    """Each query reads a few points around its own place, on each level of what it attends to."""

    def __init__(self, width: int, *, heads: int, levels: int, points: int, value_width: int) -> None:
        super().__init__()
        self._shape = (heads, levels, points)
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, value_width)
        self.output_proj = nn.Linear(value_width, width)
        initialise(self, heads, levels, points)

    def forward(self, queries: Tensor, places: Tensor, values: Tensor, layout: Layout) -> Tensor:
        """What queries (B, Q, C) read, of the same shape.

        Sampled in float32 whatever the precision around it: in bfloat16, places would be some cells apart.

        Args:
            places: (Q, 2) of the queries, as of `Layout`.
            values: (B, N, C), the cells of `layout`.
        """
        offsets = self.sampling_offsets(queries).unflatten(-1, (*self._shape, 2))  # (B, Q, heads, levels, points, 2)
        weights = self.attention_weights(queries).unflatten(-1, (self._shape[0], -1)).softmax(dim=-1)
        weights = weights.unflatten(-1, self._shape[1:])  # (B, Q, heads, levels, points)
        projected = self.value_proj(values).unflatten(-1, (self._shape[0], -1))  # (B, N, heads, c)
        with in_float32(queries.device):
            locations = places[:, None, None, None] + offsets.float() * layout.cells[:, None]
            read = multi_scale_deformable_attention(projected.float(), layout.grids, locations, weights.float())
        return self.output_proj(read.to(projected))


def initialise(attention: nn.Module, heads: int, levels: int, points: int) -> None:
    """Random weights with which heads look in as many directions, and points ever further away; all count alike.

    `attention`: with the parts of a `DeformableAttention`.
    """
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], dim=-1)  # (heads, 2)
    directions = directions / directions.abs().amax(dim=-1, keepdim=True)
    offsets = directions[:, None, None] * torch.arange(1, points + 1)[:, None]  # (heads, 1, points, 2)
    with torch.no_grad():
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            layer = attention.get_submodule(name)
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            nn.init.zeros_(bias)
            if name in ("value_proj", "output_proj"):
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.zeros_(weight)
        bias = attention.get_submodule("sampling_offsets").get_parameter("bias")
        bias.copy_(offsets.expand(heads, levels, points, 2).flatten())
