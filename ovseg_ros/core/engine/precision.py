"""Weights stored in half precision, but for islands where its few bits would show."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""By the names in `options.PRECISIONS`."""


class Float32Island(nn.Module):
    """A module that stays in float32 and computes in it, with everything inside, whatever is around it.

    It takes inputs of any floating-point type, and says itself of which type its outputs are.
    """

    def inhabitants(self) -> Iterable[nn.Module]:
        """All modules that stay in float32."""
        return self.modules()


class Float32Modules(Float32Island):
    """An island of modules that belong to others, where they keep their names."""

    def __init__(self, *borrowed: nn.Module) -> None:
        super().__init__()
        self._borrowed = borrowed  # a tuple, so that they are no children of this one

    def inhabitants(self) -> Iterable[nn.Module]:
        """The others' modules, with all inside."""
        return (inner for module in self._borrowed for inner in module.modules())


class Float32Tensors(nn.Module):
    """A module of which some tensors of its own stay in float32; what is inside it does not.

    Attributes:
        float32_tensors: their names; not every instance needs to have all.
    """

    float32_tensors: ClassVar[frozenset[str]]


def store(module: nn.Module, dtype: torch.dtype) -> None:
    """Converts parameters and buffers in place, but for those inside a `Float32Island` and `Float32Tensors`."""
    kept = {id(inner) for island in _islands(module) for inner in island.inhabitants()}
    for inner in module.modules():
        if id(inner) in kept:
            continue
        own = inner.float32_tensors if isinstance(inner, Float32Tensors) else ()
        for name, parameter in inner.named_parameters(recurse=False):
            if parameter.is_floating_point() and name not in own:
                parameter.data = parameter.data.to(dtype)
        for name, buffer in inner.named_buffers(recurse=False):
            if buffer.is_floating_point() and name not in own:
                inner.register_buffer(name, buffer.to(dtype), persistent=name not in inner._non_persistent_buffers_set)


def _islands(module: nn.Module) -> Iterable[Float32Island]:
    return (inner for inner in module.modules() if isinstance(inner, Float32Island))
