"""The one-slot mailbox and the worker that empties it."""

import threading
import time

import pytest

from ovseg_ros.ros.node.fault_log import FaultLog, pause
from ovseg_ros.ros.node.mailbox import Mailbox
from ovseg_ros.ros.node.worker import Worker

DEADLINE = 30.0


def test_newest_wins_and_dropped_are_counted() -> None:
    mailbox: Mailbox[int] = Mailbox(threading.Condition())
    assert mailbox.take() is None
    for item in range(3):
        mailbox.put(item)
    assert mailbox.full
    assert (mailbox.take(), mailbox.dropped) == (2, 2)
    assert mailbox.take() is None and not mailbox.full
    mailbox.put(3)
    assert (mailbox.take(), mailbox.dropped) == (3, 2)


def test_put_notifies_whoever_waits() -> None:
    condition = threading.Condition()
    mailbox: Mailbox[str] = Mailbox(condition)
    taken: list[str | None] = []

    def wait() -> None:
        with condition:
            condition.wait_for(lambda: mailbox.full, DEADLINE)
            taken.append(mailbox.take())

    thread = threading.Thread(target=wait)
    thread.start()
    mailbox.put("frame")
    thread.join(DEADLINE)
    assert taken == ["frame"]


def test_close_empties_and_refuses() -> None:
    mailbox: Mailbox[str] = Mailbox(threading.Condition())
    mailbox.put("early")
    mailbox.close()
    mailbox.put("late")
    assert mailbox.take() is None and not mailbox.full


class Recorder:
    """A worker whose frames block until released."""

    def __init__(self, min_period: float = 0.0) -> None:
        self.started: list[int] = []
        self.times: list[float] = []
        self.errors: list[Exception] = []
        self.arrived = threading.Semaphore(0)
        self.release = threading.Semaphore(0)
        self.worker: Worker[int] = Worker(self.process, self.errors.append, lambda: min_period)
        self.frames = self.worker.mailboxes[0]

    def process(self, frames: list[int]) -> None:
        (frame,) = frames
        self.times.append(time.monotonic())
        self.started.append(frame)
        self.arrived.release()
        assert self.release.acquire(timeout=DEADLINE)
        if frame < 0:
            raise MemoryError(f"frame {frame}")

    def wait(self) -> None:
        assert self.arrived.acquire(timeout=DEADLINE)


def test_worker_skips_stale_frames_and_runs_jobs_first() -> None:
    recorder = Recorder()
    worker = recorder.worker
    recorder.frames.put(1)
    recorder.wait()
    recorder.frames.put(2)
    recorder.frames.put(3)
    job = worker.submit(lambda: list(recorder.started))
    recorder.release.release(2)
    assert job.result(DEADLINE) == [1]
    recorder.wait()
    worker.close()
    assert recorder.started == [1, 3]
    assert recorder.frames.dropped == 1


