"""Says what is wrong at a bounded rate: one message a period for each kind of fault, with a count of those left out."""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError

from ovseg_ros.core.errors import OvsegError


def describe(error: BaseException) -> str:
    """An error in one line; ours speak for themselves, others with the name of their type."""
    if isinstance(error, OvsegError):
        return str(error)
    if isinstance(error, CancelledError):
        return "the node shuts down"
    return f"{type(error).__name__}: {error}"


class FaultLog:
    """rclpy throttles by line of code; this throttles by what went wrong. May be called from any thread.

    Args:
        write: receives the messages, such as `node.get_logger().error`.
        period: seconds in which one kind of fault is written once.
        clock: seconds that never go backwards.
    """

    def __init__(
        self, write: Callable[[str], object], period: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._last_written: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, int] = {}

    def report(self, kind: Hashable, message: str) -> None:
        """Writes `message` unless this kind was written less than a period ago. Use a bounded number of kinds."""
        with self._lock:
            now = self._clock()
            if now - self._last_written.get(kind, float("-inf")) < self._period:
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return
            self._last_written[kind] = now
            left_out = self._left_out.pop(kind, 0)
        self._write(f"{message} ({left_out} more of this kind since the last message)" if left_out else message)
