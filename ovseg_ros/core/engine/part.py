"""The parts of a model that an engine runs: tensors in, tensors out, words among them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Run = Callable[..., tuple[Tensor, ...]]
"""Tensors in the order of a part's inputs -> tensors in the order of its outputs."""


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that goes into a part or comes out of one.

    Attributes:
        name: as exported files call it.
        free: axes whose length changes from call to call, and what of: {0: "images", 2: "words"}. All others stay as
            they are for one size of images.
        fill: of an input, the value that it is filled up with by engines that want fewer lengths of free axes.
        keeps_type: of an input, whether it goes in as it is; else floating-point inputs come in the part's precision.
    """

    name: str
    free: Mapping[int, str] = field(default_factory=dict)
    fill: float = 0.0
    keeps_type: bool = False


class Part:
    """A part of a model that holds nothing of a vocabulary and never waits for the device.

    Attributes:
        name: unique in its model.
        module: what computes it; owned by the model.
        inputs, outputs: of its call, in order.
        dtype: of its weights, outside of float32 islands.
        run: what runs it now: the module itself, or an engine in its place.
    """

    def __init__(self, name: str, module: nn.Module, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        """`module`: takes tensors in the order of `inputs` and returns a tuple in the order of `outputs`."""
        self.name, self.module = name, module
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.dtype = torch.float32
        self.run: Run = module

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The outputs for one tensor of each input."""
        return self.run(
            *(
                tensor if port.keeps_type or not tensor.is_floating_point() else tensor.to(self.dtype)
                for tensor, port in zip(tensors, self.inputs, strict=True)
            )
        )
