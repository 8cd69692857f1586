"""The two halves of a frame's way, the model's and the one that publishes, at the same time: the node in this process,
with stand-ins for the model that wait until they are told.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor
from ros_support import DEADLINE, Camera, Peer, picture, request_of, stamp_of, wait_until

from ovseg_ros.core.engine.options import Engine, EngineOptions
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter, Pending
from ovseg_ros.core.types import PanopticResult, Segment
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.segment_node import SegmentNode
from ovseg_ros.srv import SetVocabulary

START, RESULTS = "start", "results"
ENGINE = Engine("onnx", "float16", "engine onnx, float16", (64, 32))


class Steps:
    """Which steps of which frame were begun; each waits for its gate, which is open unless a test closes it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._begun: list[tuple[str, int]] = []
        self._closed: set[tuple[str, int]] = set()
        self.failing: set[tuple[str, int]] = set()

    def pass_through(self, step: str, frame: int) -> None:
        """Called by the model."""
        with self._condition:
            self._begun.append((step, frame))
            self._condition.notify_all()
            assert self._condition.wait_for(lambda: (step, frame) not in self._closed, DEADLINE)
        if (step, frame) in self.failing:
            raise RuntimeError(f"{step} of {frame} failed")

    @contextmanager
    def closed(self, step: str, frame: int) -> Iterator[None]:
        """Whoever comes to this step meanwhile waits for the end of it."""
        self._closed.add((step, frame))
        try:
            yield
        finally:
            with self._condition:
                self._closed.discard((step, frame))
                self._condition.notify_all()

    def wait_for(self, step: str, frame: int) -> None:
        """Until this step was begun."""
        with self._condition:
            assert self._condition.wait_for(lambda: (step, frame) in self._begun, DEADLINE), (step, frame, self._begun)

    @property
    def begun(self) -> list[tuple[str, int]]:
        """In order."""
        with self._condition:
            return list(self._begun)


class StandIn(PanopticSegmenter):
    """One segment for the whole of each image; its first pixel is the frame's number. Counts what is pending."""

    def __init__(self, steps: Steps) -> None:
        self.device, self.merge, self.engine = torch.device("cpu"), MergeConfig(), ENGINE
        self.steps = steps
        self.sizes: list[tuple[int, ...]] = []
        self.pending, self.most_pending = 0, 0
        self._lock = threading.Lock()

    def prepare(self, vocabulary: Vocabulary) -> Prompt:
        return Prompt(vocabulary)

    def start(self, images: Sequence[np.ndarray], prompt: Prompt, merge: MergeConfig | None = None) -> Pending:
        frames = [int(image[0, 0, 0]) for image in images]
        self.sizes += [image.shape for image in images]
        for frame in frames:
            self.steps.pass_through(START, frame)
        self._count(1)

        def finish() -> list[PanopticResult]:
            try:
                for frame in frames:
                    self.steps.pass_through(RESULTS, frame)
            finally:
                self._count(-1)
            return [result_of(image, prompt.vocabulary) for image in images]

        return Pending(finish)

    def _count(self, change: int) -> None:
        with self._lock:
            self.pending += change
            self.most_pending = max(self.most_pending, self.pending)


def result_of(image: np.ndarray, vocabulary: Vocabulary) -> PanopticResult:
    (height, width), category = image.shape[:2], vocabulary.categories[0]
    return PanopticResult(
        segment_ids=np.ones((height, width), np.uint16),
        category_ids=np.full((height, width), category.id, np.uint16),
        confidence=np.full((height, width), 255, np.uint8),
        segments=(Segment(1, category.id, category.name, 1.0, True, height * width, (0, 0, width, height)),),
        vocabulary_version=vocabulary.version,
    )


