"""The one thread that runs the model, so that no ROS callback ever waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ovseg_ros.ros.mailbox import Mailbox

Frame = TypeVar("Frame")
Answer = TypeVar("Answer")


class Worker(Generic[Frame]):
    """Takes frames from a one-slot mailbox, and jobs, which go first, from a queue.

    Args:
        process: called with every frame taken, one at a time.
        on_error: called with what `process` raised; only that frame is lost.
        min_period: asked before every frame for the least time in seconds between the starts of two frames.
    """

    def __init__(
        self,
        process: Callable[[Frame], None],
        on_error: Callable[[Exception], None],
        min_period: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._process = process
        self._on_error = on_error
        self._min_period = min_period
        self._condition = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future]] = deque()
        self._last_start = float("-inf")
        self.frames: Mailbox[Frame] = Mailbox(self._condition)
        self._thread = threading.Thread(target=self._run, name="segmenter", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Answer]) -> "Future[Answer]":
        """Runs `job` before the next frame. The future is cancelled if the worker closes first."""
        future: Future[Answer] = Future()
        with self._condition:
            if self.frames.closed:
                future.cancel()
            else:
                self._jobs.append((job, future))
                self._condition.notify_all()
        return future

    def close(self) -> None:
        """Finishes the frame or job at hand, drops the rest and joins the thread."""
        self.frames.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self.frames.closed or self._jobs or (self.frames.full and self._wait_time() <= 0)):
                    self._condition.wait(self._wait_time() if self.frames.full else None)
                if self.frames.closed:
                    self._cancel_jobs()
                    return
                job = self._jobs.popleft() if self._jobs else None
                frame = None if job else self.frames.take_nowait()
            if job:
                _run_job(*job)
            elif frame is not None:
                self._last_start = time.monotonic()
                try:
                    self._process(frame)
                except Exception as error:  # a model may raise anything; the next frame gets its chance
                    self._on_error(error)

    def _wait_time(self) -> float:
        return self._last_start + self._min_period() - time.monotonic()

    def _cancel_jobs(self) -> None:
        while self._jobs:
            self._jobs.popleft()[1].cancel()


def _run_job(job: Callable[[], Any], future: Future) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except Exception as error:  # handed to whoever waits for the answer
        future.set_exception(error)
