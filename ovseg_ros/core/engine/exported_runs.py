"""Running a part by what was exported of it, for images of one size or several."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovseg_ros.core.engine.free_axes import cut, filled, lengths_of
from ovseg_ros.core.engine.manifest import ExportedPart, Manifest, TensorShape
from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.errors import ConfigError, ImageSizeError

LEAST = 2
"""Tracing takes a length of 1 for one that never changes, so exported parts see none but of images, which are batches.

What is shorter is filled up, and outputs are cut again.
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A part exported for one size.

    Attributes:
        shapes: what it takes and gives.
        call: tensors of these types and shapes in the order of the inputs -> outputs in theirs.
    """

    shapes: ExportedPart
    call: Callable[[Sequence[Tensor]], Sequence[Tensor]]


class ExportedRun:
    """Runs a part by that of its programs which is for the size at hand; a `Run`."""

    def __init__(self, part: Part, programs: Sequence[Program], manifest: Manifest, folder: Path) -> None:
        """`programs`: at least one. `manifest`, `folder`: what they are of, for messages.

        ConfigError if the part has other inputs or outputs than its programs.
        """
        self._part, self._programs = part, tuple(programs)
        self._where = f"the export in {folder} for cameras of {manifest.cameras}"
        self._manifest = manifest
        for program in programs:
            for ports, exported in ((part.inputs, program.shapes.inputs), (part.outputs, program.shapes.outputs)):
                if [port.name for port in ports] != [tensor.name for tensor in exported]:
                    raise ConfigError(
                        f"{self._where}: the part {part.name} has {_names(exported)}, but this version of it has "
                        f"{_names(ports)}; {manifest.again(manifest.preset)}"
                    )

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """As the part. ImageSizeError for a size that it was not exported for."""
        lengths = lengths_of(self._part, tensors)
        program = next((some for some in self._programs if _takes(some.shapes, tensors)), None)
        if program is None:
            raise ImageSizeError(self._misfit(tensors))
        given = [
            filled(port, tensor, at_least).to(getattr(torch, shape.dtype))
            for port, tensor, shape in zip(self._part.inputs, tensors, program.shapes.inputs, strict=True)
        ]
        outputs = program.call(given)
        return cut(self._part, outputs, lengths)

    def _misfit(self, tensors: Sequence[Tensor]) -> str:
        wanted = " or ".join(
            ", ".join(f"{tensor.name} {_shape(tensor.shape)}" for tensor in program.shapes.inputs)
            for program in self._programs
        )
        got = ", ".join(
            f"{port.name} {_shape(tensor.shape)}" for port, tensor in zip(self._part.inputs, tensors, strict=True)
        )
        return (
            f"{self._where} does not do for images of this size: the part {self._part.name} takes {wanted}, and got "
            f"{got}; {self._manifest.again(self._manifest.preset, 'WxH')}, WxH being this size"
        )


def free_lengths(shapes: Sequence[TensorShape], tensors: Sequence[Tensor]) -> dict[str, int]:
    """How long the free axes are, by what they are of."""
    return {
        axis: length
        for shape, tensor in zip(shapes, tensors, strict=True)
        for axis, length in zip(shape.shape, tensor.shape, strict=True)
        if isinstance(axis, str)
    }


def sized(shape: TensorShape, lengths: Mapping[str, int]) -> list[int]:
    """A tensor's shape with all its lengths."""
    return [lengths[axis] if isinstance(axis, str) else axis for axis in shape.shape]


def at_least(axis: str, length: int) -> int:
    """How long a free axis of such things is when it goes in."""
    return length if axis == "images" else max(length, LEAST)


def _takes(part: ExportedPart, tensors: Sequence[Tensor]) -> bool:
    return all(
        len(shape.shape) == tensor.ndim
        and all(isinstance(axis, str) or axis == length for axis, length in zip(shape.shape, tensor.shape, strict=True))
        for shape, tensor in zip(part.inputs, tensors, strict=True)
    )


def _names(ports: Sequence[Port] | Sequence[TensorShape]) -> str:
    return ", ".join(port.name for port in ports) or "none"


def _shape(lengths: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, lengths))})"