class Bench:
    """The node in this process, two cameras that send numbered frames, and what comes of them."""

    def __init__(self, domain: int, peer: Peer) -> None:
        self.steps, self.peer = Steps(), peer
        self.model = StandIn(self.steps)
        arguments = ["--ros-args", "-p", "vocabulary:=[cup, mug]", "-p", "cameras:=[a, b]", "-p", "max_batch:=2"]
        arguments += ["-p", "engine:=onnx", "-p", "precision:=float16", "-p", "engine_folder:=exports"]
        self.made_with: list[Any] = []
        # The node and what it makes belong to the process's own context.
        rclpy.init(args=arguments, domain_id=domain)
        self.node = SegmentNode(self._make_segmenter)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        assert self.node.start()
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        self.cameras = {name: Camera(peer, f"/{name}/image") for name in ("a", "b")}
        self.published: list[tuple[str, int]] = []
        self.messages: list[PanopticSegmentation] = []
        for name in self.cameras:
            peer.node.create_subscription(PanopticSegmentation, f"/ovseg/{name}/segments", self._note(name), 20)
        for camera in self.cameras.values():
            camera.wait_for_subscriber()
        assert self.node.pipeline is not None
        self.pipeline = self.node.pipeline
        self.node_cameras = {camera.name: camera for camera in self.pipeline.cameras}

    def _make_segmenter(self, *arguments: Any) -> PanopticSegmenter:
        self.made_with += arguments
        return self.model

    def _note(self, camera: str) -> Callable[[PanopticSegmentation], None]:
        def note(message: PanopticSegmentation) -> None:
            self.published.append((camera, int(message.header.frame_id)))
            self.messages.append(message)

        return note

    def put(self, frame: int, camera: str = "a") -> None:
        """Straight into the mailbox, so that nothing is lost on the way."""
        pixels = picture()
        pixels[0, 0] = frame
        header = self.cameras[camera].header()
        header.frame_id = str(frame)
        message = MESSAGES.image(pixels, "rgb8", header)
        self.node_cameras[camera]._receive(message, "image", 0.0)

    def wait_published(self, *frames: int) -> None:
        self.peer.wait_until(
            lambda: [number for _, number in self.published[-len(frames) :]] == list(frames), f"{frames} in this order"
        )

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.close()
        self.node.destroy_node()
        rclpy.try_shutdown()


@pytest.fixture(scope="module")
def bench(domain: int, peer: Peer) -> Iterator[Bench]:
    bench = Bench(domain, peer)
    yield bench
    bench.close()


def test_what_is_to_run_the_model_is_read_at_the_start(bench: Bench) -> None:
    assert bench.made_with[:3] == ["tabletop", "auto", EngineOptions("onnx", "float16", Path("exports"))]
    assert bench.pipeline.engine is ENGINE


def test_the_first_run_is_of_a_size_that_the_engine_is_made_for(bench: Bench) -> None:
    assert bench.model.sizes[0] == (32, 64, 3)


def test_the_next_frame_begins_while_results_are_waited_for(bench: Bench) -> None:
    """As on a GPU, where the start returns when work is queued."""
    with bench.steps.closed(RESULTS, 1):
        bench.put(1)
        bench.steps.wait_for(RESULTS, 1)
        bench.put(2)
        bench.steps.wait_for(START, 2)
        assert (RESULTS, 2) not in bench.steps.begun and not bench.published
    bench.wait_published(1, 2)


