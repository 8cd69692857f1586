"""A camera's two image inputs, joined into one stream, and the words for it when it is dry."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from ovseg_ros.ros.node.fault_log import pause
from ovseg_ros.ros.node.qos import Subscriptions, input_qos
from ovseg_ros.ros.node.topic_types import COMPRESSED_IMAGE, IMAGE, publisher_count, topics_of

_PAIRING_TIME = 1.0
"""Seconds for which an image of one input silences same-stamped or older ones of the other."""


ImageMessage: TypeAlias = Image | CompressedImage


def image_types(prefix: str, transport: str) -> dict[str, type]:
    """The inputs' names and types; arguments as of `ImageInputs`."""
    types: dict[str, type] = {}
    if transport in ("raw", "both"):
        types[f"{prefix}image"] = Image
    if transport in ("compressed", "both"):
        types[f"{prefix}image/compressed"] = CompressedImage
    return types


class ImageInputs(Subscriptions):
    """The topics `image` and `image/compressed`.

    A camera often publishes both forms of every picture: the first to arrive is taken, its twin is ignored.

    Args:
        prefix: before the topics' names, such as "front/"; empty for none.
        transport: "raw", "compressed" or "both".
        on_image: called in the executor's thread with every message, its topic and when its callback was called, by
            `clock`; must return at once.
        others: as of `Subscriptions`.
        clock: seconds that never go backwards and, unlike simulated time, never stand still.
    """

    def __init__(
        self,
        node: Node,
        prefix: str,
        transport: str,
        on_image: Callable[[ImageMessage, str, float], None],
        others: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_image = on_image
        self._clock = clock
        topics = {
            name: (kind, partial(self._receive, node.resolve_topic_name(name)))
            for name, kind in image_types(prefix, transport).items()
        }
        super().__init__(node, topics, input_qos(), others)
        self._last: tuple[str, tuple[int, int]] | None = None  # topic and stamp; it came at `_alive`
        self._alive = clock()
        self._next_warning = float("-inf")
        self._missed = False

    def open(self) -> None:
        """As of `Subscriptions`; from now on images are missed."""
        self._alive, self._next_warning = self._clock(), float("-inf")
        super().open()

    def close(self) -> None:
        """As of `Subscriptions`."""
        super().close()
        self._last = None

    def problem(self, timeout: float) -> str:
        """Why no image has come for `timeout` seconds, in one line; empty where images come, or nobody asks for one."""
        silence = self._clock() - self._alive
        if not self.is_open or timeout <= 0 or silence < timeout:
            return ""
        kinds = {self._node.resolve_topic_name(name): kind for name, (kind, _) in self._topics.items()}
        counts = {topic: publisher_count(self._node, topic, kind) for topic, kind in kinds.items()}
        mistyped = self.mistyped()
        if mistyped and not any(counts.values()):
            return f"no image for {silence:.0f} s: {'; '.join(mistyped.values())}"
        described = [f"{topic} ({count} publishers)" for topic, count in counts.items()]
        return f"no image for {silence:.0f} s on {' or '.join(described)}. {self._advice(any(counts.values()))}"

    def warn(self, timeout: float) -> None:
        """Logs the problem, if there is one: after `timeout` seconds, and then less often the longer it lasts."""
        now = self._clock()
        if now >= self._next_warning and (problem := self.problem(timeout)):
            self._next_warning, self._missed = now + pause(now - self._alive, timeout), True
            self._node.get_logger().warning(problem)

    def _receive(self, topic: str, message: ImageMessage) -> None:
        now, stamp = self._clock(), (message.header.stamp.sec, message.header.stamp.nanosec)
        if self._last is not None:
            last_topic, last_stamp = self._last
            if topic != last_topic and now - self._alive < _PAIRING_TIME and stamp <= last_stamp:
                return
        if self._missed:
            self._missed, self._next_warning = False, float("-inf")
            self._node.get_logger().info(f"images arrive on {topic}")
        self._last, self._alive = (topic, stamp), now
        self._on_image(message, topic, now)

    def _advice(self, has_publisher: bool) -> str:
        if has_publisher:
            return (
                "A publisher is there: it is silent, its QoS does not fit, or large best-effort images are lost on the "
                f"way; for the last set qos_overrides.{self.topics[0]}.subscription.reliability to reliable, or give "
                "Fast DDS a larger shared-memory segment (config/fastdds_shm.xml)"
            )
        found = ", ".join(topics_of(self._node, (IMAGE, COMPRESSED_IMAGE), self._taken))
        found = found or "none; is the camera running, with the same ROS_DOMAIN_ID?"
        return f"Remap {next(iter(self._topics))} to one that is published. Image topics now: {found}"
