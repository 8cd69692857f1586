"""A part compiled by torch.compile: one graph for each size of images, whatever is free of words, crops and masks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ovseg_ros.core.engine.part import Part, Run

_MOST_SIZES = 64
"""Of images, and of parts that share a class, before compiling is given up; PyTorch's own limit is 8."""


def compiled(part: Part, backend: str | Callable[..., Any] = "inductor") -> Run:
    """What runs a part as one graph, an error if it is none.

    A free axis is free in the graph, but where its length is 1: that is a graph of its own, as PyTorch has it.
    """
    run = torch.compile(part.module, fullgraph=True, dynamic=False, backend=backend)

    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        for port, tensor in zip(part.inputs, tensors, strict=True):
            for axis in port.free:
                if tensor.shape[axis] > 1:
                    torch._dynamo.mark_dynamic(tensor, axis)
        with torch._dynamo.config.patch(recompile_limit=_MOST_SIZES, accumulated_recompile_limit=16 * _MOST_SIZES):
            outputs: tuple[Tensor, ...] = run(*tensors)
        return outputs

    return call
