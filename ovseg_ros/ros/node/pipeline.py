"""What a configured node runs: every frame from decoding to the model, and from there to the thread that publishes."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rclpy.lifecycle import LifecycleNode

from ovseg_ros.core.engine.options import Engine
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.ros.node.camera import Camera, Frame
from ovseg_ros.ros.node.fault_log import describe
from ovseg_ros.ros.node.losses import Losses
from ovseg_ros.ros.node.outputs import NEEDS_DEPTH
from ovseg_ros.ros.node.parameters import Settings
from ovseg_ros.ros.node.publishing import PreparedFrame, PublishingThread
from ovseg_ros.ros.node.vocabulary_service import VocabularyService
from ovseg_ros.ros.node.worker import Worker

if TYPE_CHECKING:
    import torch

    from ovseg_ros.core.segmenter import PanopticSegmenter, Pending

Answer = TypeVar("Answer")

_WARM_UP_SIZE = (640, 480)


def alike(frames: Iterable[PreparedFrame]) -> list[list[PreparedFrame]]:
    """Groups that the model may take at once: of one size and one set of thresholds, which may change between two."""
    groups: dict[tuple[tuple[int, ...], MergeConfig], list[PreparedFrame]] = {}
    for frame in frames:
        groups.setdefault((frame.pixels.shape, frame.settings.merge), []).append(frame)
    return list(groups.values())


class Pipeline:
    """The model, its vocabulary, its threads and the cameras. Runs the model once before it is ready.

    Args:
        vocabulary: the first one.
        saved_to: file that keeps every change of the vocabulary; None keeps none.
        cameras: their names; one empty name for a camera without.
        on_frame: called in the executor's thread after a camera's frame came.
    """

    def __init__(
        self,
        node: LifecycleNode,
        segmenter: "PanopticSegmenter",
        vocabulary: Vocabulary,
        saved_to: Path | None,
        cameras: Sequence[str],
        on_frame: Callable[[Camera], None],
    ) -> None:
        self._node = node
        self._segmenter = segmenter
        self._model = threading.Lock()  # which serves one thread at a time
        self._losses = Losses(node)
        self.cameras: tuple[Camera, ...] = ()
        with ExitStack() as undo:
            undo.callback(self._close_cameras)  # after the threads that publish
            self.vocabulary = VocabularyService(
                node, segmenter, vocabulary, saved_to, partial(self._losses.say, "unsaved")
            )
            undo.callback(self.vocabulary.close)
            self._publishing = PublishingThread(node, self._losses, self._segment)
            undo.callback(self._publishing.close)
            self._worker: Worker[Frame] = Worker(
                self._process,
                self._losses.report,
                self._min_period,
                mailboxes=len(cameras),
                max_batch=self._max_batch(),
            )
            undo.callback(self._worker.close)
            self.cameras = tuple(
                Camera(node, name, frames, on_frame)
                for name, frames in zip(cameras, self._worker.mailboxes, strict=True)
            )
            self.submit(self._warm_up).result()
            self._ending = undo.pop_all()

    @property
    def device(self) -> "torch.device":
        """Where the model runs."""
        return self._segmenter.device

    @property
    def engine(self) -> Engine:
        """What runs the model."""
        return self._segmenter.engine

    def query(self, frame: Frame, prompt: Prompt) -> "Future[PanopticResult]":
        """Segments `frame` under a prompt of one's own, before the next frame."""

        def segment() -> PanopticResult:
            prepared = self._prepare(frame, frozenset())
            return prepared.settings.region.place(self._segment(prepared, prompt), prepared.image.shape[:2])

        return self.submit(segment)

    def submit(self, job: Callable[[], Answer]) -> "Future[Answer]":
        """Runs `job` in the model's thread, before the next frame."""
        return self._worker.submit(job)

    def relabel(self) -> None:
        """Publishes every camera's newest frame under the vocabulary now in force, unless that happens anyway.

        Belongs to the executor's thread, as do the cameras.
        """
        for frame in [camera.latest for camera in self.cameras if camera.latest is not None]:
            self.submit(partial(self._relabel, frame))

    def close(self) -> None:
        """Finishes the frames at hand and frees everything."""
        self._ending.close()

    def _process(self, frames: Sequence[Frame]) -> None:
        # Taken once, so that everything about these frames belongs to one version.
        prompt = self.vocabulary.current
        prepared: list[PreparedFrame] = []
        for frame in frames:
            with self._losses.only(frame):
                if wanted := frame.camera.outputs.wanted():
                    prepared.append(self._prepare(frame, wanted))
        for group in alike(prepared):
            if len(group) > 1 and (pending := self._start_together(group, prompt)) is not None:
                self._publishing.hand_over(group, pending, prompt)
                continue
            for one in group:
                with self._losses.only(one.frame):
                    self._publishing.hand_over([one], self._start([one], prompt), prompt)

    def _relabel(self, frame: Frame) -> None:
        self._publishing.wait()
        version = self.vocabulary.current.vocabulary.version
        if not frame.camera.frames.full and frame.camera.published != (frame, version):
            self._process([frame])

    def _prepare(self, frame: Frame, wanted: frozenset[str]) -> PreparedFrame:
        """What the frame needs before the model, for these outputs."""
        settings = Settings.read(self._node, frame.camera.name)
        depth = frame.camera.depth.expect(frame.header) if wanted & NEEDS_DEPTH else None
        image = frame.decode()
        return PreparedFrame(frame, wanted, settings, image, settings.region.crop(image), depth)

    def _start(self, frames: Sequence[PreparedFrame], prompt: Prompt) -> "Pending":
        """The model at work on frames that are `alike`."""
        with self._model:
            return self._segmenter.start([one.pixels for one in frames], prompt, frames[0].settings.merge)

    def _start_together(self, group: Sequence[PreparedFrame], prompt: Prompt) -> "Pending | None":
        """All of a group in one pass; None where that fails, because one of them or the memory for all is to blame."""
        try:
            return self._start(group, prompt)
        except Exception as error:
            self._losses.say("batch", f"{len(group)} frames at once met {describe(error)}; trying one by one")
            return None

    def _segment(self, prepared: PreparedFrame, prompt: Prompt) -> PanopticResult:
        """The result of what is inside the region of interest."""
        return self._start([prepared], prompt).results()[0]

    def _warm_up(self) -> None:
        # Kernels are chosen and caches filled now, not on the first picture.
        width, height = self.engine.size or _WARM_UP_SIZE
        image = np.zeros((height, width, 3), dtype=np.uint8)
        self._segmenter.segment(image, self.vocabulary.current, Settings.read(self._node).merge)

    def _min_period(self) -> float:
        max_rate = self._node.get_parameter("max_rate").value
        return 1.0 / max_rate if max_rate > 0 else 0.0

    def _max_batch(self) -> int:
        """On a CPU a batch takes as long as its frames one by one, and the first would wait for the last."""
        return self._node.get_parameter("max_batch").value or (64 if self._segmenter.device.type == "cuda" else 1)

    def _close_cameras(self) -> None:
        for camera in self.cameras:
            camera.close()
