"""What of `ovseg count` is about a whole frame: FLOPs and bytes of every preset, at a camera's own aspect ratio."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ovseg_ros.core.engine.part import Part, Run
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.model import Model
from ovseg_ros.offline.tools.model_shapes import model_shapes, prompt_shapes
from ovseg_ros.offline.tools.shapes import META, print_row

HALF = torch.float16


class WrittenBytes(TorchDispatchMode):
    """While in it, adds up the bytes of all that is computed; views write nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(alias.alias_info is not None for alias in func._schema.returns):  # type: ignore[attr-defined]
            self.total += sum(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def count_frame(
    preset: str, size: tuple[int, int], words: int, beside: AbstractContextManager[object] | None = None
) -> dict[str, Any]:
    """A frame from image to logits, the merge not included, with weights in half precision.

    Args:
        size: (width, height) of the camera's images, pixels.
        words: of the vocabulary.
        beside: entered while the model runs, for whoever looks at more.

    Returns:
        `flops` and, of all weights, `weight_bytes`; `written_bytes` of activations; of each of `parts` its FLOPs.
    """
    model = model_shapes(preset)
    store(model, HALF)
    for part in model.parts:
        part.dtype = HALF
    prompt = prompt_shapes(model, words)
    pixels = torch.empty(1, 3, size[1], size[0], device=META)
    of_parts = {part.name: 0 for part in model.parts}
    flops = FlopCounterMode(display=False)
    for part in model.parts:
        part.run = _counted(part, part.run, of_parts, flops)
    with torch.no_grad(), beside or nullcontext(), flops, WrittenBytes() as written:
        model(pixels, prompt)
    return {
        "size": list(size),
        "flops": int(flops.get_total_flops()),
        "weight_bytes": _weights(model),
        "written_bytes": written.total,
        "parts": of_parts,
    }


def _counted(part: Part, run: Run, into: dict[str, int], counter: FlopCounterMode) -> Run:
    def call(*tensors: Tensor) -> tuple[Tensor, ...]:
        before = counter.get_total_flops()
        outputs = run(*tensors)
        into[part.name] += int(counter.get_total_flops() - before)
        return outputs

    return call


def _weights(model: Model) -> int:
    return sum(value.nbytes for value in (*model.parameters(), *model.buffers()))


def print_frame(frame: dict[str, Any]) -> None:
    """A readable table on stdout."""
    width, height = frame["size"]
    print_row(f"a frame of {width}x{height}, without the merge", "GFLOP", frame["flops"] / 1e9)
    for name, flops in frame["parts"].items():
        print_row(f"  of that, {name.replace('_', ' ')}", "GFLOP", flops / 1e9)
    print_row("weights in half precision", "MB", frame["weight_bytes"] / 1e6)
    print_row("activations that are written", "MB", frame["written_bytes"] / 1e6)
