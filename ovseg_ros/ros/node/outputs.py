"""The node's outputs. One that nobody subscribes to costs nothing."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from ovseg_ros.core.outputs import COMPRESSED_OUTPUTS, DATA_OUTPUTS, OVERLAY_OUTPUTS, Output, SegmentedFrame
from ovseg_ros.msg import Segments3D
from ovseg_ros.ros.node.conversions import MESSAGE_TYPES, MESSAGES
from ovseg_ros.ros.node.qos import offending_subscribers, output_qos, publisher_events
from ovseg_ros.ros.node.space_messages import FrameInSpace, markers_message, points_message, segments_3d_message
from ovseg_ros.ros.node.topic_types import Mistyped, mistyped_subscribers
from ovseg_ros.ros.node.vision_outputs import DETECTIONS


def _of_ros(outputs: Mapping[str, Output]) -> dict[str, tuple[type, Callable[[SegmentedFrame], Any]]]:
    return {name: (MESSAGE_TYPES[output.type_name], partial(output.make, MESSAGES)) for name, output in outputs.items()}


# In the order of publishing: what robots use first, then what people look at, last what waits for depth.
OUTPUTS: Mapping[str, tuple[type, Callable[[Any], Any]]] = {
    **_of_ros(DATA_OUTPUTS),
    **DETECTIONS,
    **_of_ros(COMPRESSED_OUTPUTS),
    **_of_ros(OVERLAY_OUTPUTS),
    "points": (PointCloud2, points_message),
    "segments_3d": (Segments3D, segments_3d_message),
    "markers": (MarkerArray, markers_message),
}
"""Type of every output and what makes it, of a `FrameInSpace` where it needs depth and else of a `SegmentedFrame`."""

NEEDS_DEPTH = frozenset({"points", "segments_3d", "markers"})
"""Outputs that are made only where depth belongs to the image."""

SHOWS_IDENTITY = frozenset({"segments", "segments_3d", "markers"})
"""Outputs that carry track ids."""


class Outputs:
    """One camera's publishers under the node's private namespace; they publish while the node is active.

    Args:
        prefix: before the outputs' names, such as "front/"; empty for none.
        on_matched: called in the executor's thread when a subscriber comes or goes; never on Humble.
    """

    def __init__(self, node: LifecycleNode, prefix: str, on_matched: Callable[[], None]) -> None:
        self._node = node
        self._publishers: dict[str, LifecyclePublisher] = {}
        overriding = QoSOverridingOptions.with_default_policies()
        for name, (kind, _) in OUTPUTS.items():
            topic = f"~/{prefix}{name}"
            events = publisher_events(node, node.resolve_topic_name(topic), on_matched)
            self._publishers[name] = node.create_lifecycle_publisher(
                kind, topic, output_qos(), event_callbacks=events, qos_overriding_options=overriding
            )

    def wanted(self) -> frozenset[str]:
        """The outputs that have a subscriber now."""
        return frozenset(name for name, publisher in self._publishers.items() if publisher.get_subscription_count())

    def publish(self, frame: SegmentedFrame | FrameInSpace, names: frozenset[str]) -> None:
        """Makes and publishes these outputs; `NEEDS_DEPTH` tells of which kind of frame."""
        for name, (_, make) in OUTPUTS.items():
            if name in names:
                self._publishers[name].publish(make(frame))

    def incompatible(self) -> list[str]:
        """Every subscriber whose QoS does not fit, with the policy."""
        return offending_subscribers(self._node, self._publishers.values())

    def mistyped(self) -> Mistyped:
        """The subscribers that want messages of another type."""
        return mistyped_subscribers(self._node, list(self._publishers.values()))

    def close(self) -> None:
        """Destroys the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}
