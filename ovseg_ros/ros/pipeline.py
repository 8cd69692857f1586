"""What a configured node runs: every frame from decoding to publishing, on the worker thread."""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from rclpy.lifecycle import LifecycleNode

from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.types import PanopticResult, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.msg import Vocabulary as VocabularyMessage
from ovseg_ros.ros.conversions import vocabulary_message
from ovseg_ros.ros.fault_log import FaultLog
from ovseg_ros.ros.image_decoding import ImageFieldError
from ovseg_ros.ros.image_inputs import IncomingFrame
from ovseg_ros.ros.outputs import Outputs, SegmentedFrame
from ovseg_ros.ros.parameters import Settings
from ovseg_ros.ros.qos import latched_qos, publisher_events
from ovseg_ros.ros.vocabulary_service import VocabularyService
from ovseg_ros.ros.worker import Worker

if TYPE_CHECKING:
    from ovseg_ros.core.segmenter import PanopticSegmenter

_WARM_UP_SHAPE = (480, 640, 3)


class Pipeline:
    """The model, its vocabulary, its thread and the publishers. Runs the model once before it is ready.

    Args:
        node: owns the publishers and the parameters.
        segmenter: the model.
        specs: the first vocabulary.

    Raises:
        VocabularyError: the first vocabulary is refused.
    """

    def __init__(self, node: LifecycleNode, segmenter: "PanopticSegmenter", specs: Sequence[CategorySpec]) -> None:
        self._node = node
        self._segmenter = segmenter
        self._announced = VocabularyMessage()
        self._faults = FaultLog(node.get_logger().error)
        topic = node.resolve_topic_name("~/vocabulary")
        self._announcer = node.create_publisher(
            VocabularyMessage, topic, latched_qos(), event_callbacks=publisher_events(node, topic)
        )
        self._outputs = Outputs(node)
        with ExitStack() as undo:
            undo.callback(node.destroy_publisher, self._announcer)
            undo.callback(self._outputs.close)
            max_categories = node.get_parameter("max_categories").value
            self.vocabulary = VocabularyService(segmenter, specs, max_categories, self._announce)
            undo.callback(self.vocabulary.close)
            self._worker: Worker[IncomingFrame] = Worker(self._process, self._report, self._min_period)
            undo.callback(self._worker.close)
            self._worker.submit(self._warm_up).result()
            self._ending = undo.pop_all()

    @property
    def vocabulary_message(self) -> VocabularyMessage:
        """The vocabulary as last published."""
        return self._announced

    def put(self, frame: IncomingFrame) -> None:
        """Hands over a frame; the newest wins, older ones that wait are dropped."""
        self._worker.frames.put(frame)

    def forget(self) -> None:
        """Drops the frame that waits, if any."""
        self._worker.frames.take_nowait()

    def query(self, frame: IncomingFrame, text: TextEmbeddings) -> "Future[PanopticResult]":
        """Segments `frame` with a text of one's own, before the next frame."""
        return self._worker.submit(lambda: self._segment(frame.decode(), text, Settings.read(self._node).merge))

    def close(self) -> None:
        """Finishes the frame at hand and frees everything."""
        self._ending.close()

    def _process(self, frame: IncomingFrame) -> None:
        wanted = self._outputs.wanted()
        if not wanted:
            return
        # Taken once, so that everything about this frame belongs to one version and one set of parameters.
        text = self.vocabulary.current
        settings = Settings.read(self._node)
        image = frame.decode()
        result = self._segment(image, text, settings.merge)
        self._outputs.publish(SegmentedFrame(image, frame.header, result, text.vocabulary, settings), wanted)

    def _segment(self, image: np.ndarray, text: TextEmbeddings, merge: MergeConfig) -> PanopticResult:
        """Only the worker thread comes here, so nobody else sees the thresholds change."""
        self._segmenter.merge = merge
        return self._segmenter.segment(image, text)

    def _report(self, error: Exception) -> None:
        """A frame was lost to `error`."""
        if not self._node.context.ok():  # publishing fails while the process shuts down
            return
        if isinstance(error, ImageFieldError):
            self._faults.report((error.topic, error.field), f"image refused: {error}")
        else:
            kind = type(error).__name__
            self._faults.report(kind, f"a frame was lost to {kind}: {error}; the next one is tried")

    def _warm_up(self) -> None:
        # Kernels are chosen and caches filled now, not on the first picture.
        image = np.zeros(_WARM_UP_SHAPE, dtype=np.uint8)
        self._segment(image, self.vocabulary.current, Settings.read(self._node).merge)

    def _min_period(self) -> float:
        max_rate = self._node.get_parameter("max_rate").value
        return 1.0 / max_rate if max_rate > 0 else 0.0

    def _announce(self, vocabulary: Vocabulary) -> None:
        self._announced = vocabulary_message(vocabulary, self._node.get_clock().now().to_msg())
        self._announcer.publish(self._announced)
