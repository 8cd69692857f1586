"""The real node inside the benchmark's process, with a clock at its image callback and at its publishers.

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
from typing import Any, TypeVar

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecyclePublisher, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.outputs import DATA_OUTPUTS, OVERLAY_OUTPUTS
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import CategorySpec
from ovseg_ros.ros.node.camera import Camera
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.node_process import SWITCH_INTERVAL
from ovseg_ros.ros.node.outputs import TYPES
from ovseg_ros.ros.node.qos import output_qos
from ovseg_ros.ros.node.segment_node import SegmentNode

Answer = TypeVar("Answer")

TRACKED = "without overlays, with tracking"
_SETTLE_TIME = 10.0
"""Seconds for publishers and subscribers to find each other."""


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Seconds of one round, a frame of each camera.

    Attributes:
        frames: of each frame, from the start of its callback to the return of its last publisher's call.
        whole: from the first frame's callback to the last publisher's return.
        model: of all model calls in between.
    """

    frames: Sequence[float]
    whole: float
    model: float


class RoundClock:
    """Times one round; written by the node's threads, waited for by the benchmark's."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.expect(0, 0)

    def expect(self, callbacks: int, messages: int) -> None:
        """Start a round that ends after so many image callbacks and published messages."""
        with self._condition:
            self._missing = [callbacks, messages]
            self._received: dict[str, float] = {}
            self._published: dict[str, float] = {}
            self._model_seconds = 0.0

    def on_received(self, camera: str, moment: float) -> None:
        """A camera's image callback was entered."""
        self._note(0, self._received, camera, moment)

    def on_published(self, camera: str) -> None:
        """A publisher's call returned."""
        self._note(1, self._published, camera, time.monotonic())

    def on_model(self, seconds: float) -> None:
        """The model took so long for one call."""
        with self._condition:
            self._model_seconds += seconds

    def wait(self, timeout: float) -> RoundTimes | None:
        """The round's times, once all that is expected came; None where it did not within `timeout` seconds."""
        with self._condition:
            if not self._condition.wait_for(lambda: max(self._missing) <= 0, timeout):
                return None
            return RoundTimes(
                frames=[self._published[camera] - moment for camera, moment in self._received.items()],
                whole=max(self._published.values()) - min(self._received.values()),
                model=self._model_seconds,
            )

    def _note(self, kind: int, moments: dict[str, float], camera: str, moment: float) -> None:
        with self._condition:
            moments[camera] = moment
            self._missing[kind] -= 1
            if max(self._missing) <= 0:  # before that, whoever waits would only take the interpreter from the node
                self._condition.notify_all()


class _TimedSegmenter(PanopticSegmenter):
    """Notes how long each call took; `segment` is one, too."""

    def __init__(self, segmenter: PanopticSegmenter, clock: RoundClock) -> None:
        super().__init__(segmenter.model, segmenter.merge, segmenter.device)
        self._clock = clock

    def segment_batch(
        self, images: Sequence[np.ndarray], prompt: Prompt, merge: MergeConfig | None = None
    ) -> list[PanopticResult]:
        began = time.monotonic()
        results = super().segment_batch(images, prompt, merge)
        self._clock.on_model(time.monotonic() - began)
        return results


class _TimedNode(SegmentNode):
    """The node, unchanged but for the clock."""

    def __init__(self, segmenter: PanopticSegmenter, clock: RoundClock) -> None:
        self._round_clock = clock
        self._timed_publishers: dict[str, LifecyclePublisher] = {}
        super().__init__(lambda preset, device: _TimedSegmenter(segmenter, clock))

    def _on_frame(self, camera: Camera) -> None:
        if camera.latest is not None:
            self._round_clock.on_received(camera.name, camera.latest.received)
        super()._on_frame(camera)

    def create_lifecycle_publisher(self, *args: Any, **options: Any) -> LifecyclePublisher:
        publisher = super().create_lifecycle_publisher(*args, **options)
        publish = publisher.publish
        output = publisher.topic_name.removeprefix(f"{self.get_fully_qualified_name()}/")
        first = output.split("/")[0]
        camera = first if first in self.get_parameter("cameras").value else ""

        def timed_publish(message: Any) -> None:
            publish(message)
            self._round_clock.on_published(camera)

        publisher.publish = timed_publish
        self._timed_publishers[output] = publisher
        return publisher

    def in_model_thread(self, job: Callable[[], Answer]) -> Answer:
        """What `job` returns; PyTorch's threads wait for those of another one, so no other may compute here."""
        assert self._pipeline is not None
        return self._pipeline.submit(job).result()

    def subscribed_outputs(self) -> set[str]:
        """The outputs whose publishers know of a subscriber."""
        return {name for name, publisher in self._timed_publishers.items() if publisher.get_subscription_count()}


