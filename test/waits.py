"""Counts where the host would wait for a GPU, on a machine without one.

Tensors say that they are on a CUDA device, so the code takes the way that it takes there; they stay where they are.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA, CPU = torch.device("cuda"), torch.device("cpu")

_VALUES = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "numpy", "cpu", "__array__"}
_SHAPES = {
    "nonzero",
    "argwhere",
    "masked_select",
    "unique",
    "unique_consecutive",
    "bincount",
    "equal",
    "allclose",
    "histc",
    "one_hot",
    "is_nonzero",
    "__contains__",
}
_FROM_HOST = {"tensor", "as_tensor", "new_tensor", "asarray", "scalar_tensor"}


@dataclass
class Waits(TorchFunctionMode):
    """While in it, notes each wait as `file:line in function: what`; the innermost frame of this package is named."""

    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._host: dict[int, Tensor] = {}  # keeps them alive, so that an id is one tensor's
        self._pinned: set[int] = set()  # where the memory of pinned tensors, which are the host's, begins
        self._on_its_way: set[int] = set()  # of these, what the device still writes to

    def note(self, what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "ovseg_ros/" in frame.filename.replace("\\", "/")]
        frame = frames[-1] if frames else traceback.extract_stack()[-4]
        name = frame.filename.rpartition("ovseg_ros/")[2]
        self.found.append(f"{name}:{frame.lineno} in {frame.name}: {what}")

    def of_host(self, tensor: Tensor) -> Tensor:
        """The tensor, known to be the host's."""
        self._host[id(tensor)] = tensor
        return tensor

    def pinned(self, tensor: Tensor) -> Tensor:
        """The tensor, known to be the host's and page-locked."""
        self._pinned.add(_memory(tensor))
        return self.of_host(tensor)

    def arrived(self) -> None:
        """The device has done all it was told."""
        self._on_its_way.clear()

    def is_host(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._host

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if name == "__get__":
            owner = getattr(func, "__self__", None)
            if owner is torch.Tensor.device:
                return CPU if self.is_host(args[0]) else CUDA
            if owner is torch.Tensor.is_cuda:
                return not self.is_host(args[0])
        goes_to, sources = self._transfer(name, args, kwargs)
        on_device = [value for value in tensors if not self.is_host(value)]
        if (
            (name in _VALUES and on_device)
            or (name in _SHAPES and on_device)
            or (name == "where" and len(args) == 1 and not kwargs)
        ):
            self.note(name)
        elif (
            name == "repeat_interleave"
            and len(args) > 1
            and isinstance(args[1], Tensor)
            and "output_size" not in kwargs
        ):
            self.note("repeat_interleave by a tensor, without output_size")
        elif name in _FROM_HOST and goes_to != "host" and not isinstance(args[-1], Tensor):
            self.note(f"{name} of numbers of the host")
        elif name in ("__getitem__", "__setitem__") and on_device:
            self._index(name, args)
        elif (
            name in ("to", "cuda")
            and sources == "host"
            and goes_to == "device"
            and not (self._is_async(args, kwargs) and _memory(args[0]) in self._pinned)
        ):
            self.note("upload that blocks; use a pinned tensor and non_blocking=True")
        elif name == "copy_" and self.is_host(args[0]) != self.is_host(args[1]):
            host = args[0] if self.is_host(args[0]) else args[1]
            if not self._is_async(args, kwargs) or _memory(host) not in self._pinned:
                self.note("copy that blocks; use a pinned tensor and non_blocking=True")
            elif host is args[0]:
                self._on_its_way.add(_memory(host))
        elif name == "numpy" and _memory(args[0]) in self._on_its_way:
            raise AssertionError("the host reads a download before it has waited for it")
        elif name == "to" and sources == "device" and goes_to == "host" and not self._is_async(args, kwargs):
            self.note("download that blocks")
        is_pinned = kwargs.pop("pin_memory", False)
        result = func(*(_on_cpu(value) for value in args), **{key: _on_cpu(value) for key, value in kwargs.items()})
        is_host = (
            is_pinned or name == "cpu" or goes_to == "host" or (bool(tensors) and not on_device and goes_to != "device")
        )
        if is_host:
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, Tensor):
                    self._host[id(value)] = value
                    if is_pinned:
                        self.pinned(value)
        elif goes_to == "device" and isinstance(result, Tensor) and self.is_host(result):
            result = result.clone()  # `to` gave back the same tensor
        return result

    def _transfer(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
        """Where what is made or moved goes, and where it is from: device, host, or empty."""
        source = ""
        if args and isinstance(args[0], Tensor):
            source = "host" if self.is_host(args[0]) else "device"
        places = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.device)]
        named = kwargs.get("device")
        if isinstance(named, str):
            places.append(torch.device(named))
        if name == "to":
            places += [CPU if self.is_host(value) else CUDA for value in args[1:2] if isinstance(value, Tensor)]
            places += [torch.device(value) for value in args[1:2] if isinstance(value, str)]
        if places:
            return ("host" if places[0].type == "cpu" else "device"), source
        if name in ("empty", "zeros", "full", "ones", "arange", *_FROM_HOST) and not source:
            return "host", source  # made on the CPU, as nothing else was said
        return "", source

    def _is_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return bool(kwargs.get("non_blocking")) or any(value is True for value in args[1:])

    def _index(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "__setitem__" and (self.is_host(args[2]) or not isinstance(args[2], Tensor)):
            with torch._C.DisableTorchFunction():  # a number fills many places, but is copied to one
                place = args[0][args[1]]
            if isinstance(args[2], Tensor) or not place.ndim:
                self.note("__setitem__ of what the host holds")
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        for part in index:
            if isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8):
                if name == "__getitem__" or (isinstance(args[2], Tensor) and args[2].ndim):
                    self.note(f"{name} by a mask")
            elif isinstance(part, Tensor) and not part.ndim and not self.is_host(part):
                self.note(f"{name} by a number of the device")
            elif isinstance(part, (list, np.ndarray)) or (self.is_host(part) and part.ndim):
                self.note(f"{name} by an index of the host")


class _Event:
    """In the place of torch.cuda.Event: waiting for it is what is counted."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits

    def record(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._waits.note("event.synchronize")
        self._waits.arrived()


class _Stream:
    def wait_stream(self, *_: Any) -> None: ...

    def wait_event(self, *_: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: Any) -> None: ...


@contextmanager
def counted_waits() -> Iterator[Waits]:
    """A mode under which tensors pretend to be on a CUDA device; with it, streams and events that do nothing."""
    waits = Waits()
    stream, from_numpy = _Stream(), torch.from_numpy
    with (
        mock.patch("torch.cuda.Event", lambda *_, **__: _Event(waits)),
        mock.patch("torch.cuda.Stream", lambda *_, **__: stream),
        mock.patch("torch.cuda.current_stream", lambda *_: stream),
        mock.patch("torch.cuda.stream", lambda chosen: stream),
        mock.patch("torch.cuda.synchronize", lambda *_: waits.note("torch.cuda.synchronize")),
        mock.patch("torch.Tensor.pin_memory", lambda tensor, *_: waits.pinned(tensor)),
        mock.patch("torch.Tensor.record_stream", lambda *_: None),
        mock.patch("torch.from_numpy", lambda array: waits.of_host(from_numpy(array))),
        waits,
    ):
        yield waits


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _on_cpu(value: Any) -> Any:
    if (isinstance(value, torch.device) and value.type == "cuda") or (value == "cuda" and isinstance(value, str)):
        return CPU
    return value
