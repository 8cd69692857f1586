"""Says what is wrong at a bounded rate, and ever less often while it lasts."""

import re
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError
from dataclasses import dataclass

from ovseg_ros.core.errors import OvsegError

_LONGEST_PAUSE = 300.0


def pause(lasted: float, shortest: float) -> float:
    """Seconds until what has lasted for `lasted` seconds is said again: once more as long, but at most five minutes.

    Args:
        lasted: how long it has been so.
        shortest: the least pause, which may be longer than five minutes.
    """
    return max(shortest, min(lasted, _LONGEST_PAUSE))


def describe(error: BaseException) -> str:
    """An error in one line; ours speak for themselves, others with the name of their type."""
    if isinstance(error, OvsegError):
        return str(error)
    if isinstance(error, CancelledError):
        return "the node shuts down"
    return f"{type(error).__name__}: {error}"


@dataclass
class _Fault:
    """What is known of a kind: the line without its figures, since when it is that, and when it was met and written."""

    line: str
    since: float
    met: float
    written: float
    left_out: int = 0


class FaultLog:
    """rclpy throttles by line of code; this throttles by what went wrong. May be called from any thread.

    One message a period for each kind of fault, with a count of those left out. While the same line, whatever its
    figures, comes again and again, the pauses between grow as `pause` says.

    Args:
        write: receives the messages, such as `node.get_logger().error`.
        period: seconds in which one kind of fault is written once; one that is not met for so long is over.
        clock: seconds that never go backwards.
    """

    def __init__(
        self, write: Callable[[str], object], period: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._faults: dict[Hashable, _Fault] = {}

    def report(self, kind: Hashable, message: str) -> None:
        """Writes `message` unless this kind was written too short a time ago. Use a bounded number of kinds."""
        line = re.sub(r"[0-9]+", "", message)
        with self._lock:
            now = self._clock()
            fault = self._faults.setdefault(kind, _Fault(line, now, now, float("-inf")))
            if line != fault.line or now - fault.met > self._period:
                fault.line, fault.since = line, now
            fault.met = now
            if now - fault.written < pause(fault.written - fault.since, self._period):
                fault.left_out += 1
                return
            fault.written, left_out, fault.left_out = now, fault.left_out, 0
        self._write(f"{message} ({left_out} more of this kind since the last message)" if left_out else message)