class NodeBench:
    """A configured, active node, a camera that feeds it, and subscribers to its outputs, as a context manager.

    The subscribers live in this process and never take their messages, so that only the node's cost is measured.

    Args:
        segmenter: the model that the node runs.
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
        self._clock = RoundClock()
        names = [f"camera_{number}" for number in range(cameras)] if cameras > 1 else []
        self._prefixes = [f"{name}/" for name in names] or [""]
        self._subscribed: dict[str, Subscription] = {}
        parameters = {"vocabulary": [spec.name for spec in specs], "image_timeout": 0.0, "image_transport": "raw"}
        if names:
            parameters["cameras"] = names
        # A namespace of its own, so that no other camera or robot on the network takes part.
        arguments = ["--ros-args", "-r", f"__ns:=/ovseg_bench_{os.getpid()}"]
        for name, value in parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML, as a command line's parameters are
        self._switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL)  # as in the node's own process
        rclpy.init(args=arguments)
        self._node = _TimedNode(segmenter, self._clock)
        self._camera = rclpy.create_node("bench_camera")
        self._sink = rclpy.create_node("bench_sink")
        self._publishers = [
            self._camera.create_publisher(Image, f"{prefix}image", output_qos()) for prefix in self._prefixes
        ]
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="bench executor", daemon=True)

    def __enter__(self) -> "NodeBench":
        success = TransitionCallbackReturn.SUCCESS
        if self._node.trigger_configure() != success or self._node.trigger_activate() != success:
            self.close()
            raise ConfigError("the node could not be started; its log above says why")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the node, its threads and the middleware's context."""
        self._executor.shutdown()
        if self._thread.ident is not None:
            self._thread.join()
        self._node.close()
        for node in (self._node, self._camera, self._sink):
            node.destroy_node()
        rclpy.try_shutdown()
        sys.setswitchinterval(self._switch_interval)

    def subscribe(self, name: str) -> None:
        """Have exactly the outputs of `subscriptions[name]` subscribed, and wait until the node's publishers know.

        Raises:
            ConfigError: they did not find each other in time.
        """
        # Identities over time are a computation of their own, so they have a row of their own.
        self._node.set_parameters([Parameter("tracking", value=name == TRACKED)])
        outputs = self.subscriptions[name]
        wanted = {f"{prefix}{output}": TYPES[output] for prefix in self._prefixes for output in outputs}
        for output in self._subscribed.keys() - wanted.keys():
            self._sink.destroy_subscription(self._subscribed.pop(output))
        for output in wanted.keys() - self._subscribed.keys():
            topic = f"{self._node.get_fully_qualified_name()}/{output}"
            # Nobody takes what it gets: it exists so that the node publishes.
            self._subscribed[output] = self._sink.create_subscription(
                wanted[output], topic, lambda message: None, output_qos()
            )
        _wait_until(
            lambda: self._node.subscribed_outputs() == wanted.keys(),
            f"the node's publishers and the subscribers of {', '.join(wanted)} did not find each other",
        )
        _wait_until(
            lambda: all(publisher.get_subscription_count() for publisher in self._publishers),
            "the node did not subscribe to the cameras",
        )

    def call(self, job: Callable[[], Answer]) -> Answer:
        """Runs `job` where the node runs the model, between two frames."""
        return self._node.in_model_thread(job)

    def run_round(self, image: np.ndarray, timeout: float) -> RoundTimes:
        """Send one uint8 RGB image from every camera, at once, through the node.

        Raises:
            ConfigError: the node did not publish within `timeout` seconds.
        """
        header = Header(frame_id="bench", stamp=self._camera.get_clock().now().to_msg())
        message = MESSAGES.image(image, "rgb8", header)
        self._clock.expect(len(self._publishers), len(self._subscribed))
        for publisher in self._publishers:
            publisher.publish(message)
        times = self._clock.wait(timeout)
        if times is None:
            raise ConfigError(f"the node did not publish all of {sorted(self._subscribed)} within {timeout:.0f} s")
        return times


def _wait_until(condition: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _SETTLE_TIME
    while not condition():
        if time.monotonic() > deadline:
            raise ConfigError(f"{failure} within {_SETTLE_TIME:.0f} s; is the middleware's network set up?")
        time.sleep(0.005)
