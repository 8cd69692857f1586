"""The one thread that runs the model, so that no ROS callback ever waits for it."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from ovseg_ros.ros.node.mailbox import Mailbox

Frame = TypeVar("Frame")
Answer = TypeVar("Answer")


class Worker(Generic[Frame]):
    """Takes frames from one-slot mailboxes, in turns, and jobs, which go first, from a queue.

    Args:
        process: called with the frames taken at once, at most one of each mailbox and at least one.
        on_error: called with what `process` raised; only those frames are lost.
        min_period: asked before every frame for the least time in seconds between the starts of two frames of one
            mailbox.
        mailboxes: how many mailboxes.
        max_batch: most frames taken at once.
    """

    def __init__(
        self,
        process: Callable[[list[Frame]], None],
        on_error: Callable[[Exception], None],
        min_period: Callable[[], float] = lambda: 0.0,
        *,
        mailboxes: int = 1,
        max_batch: int = 1,
    ) -> None:
        self._process = process
        self._on_error = on_error
        self._min_period = min_period
        self._max_batch = max_batch
        self._condition = threading.Condition()
        self._jobs: deque[tuple[Callable[[], Any], Future]] = deque()
        self._last_starts = [float("-inf")] * mailboxes
        self._turn = 0
        self._closed = False
        self.mailboxes: tuple[Mailbox[Frame], ...] = tuple(Mailbox(self._condition) for _ in range(mailboxes))
        self._thread = threading.Thread(target=self._run, name="segmenter", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Answer]) -> "Future[Answer]":
        """Runs `job` before the next frame. The future is cancelled if the worker closes first."""
        future: Future[Answer] = Future()
        with self._condition:
            if self._closed:
                future.cancel()
            else:
                self._jobs.append((job, future))
                self._condition.notify_all()
        return future

    def close(self) -> None:
        """Finishes the frames or the job at hand, drops the rest and joins the thread."""
        with self._condition:
            self._closed = True
            for mailbox in self.mailboxes:
                mailbox.close()
            self._condition.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._closed or self._jobs or self._wait_time() <= 0):
                    wait_time = self._wait_time()
                    self._condition.wait(None if wait_time == float("inf") else wait_time)
                if self._closed:
                    for _, future in self._jobs:
                        future.cancel()
                    return
                job = self._jobs.popleft() if self._jobs else None
                frames = [] if job else self._take()
            if job:
                _run_job(*job)
            elif frames:
                try:
                    self._process(frames)
                except Exception as error:  # a model may raise anything; the next frames get their chance
                    self._on_error(error)
            del job, frames  # else they would live on until the next ones come

    def _wait_time(self) -> float:
        """Seconds until some frame may start; infinite where none waits."""
        waiting = (self._due_in(index) for index, mailbox in enumerate(self.mailboxes) if mailbox.full)
        return min(waiting, default=float("inf"))

    def _due_in(self, index: int) -> float:
        return self._last_starts[index] + self._min_period() - time.monotonic()

    def _take(self) -> list[Frame]:
        """The newest frames of the mailboxes whose turn it is; the one after the last taken comes first next time."""
        frames: list[Frame] = []
        count, first = len(self.mailboxes), self._turn
        for index in ((first + offset) % count for offset in range(count)):
            if len(frames) == self._max_batch:
                break
            if self._due_in(index) <= 0 and (frame := self.mailboxes[index].take()) is not None:
                frames.append(frame)
                self._last_starts[index] = time.monotonic()
                self._turn = (index + 1) % count
        return frames


def _run_job(job: Callable[[], Any], future: Future) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except Exception as error:  # handed to whoever waits for the answer
        future.set_exception(error)
