"""Counting by shape: modules on the meta device, where nothing is downloaded or allocated.

A multiplication and an addition count as two FLOPs. Matrix products, convolutions and attention are counted; norms,
activations, resizing and pooling, which are below a percent of them, are not.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

META = torch.device("meta")
FEW_WORDS, MANY_WORDS = 10, 1000


@torch.no_grad()
def flops_of(run: Callable[[], object]) -> int:
    """FLOPs of a call."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not know fused `nn.MultiheadAttention`
    try:
        with FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops())


def parameters_of(module: nn.Module) -> int:
    """How many numbers a module holds as parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def print_row(title: str, unit: str, value: float) -> None:
    """A line of a table on stdout."""
    print(f"{title:40}{unit:>14} {value:14.3f}")
