"""Low-rank adaptation (Hu et al., 2022) of the query and value projections of an open_clip tower."""

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankQueryValue(nn.Module):
    """Adds B A to the query and the value rows of a packed (3 C, C) attention weight; B starts at zero."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.query_down, self.value_down = (nn.Parameter(torch.empty(rank, width)) for _ in range(2))  # A
        self.query_up, self.value_up = (nn.Parameter(torch.zeros(width, rank)) for _ in range(2))  # B
        for matrix in (self.query_down, self.value_down):
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """(3 C, C) -> (3 C, C); keys stay as they are."""
        query, key, value = weight.chunk(3)
        return torch.cat([query + self.query_up @ self.query_down, key, value + self.value_up @ self.value_down])


def add_low_rank(visual: VisionTransformer, rank: int) -> list[LowRankQueryValue]:
    """Give every attention of an open_clip `VisionTransformer` low-rank updates, in place; returns those."""
    updates = []
    for block in visual.transformer.resblocks:
        weight = block.attn.in_proj_weight
        updates.append(LowRankQueryValue(weight.shape[1], rank).to(device=weight.device, dtype=weight.dtype))
        parametrize.register_parametrization(block.attn, "in_proj_weight", updates[-1])
    return updates
