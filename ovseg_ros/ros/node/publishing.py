"""The second half of a frame's way: what the model found is waited for, tracked, drawn and published."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rclpy.lifecycle import LifecycleNode

from ovseg_ros.core.model import Prompt
from ovseg_ros.core.outputs import SegmentedFrame
from ovseg_ros.core.tracking.appearance import segment_appearance
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.ros.node.camera import Frame
from ovseg_ros.ros.node.depth_inputs import DepthFrame, ExpectedDepth
from ovseg_ros.ros.node.fault_log import describe
from ovseg_ros.ros.node.losses import Losses
from ovseg_ros.ros.node.outputs import NEEDS_DEPTH, SHOWS_IDENTITY
from ovseg_ros.ros.node.parameters import Settings
from ovseg_ros.ros.node.space_messages import FrameInSpace

if TYPE_CHECKING:
    from ovseg_ros.core.segmenter import Pending


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A frame that somebody wants: decoded, and cut to the region of interest.

    `depth` is where its depth is put as it comes; None where nobody wants that.
    """

    frame: Frame
    wanted: frozenset[str]
    settings: Settings
    image: np.ndarray
    pixels: np.ndarray
    depth: ExpectedDepth | None = None


class PublishingThread:
    """Publishes in order what the model's thread hands over, while that thread has the next frame begun.

    It is one frame behind, or the frames of one batch, and never more: results get no older while they wait. All of
    the cameras' `tracker` and `published` belongs to it, and so does pairing with depth.

    Args:
        losses: told of frames that are lost.
        segment: segments one frame anew, where all of its batch met an error.
    """

    def __init__(
        self, node: LifecycleNode, losses: Losses, segment: Callable[[PreparedFrame, Prompt], PanopticResult]
    ) -> None:
        self._node = node
        self._losses = losses
        self._segment = segment
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publisher")
        self._at_hand: Future[None] = Future()
        self._at_hand.set_result(None)

    def hand_over(self, frames: Sequence[PreparedFrame], pending: "Pending", prompt: Prompt) -> None:
        """Has these frames published, once those that were handed over before are; waits for the latter.

        Belongs to the model's thread, as does `wait`.
        """
        self.wait()
        self._at_hand = self._thread.submit(self._publish_all, frames, pending, prompt)

    def wait(self) -> None:
        """Returns when everything that was handed over is published."""
        self._at_hand.result()

    def close(self) -> None:
        """Publishes what was handed over, and ends."""
        self._thread.shutdown()

    def _publish_all(self, frames: Sequence[PreparedFrame], pending: "Pending", prompt: Prompt) -> None:
        results = self._results_together(frames, pending) if len(frames) > 1 else None
        for index, one in enumerate(frames):
            with self._losses.only(one.frame):
                if results is not None:
                    result = results[index]
                else:
                    result = pending.results()[0] if len(frames) == 1 else self._segment(one, prompt)
                self._publish(one, result, prompt)

    def _results_together(self, frames: Sequence[PreparedFrame], pending: "Pending") -> list[PanopticResult] | None:
        """Of a batch; None where that fails, because one of them or the memory for all is to blame."""
        try:
            return pending.results()
        except Exception as error:
            self._losses.say("batch", f"{len(frames)} frames at once met {describe(error)}; trying one by one")
            return None

    def _publish(self, prepared: PreparedFrame, result: PanopticResult, prompt: Prompt) -> None:
        frame, wanted, settings, image = prepared.frame, prepared.wanted, prepared.settings, prepared.image
        camera, header = frame.camera, frame.header
        whole = settings.region.place(result, image.shape[:2])
        captured = header.stamp.sec + header.stamp.nanosec / 1e9
        # Names that tracks decide are in nearly every output, and have to be the same whoever listens.
        if settings.tracking and (settings.name_votes or wanted & SHOWS_IDENTITY):
            looks = segment_appearance(image, whole)
            whole = camera.tracker.update(whole, captured, looks, name_votes=settings.name_votes)
        segmented = SegmentedFrame(image, header, whole, prompt.vocabulary, settings.outputs)
        camera.outputs.publish(segmented, wanted - NEEDS_DEPTH)
        # Last: depth may still be on its way.
        if prepared.depth is not None and (depth := self._depth_of(frame, prepared.depth, image)) is not None:
            camera.outputs.publish(FrameInSpace(segmented, depth), wanted & NEEDS_DEPTH)
        camera.published = (frame, whole.vocabulary_version)
        since_capture = self._node.get_clock().now().nanoseconds / 1e9 - captured
        camera.statistics.published(since_capture, time.monotonic() - frame.received)

    def _depth_of(self, frame: Frame, expected: ExpectedDepth, image: np.ndarray) -> DepthFrame | None:
        """The frame's depth; where there is none, the log says why."""
        depth = frame.camera.depth.pair(expected, *image.shape[:2])
        if problem := frame.camera.depth.problem():
            self._losses.say(("depth", frame.camera.name), f"3D outputs: {problem}")
        return depth
