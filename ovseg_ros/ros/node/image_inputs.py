"""A camera's two image inputs, joined into one stream, and the words for it when it is dry."""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from ovseg_ros.ros.node.qos import Subscriptions, input_qos

_IMAGE_TYPES = frozenset({"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"})
_PAIRING_TIME = 1.0
"""Seconds for which an image of one input silences same-stamped or older ones of the other."""


ImageMessage: TypeAlias = Image | CompressedImage


class ImageInputs(Subscriptions):
    """The topics `image` and `image/compressed`.

    A camera often publishes both forms of every picture: the first to arrive is taken, its twin is ignored.

    Args:
        prefix: before the topics' names, such as "front/"; empty for none.
        transport: "raw", "compressed" or "both".
        on_image: called in the executor's thread with every message, its topic and when its callback was called, by
            `time.monotonic`; must return at once.
    """

    def __init__(
        self, node: Node, prefix: str, transport: str, on_image: Callable[[ImageMessage, str, float], None]
    ) -> None:
        self._on_image = on_image
        types: dict[str, type] = {}
        if transport in ("raw", "both"):
            types[f"{prefix}image"] = Image
        if transport in ("compressed", "both"):
            types[f"{prefix}image/compressed"] = CompressedImage
        topics = {name: (kind, partial(self._receive, node.resolve_topic_name(name))) for name, kind in types.items()}
        super().__init__(node, topics, input_qos())
        self._last: tuple[str, tuple[int, int]] | None = None  # topic and stamp; it came at `_alive`
        self._alive = time.monotonic()
        self._warned = float("-inf")
        self._missed = False

    def open(self) -> None:
        """As of `Subscriptions`; from now on images are missed."""
        self._alive = time.monotonic()
        super().open()

    def close(self) -> None:
        """As of `Subscriptions`."""
        super().close()
        self._last = None
        self._alive = time.monotonic()

    def problem(self, timeout: float) -> str:
        """Why no image has come for `timeout` seconds, in one line; empty where images come, or none is asked for.

        Nobody asks for images while it is closed; that there is no publisher at all is worth telling even then.
        """
        publishers = {topic: self._node.count_publishers(topic) for topic in self.topics}
        if not self.is_open and any(publishers.values()):
            self._alive = time.monotonic()
        silence = time.monotonic() - self._alive
        if timeout <= 0 or silence < timeout:
            return ""
        counts = [f"{topic} ({count} publishers)" for topic, count in publishers.items()]
        return f"no image for {silence:.0f} s on {' or '.join(counts)}. {self._advice(any(publishers.values()))}"

    def warn(self, timeout: float) -> None:
        """Logs the problem, if there is one, at most once per `timeout` seconds."""
        now = time.monotonic()
        if now - self._warned >= timeout and (problem := self.problem(timeout)):
            self._warned, self._missed = now, True
            self._node.get_logger().warning(problem)

    def _receive(self, topic: str, message: ImageMessage) -> None:
        now, stamp = time.monotonic(), (message.header.stamp.sec, message.header.stamp.nanosec)
        if self._last is not None:
            last_topic, last_stamp = self._last
            if topic != last_topic and now - self._alive < _PAIRING_TIME and stamp <= last_stamp:
                return
        if self._missed:
            self._missed = False
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
        own = self._node.get_fully_qualified_name() + "/"
        available = sorted(
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if not _IMAGE_TYPES.isdisjoint(types) and not topic.startswith(own) and topic not in self.topics
        )
        found = ", ".join(available) if available else "none; is the camera running, with the same ROS_DOMAIN_ID?"
        return f"Remap {next(iter(self._topics))} to one that is published. Image topics now: {found}"