def test_worker_survives_what_a_frame_or_a_job_raises() -> None:
    recorder = Recorder()
    recorder.release.release(2)
    recorder.frames.put(-1)
    recorder.wait()
    with pytest.raises(ZeroDivisionError):
        recorder.worker.submit(lambda: 1 // 0).result(DEADLINE)
    recorder.frames.put(1)
    recorder.wait()
    recorder.worker.close()
    assert [str(error) for error in recorder.errors] == ["frame -1"]
    assert recorder.started == [-1, 1]


def test_worker_keeps_the_least_period_and_then_takes_the_newest() -> None:
    recorder = Recorder(min_period=0.3)
    recorder.release.release(2)
    recorder.frames.put(1)
    recorder.wait()
    recorder.frames.put(2)
    recorder.frames.put(3)
    recorder.wait()
    recorder.worker.close()
    assert recorder.started == [1, 3]
    assert recorder.times[1] - recorder.times[0] >= 0.3


@pytest.mark.parametrize(
    ("max_batch", "expected"),
    [
        (1, [["0"], ["1 newest"], ["2"], ["0 again"]]),
        (2, [["0"], ["1 newest", "2"], ["0 again"]]),
        (8, [["0"], ["1 newest", "2", "0 again"]]),
    ],
)
def test_mailboxes_take_turns_and_may_go_together(max_batch: int, expected: list[list[str]]) -> None:
    taken: list[list[str]] = []
    started, release = threading.Semaphore(0), threading.Semaphore(0)

    def process(frames: list[str]) -> None:
        taken.append(frames)
        started.release()
        assert release.acquire(timeout=DEADLINE)

    worker: Worker[str] = Worker(process, lambda error: None, mailboxes=3, max_batch=max_batch)
    first, second, third = worker.mailboxes
    first.put("0")
    assert started.acquire(timeout=DEADLINE)
    # Now the first camera floods, and the others have one frame each.
    for number in range(5):
        first.put(f"0 number {number}")
    first.put("0 again")
    second.put("1")
    second.put("1 newest")
    third.put("2")
    release.release(len(expected))
    for _ in expected[1:]:
        assert started.acquire(timeout=DEADLINE)
    worker.close()
    assert taken == expected
    assert [mailbox.dropped for mailbox in worker.mailboxes] == [5, 1, 0]


def test_each_mailbox_has_a_least_period_of_its_own() -> None:
    taken: list[int] = []
    arrived = threading.Semaphore(0)

    def process(frames: list[int]) -> None:
        taken.extend(frames)
        arrived.release()

    worker: Worker[int] = Worker(process, lambda error: None, lambda: DEADLINE, mailboxes=2)
    for number, mailbox in enumerate((*worker.mailboxes, *worker.mailboxes)):
        mailbox.put(number)
        if number < 2:
            assert arrived.acquire(timeout=DEADLINE)
    worker.close()
    assert taken == [0, 1]  # the others' turn would come a whole period later


def test_closing_cancels_jobs_that_wait() -> None:
    recorder = Recorder()
    recorder.frames.put(1)
    recorder.wait()
    waiting = recorder.worker.submit(lambda: 1)
    closing = threading.Thread(target=recorder.worker.close)
    closing.start()
    recorder.release.release()
    closing.join(DEADLINE)
    late = recorder.worker.submit(lambda: 2)
    assert late.cancelled()
    assert waiting.cancelled() or waiting.result() == 1


def test_faults_are_bounded_by_kind() -> None:
    now, written = [0.0], []
    log = FaultLog(written.append, period=5.0, clock=lambda: now[0])
    for _ in range(3):
        log.report("step", "bad step")
    log.report("data", "bad data")
    assert written == ["bad step", "bad data"]
    now[0] = 5.0
    log.report("step", "bad step")
    log.report("data", "bad data")
    assert written[2:] == ["bad step (2 more of this kind since the last message)", "bad data"]


def test_what_lasts_is_said_less_often_the_longer_it_lasts() -> None:
    said, silence = [], 5.0
    while silence < 2000:
        said.append(silence)
        silence += pause(silence, 5.0)
    assert said == [5, 10, 20, 40, 80, 160, 320, 620, 920, 1220, 1520, 1820]
    assert pause(3600, 3600) == 3600


def test_a_fault_that_lasts_is_written_less_often_until_it_ends_or_changes() -> None:
    now, written = [0.0], []
    log = FaultLog(lambda message: written.append((now[0], message.split(" (")[0])), period=5.0, clock=lambda: now[0])

    def meet(message: str, start: int, end: int) -> None:
        for second in range(start, end):
            now[0] = second
            log.report("depth", message.replace("N", str(second)))

    meet("no depth", 0, 50)
    assert written == [(second, "no depth") for second in (0, 5, 10, 20, 40)]
    written.clear()
    meet("no camera_info for N s", 50, 62)  # another fault of the same kind
    assert written == [(second, f"no camera_info for {second} s") for second in (50, 55, 60)]
    written.clear()
    meet("no camera_info for N s", 70, 76)  # it was over
    assert written == [(second, f"no camera_info for {second} s") for second in (70, 75)]
