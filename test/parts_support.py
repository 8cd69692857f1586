"""What every part of a model must do, so that any engine can run it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.engine.part import Part, Run
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import Vocabulary

Inputs = dict[str, list[tuple[Tensor, ...]]]


def recorded(segmenter: PanopticSegmenter, image: np.ndarray, vocabulary: Vocabulary) -> Inputs:
    """What each part is given for an image, by its name; a part may run several times."""
    inputs: Inputs = {part.name: [] for part in segmenter.model.parts}
    before = {part.name: part.run for part in segmenter.model.parts}

    def recording(part: Part, run: Run) -> Run:
        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            inputs[part.name].append(tensors)
            return run(*tensors)

        return call

    for part in segmenter.model.parts:
        part.run = recording(part, part.run)
    segmenter.segment(image, segmenter.prepare(vocabulary))
    for part in segmenter.model.parts:
        part.run = before[part.name]
    return inputs


def check_export(part: Part, tensors: Sequence[Tensor], *, strict: bool = True, fixed: str = "") -> None:
    """An export without a break, with free axes free where they are longer than 1; it says what the module says.

    `fixed`: what free axes are of that stay as long as they are.
    """
    free = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, of in port.free.items() if tensor.shape[axis] > 1 and of != fixed}
        for port, tensor in zip(part.inputs, tensors, strict=True)
    )
    with torch.no_grad():
        tensors = [tensor.clone() for tensor in tensors]  # made in inference mode, they could not be traced
        program = torch.export.export(_Adapted(part), tuple(tensors), dynamic_shapes=(free,), strict=strict)
        exported = program.module(check_guards=False)  # torch 2.9 cannot write down that two inputs are as long
        for found, wanted in zip(exported(*tensors), part.module(*tensors), strict=True):
            torch.testing.assert_close(found, wanted)


class _Adapted(torch.nn.Module):
    def __init__(self, part: Part) -> None:
        super().__init__()
        self.module = part.module

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.module(*tensors)  # type: ignore[no-any-return]
