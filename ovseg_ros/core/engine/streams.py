"""Two things at once on a GPU."""

from collections.abc import Callable
from typing import TypeVar

import torch

First = TypeVar("First")
Second = TypeVar("Second")


class SideBySide:
    """Runs two functions that need nothing of each other, on a GPU on two streams."""

    def __init__(self) -> None:
        self._side: torch.cuda.Stream | None = None  # one for good: PyTorch keeps freed memory for each stream

    def __call__(
        self, device: torch.device, first: Callable[[], First], second: Callable[[], Second]
    ) -> tuple[First, Second]:
        """Both results; whoever goes on with them on the current stream need not wait for anything.

        `first` is queued on a stream of its own. No tensor is given away while the other stream reads it, without
        `record_stream`: what `first` allocated is given to its own stream alone, which begins each time by waiting for
        the current one, and so for all that reads earlier results there; and what it reads of the current stream's
        is given to the current stream alone, which has waited for `first` by the time that the caller lets go of it.
        """
        if device.type != "cuda":
            return first(), second()
        if self._side is None:
            self._side = torch.cuda.Stream(device)
        side, current = self._side, torch.cuda.current_stream(device)
        side.wait_stream(current)
        try:
            with torch.cuda.stream(side):
                one = first()
            return one, second()
        finally:
            current.wait_stream(side)
