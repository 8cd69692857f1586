"""The real node inside the benchmark's process, with a clock at its image callback, its model and its publishers.

Image messages reach the node through the middleware, as in service. A frame's time starts when the node's callback is
called with the message and ends when the last of its publishers' calls returns. The model calls inside are timed too,
so that the rest is the node's own: decoding, hand-over between threads, making messages and publishing them. With
several cameras all send at once, and the node's own part is shared out among their frames.

Imports rclpy and the built messages: import this module only where they may be missing.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.outputs import DATA_OUTPUTS, OVERLAY_OUTPUTS
from ovseg_ros.core.segmenter import PanopticSegmenter, Pending
from ovseg_ros.core.vocabulary import CategorySpec
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.node_process import SWITCH_INTERVAL
from ovseg_ros.ros.node.outputs import OUTPUTS
from ovseg_ros.ros.node.qos import output_qos
from ovseg_ros.ros.node.segment_node import SegmentNode
from ovseg_ros.ros.node.statistics import CameraStatistics
from ovseg_ros.srv import Query

Answer = TypeVar("Answer")

TRACKED = "without overlays, with tracking"
_SETTLE_TIME = 10.0
"""Seconds for publishers and subscribers to find each other."""


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Seconds of one round.

    Attributes:
        frames: of each frame, from the start of its callback to the return of its last publisher's call.
        whole: from the first frame's callback to the last publisher's return.
        model: of all model calls in between, waits for their results included.
    """

    frames: Sequence[float]
    whole: float
    model: float


class RoundClock:
    """Times one round, a frame of each camera; written by the node's threads, waited for by the benchmark's."""

    def __init__(self, cameras: int) -> None:
        self._cameras = cameras
        self._condition = threading.Condition()
        self.start()

    def start(self) -> None:
        """A round begins."""
        with self._condition:
            self._frames: list[tuple[float, float]] = []  # beginnings and ends
            self._model_seconds = 0.0

    def on_model(self, seconds: float) -> None:
        """The model took so long for one call."""
        with self._condition:
            self._model_seconds += seconds

    def on_published(self, seconds: float) -> None:
        """A frame's last publisher returned, so long after its callback."""
        now = time.monotonic()
        with self._condition:
            self._frames.append((now - seconds, now))
            if self._is_over():  # before that, whoever waits would only take the interpreter from the node
                self._condition.notify_all()

    def wait(self, timeout: float) -> RoundTimes | None:
        """The times of a round that is over; None where it is not within `timeout` seconds."""
        with self._condition:
            if not self._condition.wait_for(self._is_over, timeout):
                return None
            begins, ends = zip(*self._frames, strict=True)
            frames = [end - begin for begin, end in self._frames]
            return RoundTimes(frames, max(ends) - min(begins), self._model_seconds)

    def _is_over(self) -> bool:
        return len(self._frames) == self._cameras


class _TimedSegmenter(PanopticSegmenter):
    """Notes how long each call took: its start, and the wait for its results. `segment` is one, too."""

    def __init__(self, segmenter: PanopticSegmenter, clock: RoundClock) -> None:
        super().__init__(segmenter.model, segmenter.merge, segmenter.device)
        self.engine = segmenter.engine
        self._clock = clock

    def start(self, images: Sequence[np.ndarray], prompt: Prompt, merge: MergeConfig | None = None) -> Pending:
        pending = self._timed(lambda: super(_TimedSegmenter, self).start(images, prompt, merge))
        return Pending(lambda: self._timed(pending.results))

    def _timed(self, call: Callable[[], Answer]) -> Answer:
        began = time.monotonic()
        answer = call()
        self._clock.on_model(time.monotonic() - began)
        return answer


class _TimedStatistics(CameraStatistics):
    """The node's own, which tell the clock."""

    def __init__(self, clock: RoundClock) -> None:
        super().__init__()
        self._round_clock = clock

    def published(self, since_capture: float, since_callback: float) -> None:
        self._round_clock.on_published(since_callback)
        super().published(since_capture, since_callback)


