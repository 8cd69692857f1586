"""The node's two image inputs, joined into one stream, and the warning when it dries up."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ovseg_ros.ros.image_decoding import image_from_compressed_message, image_from_message
from ovseg_ros.ros.qos import input_qos, subscription_events

_IMAGE_TYPES = frozenset({"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"})
_PAIRING_TIME = 1.0
"""Seconds for which a frame of one input silences same-stamped or older frames of the other."""


@dataclass(frozen=True, slots=True)
class IncomingFrame:
    """An image as received; nothing is decoded until somebody needs the pixels."""

    message: Image | CompressedImage
    topic: str

    @property
    def header(self) -> Header:
        """Stamp and frame, which every output copies."""
        return self.message.header

    def decode(self) -> np.ndarray:
        """uint8 RGB (H, W, 3).

        Raises:
            ImageFieldError: the message cannot be used.
        """
        if isinstance(self.message, Image):
            return image_from_message(self.message, self.topic)
        return image_from_compressed_message(self.message, self.topic)


class ImageInputs:
    """Subscribes to `image` and `image/compressed`.

    A camera often publishes both forms of every picture: the first to arrive is taken, its twin is ignored.

    Args:
        node: owns the subscriptions.
        transport: "raw", "compressed" or "both".
        on_frame: called in the executor's thread with every frame; must return at once.
    """

    def __init__(self, node: Node, transport: str, on_frame: Callable[[IncomingFrame], None]) -> None:
        self._node = node
        self._on_frame = on_frame
        self._last_frame: IncomingFrame | None = None
        self._last_arrival = time.monotonic()
        self._last_warning = float("-inf")
        self._subscriptions: list[Subscription] = []
        if transport in ("raw", "both"):
            self._subscribe(Image, "image")
        if transport in ("compressed", "both"):
            self._subscribe(CompressedImage, "image/compressed")

    @property
    def topics(self) -> list[str]:
        """The inputs' names after remapping."""
        return [subscription.topic_name for subscription in self._subscriptions]

    def check_timeout(self, timeout: float) -> None:
        """Logs a warning, at most once per `timeout` seconds, while no image has come for that long; 0 = never."""
        now = time.monotonic()
        if timeout <= 0 or now - self._last_arrival < timeout or now - self._last_warning < timeout:
            return
        self._last_warning = now
        counts = [f"{topic} ({self._node.count_publishers(topic)} publishers)" for topic in self.topics]
        self._node.get_logger().warning(
            f"no image for {now - self._last_arrival:.0f} s on {' or '.join(counts)}. {self._advice()}"
        )

    def close(self) -> None:
        """Unsubscribes."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _subscribe(self, message_type: type, name: str) -> None:
        topic = self._node.resolve_topic_name(name)
        self._subscriptions.append(
            self._node.create_subscription(
                message_type,
                name,
                lambda message: self._receive(IncomingFrame(message, topic)),
                input_qos(),
                event_callbacks=subscription_events(self._node, topic),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        )

    def _receive(self, frame: IncomingFrame) -> None:
        now = time.monotonic()
        last = self._last_frame
        is_twin = (
            last is not None
            and frame.topic != last.topic
            and now - self._last_arrival < _PAIRING_TIME
            and _stamp(frame) <= _stamp(last)
        )
        if is_twin:
            return
        if self._last_warning > self._last_arrival:
            self._node.get_logger().info(f"images arrive on {frame.topic}")
        self._last_frame, self._last_arrival = frame, now
        self._on_frame(frame)

    def _advice(self) -> str:
        if any(self._node.count_publishers(topic) for topic in self.topics):
            return (
                "A publisher is there: it is silent, its QoS does not fit, or large best-effort images are lost on the "
                f"way; for the last set qos_overrides.{self.topics[0]}.subscription.reliability to reliable"
            )
        own = self._node.get_fully_qualified_name() + "/"
        available = sorted(
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if not _IMAGE_TYPES.isdisjoint(types) and not topic.startswith(own) and topic not in self.topics
        )
        found = ", ".join(available) if available else "none; is the camera running, with the same ROS_DOMAIN_ID?"
        return f"Remap image to one that is published. Image topics now: {found}"


def _stamp(frame: IncomingFrame) -> tuple[int, int]:
    return frame.header.stamp.sec, frame.header.stamp.nanosec
