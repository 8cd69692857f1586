"""What vision_msgs defines: label info, vision info and 2D detections; not published where it is not installed.

This is the only place that imports vision_msgs.
"""

import threading
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.node import Node

from ovseg_ros.core.outputs import SegmentedFrame
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.ros.node.qos import latched_qos, publisher_events

try:
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        LabelInfo,
        ObjectHypothesisWithPose,
        VisionClass,
        VisionInfo,
    )
except ImportError as error:
    MISSING = (
        f"vision_msgs cannot be imported ({error}), so ~/label_info, ~/vision_info and ~/detections are not published; "
        "for Nav2 and others that need them install ros-$ROS_DISTRO-vision-msgs (4.1 or newer) and restart"
    )
else:
    MISSING = ""


class VisionAnnouncer:
    """Publishes the vocabulary as vision_msgs knows it, latched; does nothing where vision_msgs is missing.

    Args:
        node: owns the publishers.
        method: what VisionInfo calls the pipeline.
    """

    def __init__(self, node: Node, method: str) -> None:
        self._node = node
        self._method = method
        self._publishers: list[Any] = []
        self._lock = threading.Lock()
        self._announced: tuple[Vocabulary, float] | None = None
        if MISSING:
            node.get_logger().info(MISSING)
            return
        for name, message_type in (("label_info", LabelInfo), ("vision_info", VisionInfo)):
            topic = node.resolve_topic_name(f"~/{name}")
            self._publishers.append(
                node.create_publisher(message_type, topic, latched_qos(), event_callbacks=publisher_events(node, topic))
            )

    def announce(self, vocabulary: Vocabulary, threshold: float, stamp: Time) -> None:
        """The vocabulary changed at `stamp`. From any thread."""
        with self._lock:
            self._announced = (vocabulary, threshold)
            if self._publishers:
                label_info, vision_info = self._publishers
                location = self._node.resolve_topic_name("~/vocabulary")
                label_info.publish(label_info_message(vocabulary, threshold, stamp))
                vision_info.publish(vision_info_message(self._method, location, vocabulary.version, stamp))

    def follow(self, threshold: float, stamp: Time) -> None:
        """Publishes the label info again if the threshold is another one by now. From any thread."""
        with self._lock:
            if not self._publishers or self._announced is None or self._announced[1] == threshold:
                return
            self._announced = (self._announced[0], threshold)
            self._publishers[0].publish(label_info_message(*self._announced, stamp))

    def close(self) -> None:
        """Destroys the publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers = []


def label_info_message(vocabulary: Vocabulary, threshold: float, stamp: Time) -> Any:
    """Names of the values in ~/label_image. Negatives are left out: they are never published."""
    message = LabelInfo()
    message.header.stamp = stamp
    message.class_map = [
        VisionClass(class_id=category.id, class_name=category.name)
        for category in vocabulary.categories
        if not category.negative
    ]
    message.threshold = float(threshold)
    return message


def vision_info_message(method: str, location: str, version: int, stamp: Time) -> Any:
    """Which words are in force: `location` is the topic of the vocabulary, `version` its version."""
    message = VisionInfo()
    message.header.stamp = stamp
    message.method = method
    message.database_location = location
    message.database_version = version
    return message


def detections_message(frame: SegmentedFrame) -> Any:
    """One detection for each thing: `id` is the value of its mask in ~/segment_image, `class_id` the category's id."""
    message = Detection2DArray()
    message.header = frame.header
    for segment in frame.result.segments:
        if not segment.is_thing:
            continue
        detection = Detection2D()
        detection.header = frame.header
        detection.id = str(segment.id)
        x, y, width, height = segment.box
        # Pixel centres are at integers, so the middle of pixels 0 and 1 is 0.5.
        detection.bbox.center.position.x = x + (width - 1) / 2
        detection.bbox.center.position.y = y + (height - 1) / 2
        detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = str(segment.category_id)
        hypothesis.hypothesis.score = float(segment.score)
        detection.results = [hypothesis]
        message.detections.append(detection)
    return message


DETECTIONS: dict[str, tuple[type, Callable[[SegmentedFrame], Any]]] = (
    {} if MISSING else {"detections": (Detection2DArray, detections_message)}
)
"""The output of every frame: its type, and what makes it; empty where vision_msgs is missing."""
