"""Rotary positions of DINOv3 (Siméoni et al., 2025): queries and keys are turned by angles that grow with position."""

import math

import torch
from torch import Tensor

_BASE = 100.0  # of the periods, in every DINOv3


def rotary_table(grid: tuple[int, int], head_width: int, unturned: int, device: torch.device) -> Tensor:
    """Sines and cosines by which a token's channels are turned, the same in every head and block.

    A patch's place is that of its centre, -1 to 1 from one side of the image to the other along either axis, so a
    larger image has finer steps and not larger values. A quarter of the channels' number is periods, from 1 to (almost)
    100 in geometric steps; the first half of the angles turns with the row, the second with the column, and the second
    half of the channels repeats the angles of the first.

    Args:
        grid: (rows, columns) of patches.
        head_width: channels of one attention head, a multiple of 4.
        unturned: tokens before the patches, which have no place and stay as they are.
        device: where the table is made.

    Returns:
        (unturned + rows * columns, 2 * head_width) float32, sines before cosines: timm's `rope` argument for blocks
        that rotate by halves.
    """
    exponents = torch.arange(0, 1, 4 / head_width, device=device)  # (head_width / 4,)
    places = [(torch.arange(count, device=device) + 0.5) / count * 2 - 1 for count in grid]
    centres = torch.cartesian_prod(*places)  # (P, 2): row, column
    angles = 2 * math.pi * centres[:, :, None] / _BASE**exponents  # (P, 2, head_width / 4)
    angles = angles.flatten(1).tile(2)  # (P, head_width)
    table = torch.cat([angles.sin(), angles.cos()], dim=1)  # (P, 2 * head_width)
    still = torch.cat([table.new_zeros(head_width), table.new_ones(head_width)])
    return torch.cat([still.expand(unturned, -1), table])
