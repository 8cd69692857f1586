"""Few lengths of free axes: inputs are filled up to the next one, and outputs cut again."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.engine.part import Part, Port, Run

_LENGTHS = {
    "images": (1, 2, 4, 8),
    "crops": (8, 16, 32),
    "masks": (16, 32, 64, 100, 128),
    "words": (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
    "tokens": (32, 64, 128, 256, 512),
}
"""What free axes are of, and how long they then are. Crops and masks are as many as presets read at once; the cost of
some models grows with the words, so these are at most doubled."""


def bucket(axis: str, length: int) -> int:
    """The shortest length of an axis of such things that `length` of them fit into.

    Beyond the longest in the list it is a multiple of that. KeyError for things that have no list.
    """
    lengths = _LENGTHS[axis]
    longest = lengths[-1]
    return next((some for some in lengths if length <= some), -(-length // longest) * longest)


class Bucketed:
    """Runs a part in few shapes only, so that an engine that makes something for each shape makes few."""

    def __init__(self, part: Part, run: Run) -> None:
        """`run`: what gets the filled inputs. KeyError if a free axis of the part is of things without a list."""
        self._part, self._run = part, run
        for port in (*part.inputs, *part.outputs):
            for axis in port.free.values():
                bucket(axis, 1)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """As the part."""
        lengths = {
            axis: tensor.shape[place]
            for port, tensor in zip(self._part.inputs, tensors, strict=True)
            for place, axis in port.free.items()
        }
        outputs = self._run(*map(_filled, self._part.inputs, tensors))
        return tuple(_cut(port, output, lengths) for port, output in zip(self._part.outputs, outputs, strict=True))


def _filled(port: Port, tensor: Tensor) -> Tensor:
    missing = [0] * tensor.ndim
    for place, axis in port.free.items():
        missing[place] = bucket(axis, tensor.shape[place]) - tensor.shape[place]
    return F.pad(tensor, list(_after_each(missing)), value=port.fill) if any(missing) else tensor


def _after_each(missing: list[int]) -> Iterable[int]:
    """As `F.pad` takes them: the last axis first, before and after it."""
    for count in reversed(missing):
        yield from (0, count)


def _cut(port: Port, tensor: Tensor, lengths: dict[str, int]) -> Tensor:
    for place, axis in port.free.items():
        tensor = tensor.narrow(place, 0, lengths[axis])
    return tensor
