"""What a configured node runs: every frame from decoding to publishing, on the worker thread."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from rclpy.lifecycle import LifecycleNode

from ovseg_ros.core.image_messages import ImageFieldError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.outputs import SegmentedFrame
from ovseg_ros.core.tracking.appearance import segment_appearance
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.ros.node.camera import Camera, Frame
from ovseg_ros.ros.node.depth_inputs import DepthFrame
from ovseg_ros.ros.node.fault_log import FaultLog, describe
from ovseg_ros.ros.node.outputs import NEEDS_DEPTH, SHOWS_IDENTITY
from ovseg_ros.ros.node.parameters import Settings
from ovseg_ros.ros.node.space_messages import FrameInSpace
from ovseg_ros.ros.node.vocabulary_service import VocabularyService
from ovseg_ros.ros.node.worker import Worker

if TYPE_CHECKING:
    import torch

    from ovseg_ros.core.segmenter import PanopticSegmenter

Answer = TypeVar("Answer")

_WARM_UP_SHAPE = (480, 640, 3)


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A frame that somebody wants: decoded, and cut to the region of interest."""

    frame: Frame
    wanted: frozenset[str]
    settings: Settings
    image: np.ndarray
    pixels: np.ndarray


def alike(frames: Iterable[PreparedFrame]) -> list[list[PreparedFrame]]:
    """Groups that the model may take at once: of one size and one set of thresholds, which may change between two."""
    groups: dict[tuple[tuple[int, ...], MergeConfig], list[PreparedFrame]] = {}
    for frame in frames:
        groups.setdefault((frame.pixels.shape, frame.settings.merge), []).append(frame)
    return list(groups.values())


class Pipeline:
    """The model, its vocabulary, its thread and the cameras. Runs the model once before it is ready.

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
        self._faults = FaultLog(node.get_logger().error)
        self.cameras: tuple[Camera, ...] = ()
        with ExitStack() as undo:
            undo.callback(self._close_cameras)  # after the worker, which publishes
            self.vocabulary = VocabularyService(
                node, segmenter, vocabulary, saved_to, partial(self._faults.report, "unsaved")
            )
            undo.callback(self.vocabulary.close)
            self._worker: Worker[Frame] = Worker(
                self._process, self._report, self._min_period, mailboxes=len(cameras), max_batch=self._max_batch()
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

    def query(self, frame: Frame, prompt: Prompt) -> "Future[PanopticResult]":
        """Segments `frame` under a prompt of one's own, before the next frame."""

        def segment() -> PanopticResult:
            settings = Settings.read(self._node, frame.camera.name)
            image = frame.decode()
            result = self._segmenter.segment(settings.region.crop(image), prompt, settings.merge)
            return settings.region.place(result, image.shape[:2])

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
        """Finishes the frame at hand and frees everything."""
        self._ending.close()

    def _process(self, frames: Sequence[Frame]) -> None:
        # Taken once, so that everything about these frames belongs to one version.
        prompt = self.vocabulary.current
        prepared: list[PreparedFrame] = []
        for frame in frames:
            with self._losing_only(frame):
                prepared += self._prepare(frame)
        for group in alike(prepared):
            results = self._segment_together(group, prompt) if len(group) > 1 else None
            for index, one in enumerate(group):
                with self._losing_only(one.frame):
                    result = (
                        results[index] if results else self._segmenter.segment(one.pixels, prompt, one.settings.merge)
                    )
                    self._publish(one, result, prompt)

    def _relabel(self, frame: Frame) -> None:
        version = self.vocabulary.current.vocabulary.version
        if not frame.camera.frames.full and frame.camera.published != (frame, version):
            self._process([frame])

    def _prepare(self, frame: Frame) -> list[PreparedFrame]:
        """What the frame needs before the model; nothing where nobody wants it."""
        wanted = frame.camera.outputs.wanted()
        if not wanted:
            return []
        settings = Settings.read(self._node, frame.camera.name)
        if wanted & NEEDS_DEPTH:
            frame.camera.depth.expect(frame.header)
        image = frame.decode()
        return [PreparedFrame(frame, wanted, settings, image, settings.region.crop(image))]

    def _publish(self, prepared: PreparedFrame, result: PanopticResult, prompt: Prompt) -> None:
        frame, wanted, settings, image = prepared.frame, prepared.wanted, prepared.settings, prepared.image
        camera, header = frame.camera, frame.header
        whole = settings.region.place(result, image.shape[:2])
        captured = header.stamp.sec + header.stamp.nanosec / 1e9
        if settings.tracking and wanted & SHOWS_IDENTITY:
            whole = camera.tracker.update(whole, captured, segment_appearance(image, whole))
        segmented = SegmentedFrame(image, header, whole, prompt.vocabulary, settings.outputs)
        camera.outputs.publish(segmented, wanted - NEEDS_DEPTH)
        # Last: depth may still be on its way.
        if wanted & NEEDS_DEPTH and (depth := self._depth_of(frame, image)) is not None:
            camera.outputs.publish(FrameInSpace(segmented, depth), wanted & NEEDS_DEPTH)
        camera.published = (frame, whole.vocabulary_version)
        since_capture = self._node.get_clock().now().nanoseconds / 1e9 - captured
        camera.statistics.published(since_capture, time.monotonic() - frame.received)

    def _depth_of(self, frame: Frame, image: np.ndarray) -> DepthFrame | None:
        """The frame's depth; where there is none, the log says why."""
        depth = frame.camera.depth.pair(frame.header, *image.shape[:2])
        if problem := frame.camera.depth.problem():
            self._faults.report(("depth", frame.camera.name), f"3D outputs: {problem}")
        return depth

    def _segment_together(self, group: Sequence[PreparedFrame], prompt: Prompt) -> list[PanopticResult] | None:
        """All of a group in one pass; None where that fails, because one of them or the memory for all is to blame."""
        try:
            pixels = [prepared.pixels for prepared in group]
            return self._segmenter.segment_batch(pixels, prompt, group[0].settings.merge)
        except Exception as error:
            self._faults.report("batch", f"{len(group)} frames at once met {describe(error)}; trying one by one")
            return None

    @contextmanager
    def _losing_only(self, frame: Frame) -> Iterator[None]:
        """What goes wrong inside costs this frame only, and is said."""
        try:
            yield
        except Exception as error:  # a model may raise anything
            if self._node.context.ok():  # else publishing fails because the process shuts down
                frame.camera.statistics.failed(describe(error))
                self._report(error, frame.camera.name)

    def _report(self, error: Exception, camera: str = "") -> None:
        """A frame was lost to `error`."""
        if not self._node.context.ok():
            return
        if isinstance(error, ImageFieldError):
            self._faults.report((error.topic, error.field), f"image refused: {error}")
        else:
            kind = type(error).__name__
            of_camera = f" of camera {camera}" if camera else ""
            self._faults.report(
                (kind, camera), f"a frame{of_camera} was lost to {kind}: {error}; the next one is tried"
            )

    def _warm_up(self) -> None:
        # Kernels are chosen and caches filled now, not on the first picture.
        image = np.zeros(_WARM_UP_SHAPE, dtype=np.uint8)
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
