"""Few lengths of free axes: inputs are filled up to the next one, and outputs cut again."""

from torch import Tensor

from ovseg_ros.core.engine.free_axes import cut, filled, lengths_of
from ovseg_ros.core.engine.part import Part, Run

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
        lengths = lengths_of(self._part, tensors)
        outputs = self._run(*(filled(port, one, bucket) for port, one in zip(self._part.inputs, tensors, strict=True)))
        return cut(self._part, outputs, lengths)
