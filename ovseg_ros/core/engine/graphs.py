"""CUDA graphs: what a run queues on a GPU is recorded once for each shape, and from then on queued in one go."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ovseg_ros.core.engine.part import Run

MOST_GRAPHS = 8
"""Of one part: each holds the memory of its inputs and outputs."""

_WARM_UPS = 3
"""Calls before a capture, in which libraries choose kernels and compilers compile."""

Capture = Callable[[Run, Sequence[Tensor]], Run]
"""A run, and inputs of the shapes that it shall have -> its replay."""


class CudaGraphs:
    """A run by replays of graphs, of which the last used are kept. Calls belong to one stream at a time."""

    def __init__(self, run: Run, *, most: int = MOST_GRAPHS, capture: Capture | None = None) -> None:
        """`run`: waits for nothing, and queues the same work for the same shapes."""
        self._run, self._most, self._capture = run, most, capture or _Recorder()
        self._graphs: OrderedDict[Any, Run] = OrderedDict()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """As the run; outputs are the caller's own, so that those of an earlier frame stay as they are."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        graph = self._graphs.get(key)
        if graph is None:
            while len(self._graphs) >= self._most:  # first, so that the new one finds their memory
                self._graphs.popitem(last=False)
            graph = self._graphs[key] = self._capture(self._run, tensors)
        self._graphs.move_to_end(key)
        return graph(*tensors)


class _Recorder:
    """Captures the graphs of one part, with a stream and memory of its own.

    Graphs of one part share their memory: what one leaves in it, a replay of another may write over. That is safe, as
    they run one after the other on one stream, and outputs are copied away on it before the next begins. Of parts that
    may run beside each other, that must not be, and so they are captured on different streams, too: PyTorch keeps the
    memory in which cuBLAS works for each stream, and a graph goes on using that of the stream that captured it. By
    default, `torch.cuda.graph` captures all on one. It is also the stream of the calls before a capture, so that such
    memory is there by then, and once for each part.
    """

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, run: Run, tensors: Sequence[Tensor]) -> Run:
        """A replay of what `run` does with inputs of these shapes."""
        device = tensors[0].device
        if self._stream is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        with torch.cuda.device(device):
            inputs = tuple(torch.empty_like(tensor).copy_(tensor) for tensor in tensors)
            current = torch.cuda.current_stream(device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    run(*inputs)
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # What other threads ask of CUDA meanwhile, as memory for new words, is none of this capture's business.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                outputs = run(*inputs)

        def replay(*given: Tensor) -> tuple[Tensor, ...]:
            for tensor, new in zip(inputs, given, strict=True):
                tensor.copy_(new, non_blocking=True)
            graph.replay()
            return tuple(output.clone() for output in outputs)

        return replay
