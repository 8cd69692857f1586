"""Axes of a part's tensors whose length changes from call to call: how long they are, filled up, and cut again."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.engine.part import Part, Port


def lengths_of(part: Part, tensors: Sequence[Tensor]) -> dict[str, int]:
    """How long the free axes of a part's inputs are, by what they are of."""
    return {
        axis: tensor.shape[place]
        for port, tensor in zip(part.inputs, tensors, strict=True)
        for place, axis in port.free.items()
    }


def filled(port: Port, tensor: Tensor, wanted: Callable[[str, int], int]) -> Tensor:
    """An input with its free axes filled up by `Port.fill`; `wanted`: of what an axis is, and its length -> another."""
    missing = [0] * tensor.ndim
    for place, axis in port.free.items():
        missing[place] = wanted(axis, tensor.shape[place]) - tensor.shape[place]
    if not any(missing):
        return tensor
    padding = [count for length in reversed(missing) for count in (0, length)]  # as `F.pad` wants it
    return F.pad(tensor, padding, value=bool(port.fill) if tensor.dtype is torch.bool else port.fill)


def cut(part: Part, outputs: Sequence[Tensor], lengths: Mapping[str, int]) -> tuple[Tensor, ...]:
    """A part's outputs with their free axes as long as they were before something was filled up."""
    return tuple(_cut(port, output, lengths) for port, output in zip(part.outputs, outputs, strict=True))


def _cut(port: Port, tensor: Tensor, lengths: Mapping[str, int]) -> Tensor:
    for place, axis in port.free.items():
        tensor = tensor.narrow(place, 0, lengths[axis])
    return tensor