def test_the_next_frame_begins_while_the_one_before_is_published(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU, where results are there when the start returns."""
    outputs, published, gate = bench.node_cameras["a"].outputs, threading.Event(), threading.Event()
    publish = outputs.publish

    def publish_slowly(*arguments: Any) -> None:
        published.set()
        assert gate.wait(DEADLINE)
        publish(*arguments)

    monkeypatch.setattr(outputs, "publish", publish_slowly)
    bench.put(3)
    assert published.wait(DEADLINE)
    bench.put(4)
    bench.steps.wait_for(START, 4)  # beside the publishing of 3, which has not ended
    gate.set()
    bench.wait_published(3, 4)


def test_no_more_than_two_are_pending_and_stale_frames_are_dropped(bench: Bench) -> None:
    dropped = bench.node_cameras["a"].frames.dropped
    with bench.steps.closed(RESULTS, 10):
        bench.put(10)
        bench.steps.wait_for(RESULTS, 10)
        bench.put(11)
        bench.steps.wait_for(START, 11)
        for frame in range(12, 30):
            bench.put(frame)
        assert (START, 12) not in bench.steps.begun
    bench.wait_published(10, 11, 29)
    assert bench.model.most_pending == 2 and bench.model.pending == 0
    assert bench.node_cameras["a"].frames.dropped == dropped + 17


@pytest.mark.parametrize(("step", "first"), [(START, 30), (RESULTS, 40)])
def test_an_error_in_either_half_loses_one_frame(bench: Bench, step: str, first: int) -> None:
    statistics = bench.node_cameras["a"].statistics
    failed = statistics.figures().failed
    bench.steps.failing.add((step, first + 1))
    for frame in (first, first + 1, first + 2):
        bench.put(frame)
        bench.steps.wait_for(START, frame)
    bench.wait_published(first, first + 2)
    figures = statistics.figures()
    assert figures.failed == failed + 1 and figures.last_error == f"RuntimeError: {step} of {first + 1} failed"
    assert bench.model.pending == 0


@pytest.mark.parametrize(("step", "first"), [(START, 50), (RESULTS, 60)])
def test_an_error_in_a_batch_loses_the_one_to_blame(bench: Bench, step: str, first: int) -> None:
    """Whichever half meets it, the others are segmented one by one."""
    bench.steps.failing.add((step, first + 1))
    with bench.steps.closed(START, first):
        bench.put(first)
        bench.steps.wait_for(START, first)
        bench.put(first + 1, "a")  # both wait, and so go together
        bench.put(first + 2, "b")
    bench.wait_published(first, first + 2)
    assert bench.node_cameras["a"].statistics.figures().last_error == f"RuntimeError: {step} of {first + 1} failed"
    assert bench.steps.begun.count((START, first + 2)) == 2  # the other camera's turn is first


def test_a_query_is_answered_beside_a_frame_that_is_published(bench: Bench) -> None:
    with bench.steps.closed(RESULTS, 70):
        bench.put(70)
        bench.steps.wait_for(RESULTS, 70)
        frame = bench.node_cameras["a"].latest
        assert frame is not None
        answer = bench.pipeline.query(frame, bench.pipeline.vocabulary.current)
        wait_until(lambda: bench.steps.begun.count((START, 70)) == 2, "the query's start")
    assert answer.result(DEADLINE).segments
    bench.wait_published(70)


def test_a_change_of_words_shows_the_newest_frame_again_but_not_twice(bench: Bench) -> None:
    """The frame at hand under old words comes first, and a frame that is begun under new ones is not repeated."""
    bench.node_cameras["b"].latest = None  # or it would be shown again, too
    bench.put(80)
    bench.wait_published(80)
    version = bench.messages[-1].vocabulary_version
    with bench.steps.closed(RESULTS, 81):
        bench.put(81)
        bench.steps.wait_for(RESULTS, 81)
        answer, done = bench.peer.call_async(SetVocabulary, "/ovseg/set_vocabulary", request_of("bowl"))
        bench.peer.wait_until(answer.done, "an answer")
        done()
    bench.wait_published(80, 81, 81)
    assert [message.vocabulary_version for message in bench.messages[-3:]] == [version, version, version + 1]
    assert len({stamp_of(message) for message in bench.messages[-2:]}) == 1
    # Nothing new: the frame is published under these words.
    bench.pipeline.relabel()
    bench.put(82)
    bench.wait_published(81, 81, 82)


def test_the_end_publishes_what_was_begun(bench: Bench) -> None:
    with bench.steps.closed(RESULTS, 90):
        bench.put(90)
        bench.steps.wait_for(RESULTS, 90)
        bench.put(91)
        bench.steps.wait_for(START, 91)
        ending = threading.Thread(target=bench.pipeline._worker.close)
        ending.start()
    ending.join(DEADLINE)
    assert not ending.is_alive()
    bench.wait_published(90, 91)