class NodeBench:
    """A configured, active node, a camera that feeds it, and subscribers to its outputs, as a context manager.

    The subscribers live in this process and never take their messages, so that only the node's cost is measured.

    Args:
        specs: the node's vocabulary.
        cameras: how many.

    Raises:
        ConfigError: the node could not be configured or activated; its log says why.
    """

    subscriptions: Mapping[str, Sequence[str]] = {
        "without overlays": [*DATA_OUTPUTS],
        TRACKED: [*DATA_OUTPUTS],
        "with overlays": [*DATA_OUTPUTS, *OVERLAY_OUTPUTS],
    }

    def __init__(self, segmenter: PanopticSegmenter, specs: Sequence[CategorySpec], cameras: int = 1) -> None:
        self._clock = RoundClock(cameras)
        names = [f"camera_{number}" for number in range(cameras)] if cameras > 1 else []
        self._prefixes = [f"{name}/" for name in names] or [""]
        self._subscribed: dict[str, Subscription] = {}
        parameters = {
            "vocabulary": [*(spec.name for spec in specs), ""],
            "image_timeout": 0.0,
            "image_transport": "raw",
        }
        if names:
            parameters["cameras"] = names
        # A namespace of its own, so that no other camera or robot on the network takes part.
        arguments = ["--ros-args", "-r", f"__ns:=/ovseg_bench_{os.getpid()}"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML, as a command line's parameters are
        self._switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)  # as in the node's own process
        rclpy.init(args=arguments)
        self._node = SegmentNode(lambda *_: _TimedSegmenter(segmenter, self._clock))
        self._camera = rclpy.create_node("bench_camera")
        self._sink = rclpy.create_node("bench_sink")
        self._query = self._camera.create_client(Query, f"{self._node.get_fully_qualified_name()}/query")
        self._publishers = [
            self._camera.create_publisher(Image, f"{prefix}image", output_qos()) for prefix in self._prefixes
        ]
        self._executor, self._asking = SingleThreadedExecutor(), SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="bench executor", daemon=True)

    def __enter__(self) -> "NodeBench":
        if not self._node.start() or self._node.pipeline is None:
            self.close()
            raise ConfigError("the node could not be started; its log above says why")
        self._pipeline = self._node.pipeline
        for camera in self._pipeline.cameras:
            camera.statistics = _TimedStatistics(self._clock)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the node, its threads and the middleware's context."""
        self._executor.shutdown()
        self._asking.shutdown()
        if self._thread.ident is not None:
            self._thread.join()
        self._node.close()
        for node in (self._node, self._camera, self._sink):
            node.destroy_node()
        rclpy.try_shutdown()
        sys.setswitchinterval(self._switch_interval)

    def subscribe(self, name: str) -> None:
        """Have exactly the outputs of `subscriptions[name]` subscribed; ConfigError if they are not found in time."""
        # Identities over time are a computation of their own, so they have a row of their own.
        self._node.set_parameters([Parameter("tracking", value=name == TRACKED)])
        outputs = self.subscriptions[name]
        wanted = {f"{prefix}{output}": OUTPUTS[output][0] for prefix in self._prefixes for output in outputs}
        for output in self._subscribed.keys() - wanted.keys():
            self._sink.destroy_subscription(self._subscribed.pop(output))
        for output in wanted.keys() - self._subscribed.keys():
            topic = f"{self._node.get_fully_qualified_name()}/{output}"
            # Nobody takes what it gets: it exists so that the node publishes.
            self._subscribed[output] = self._sink.create_subscription(
                wanted[output], topic, lambda message: None, output_qos()
            )
        _wait_until(
            lambda: all(camera.outputs.wanted() == set(outputs) for camera in self._pipeline.cameras),
            f"the node's publishers and the subscribers of {', '.join(wanted)} did not find each other",
        )
        _wait_until(
            lambda: all(publisher.get_subscription_count() for publisher in self._publishers),
            "the node did not subscribe to the cameras",
        )

    def call(self, job: Callable[[], Answer]) -> Answer:
        """Runs `job` where the node runs the model: PyTorch's threads would wait for those of another that computes."""
        return self._pipeline.submit(job).result()

    def run_round(self, image: np.ndarray, timeout: float) -> RoundTimes:
        """Send one uint8 RGB image from all cameras at once through the node; ConfigError after `timeout` seconds."""
        header = Header(frame_id="bench", stamp=self._camera.get_clock().now().to_msg())
        message = MESSAGES.image(image, "rgb8", header)
        self._clock.start()
        for publisher in self._publishers:
            publisher.publish(message)
        times = self._clock.wait(timeout)
        if times is None:
            raise ConfigError(f"the node did not publish all of {sorted(self._subscribed)} within {timeout:.0f} s")
        return times

    def ask(self, phrase: str, timeout: float) -> float:
        """Seconds from a call of `~/query` to its answer, about the newest image; ConfigError after `timeout`."""
        began = time.monotonic()
        answer = self._query.call_async(Query.Request(phrase=phrase))
        rclpy.spin_until_future_complete(self._camera, answer, self._asking, timeout)
        if not answer.done():
            raise ConfigError(f"the node did not answer the query {phrase!r} within {timeout:.0f} s")
        return time.monotonic() - began


def _wait_until(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _SETTLE_TIME
    while not condition():
        if time.monotonic() > deadline:
            raise ConfigError(f"{failure} within {_SETTLE_TIME:.0f} s; is the middleware's network set up?")
        time.sleep(0.005)
