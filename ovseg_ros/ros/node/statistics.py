"""What happens to a camera's frames, counted over the last seconds; written and read by several threads."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_WINDOW = 10.0
"""Seconds that rates and latencies look back."""


@dataclass(frozen=True, slots=True)
class CameraFigures:
    """A camera's figures at one moment; latencies are percentiles 50 and 95 of the window, seconds, NaN without frames.

    Attributes:
        input_rate, output_rate: frames per second received and published, over the window.
        received, published, failed: frames since the camera was configured; failed ones met an error.
        capture_to_publish: from the header's stamp to the last output's publication, by the node's clock.
        callback_to_publish: from the image's arrival to the last output's publication, by a steady clock.
        last_error: what the last failed frame met; empty if none ever did.
        failing: frames that failed since the last one that was published.
        age: seconds since the last frame arrived; None if none ever did.
    """

    input_rate: float
    output_rate: float
    received: int
    published: int
    failed: int
    capture_to_publish: tuple[float, float]
    callback_to_publish: tuple[float, float]
    last_error: str
    failing: int
    age: float | None


class CameraStatistics:
    """Counts one camera's frames.

    Args:
        clock: seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._arrivals: deque[float] = deque()
        self._publications: deque[tuple[float, float, float]] = deque()
        self._received = self._published = self._failed = self._failing = 0
        self._last_error = ""
        self._last_arrival: float | None = None

    def arrived(self) -> None:
        """A frame came in."""
        with self._lock:
            self._last_arrival = self._clock()
            self._arrivals.append(self._last_arrival)
            self._received += 1
            self._forget_old()

    def published(self, since_capture: float, since_callback: float) -> None:
        """A frame's outputs went out, so many seconds after its stamp and after its arrival."""
        with self._lock:
            self._publications.append((self._clock(), since_capture, since_callback))
            self._published += 1
            self._failing = 0
            self._forget_old()

    def failed(self, error: str) -> None:
        """A frame was lost to an error."""
        with self._lock:
            self._failed += 1
            self._failing += 1
            self._last_error = error

    def figures(self) -> CameraFigures:
        """How things stand."""
        with self._lock:
            self._forget_old()
            now = self._clock()
            seconds = max(min(now - self._started, _WINDOW), 1e-3)
            _, since_capture, since_callback = (
                zip(*self._publications, strict=True) if self._publications else ((),) * 3
            )
            return CameraFigures(
                input_rate=len(self._arrivals) / seconds,
                output_rate=len(self._publications) / seconds,
                received=self._received,
                published=self._published,
                failed=self._failed,
                capture_to_publish=_percentiles(since_capture),
                callback_to_publish=_percentiles(since_callback),
                last_error=self._last_error,
                failing=self._failing,
                age=None if self._last_arrival is None else now - self._last_arrival,
            )

    def _forget_old(self) -> None:
        oldest = self._clock() - _WINDOW
        while self._arrivals and self._arrivals[0] < oldest:
            self._arrivals.popleft()
        while self._publications and self._publications[0][0] < oldest:
            self._publications.popleft()


def _percentiles(seconds: tuple[float, ...]) -> tuple[float, float]:
    p50, p95 = np.percentile(seconds, (50, 95)) if seconds else (float("nan"), float("nan"))
    return float(p50), float(p95)
