"""What vision_msgs defines: label info, vision info and 2D detections; not published where it is not installed.

This is the only place that imports vision_msgs.
"""

import threading
from collections.abc import Callable
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.node import Node
from std_msgs.msg import Header

from ovseg_ros.core.outputs import SegmentedFrame
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.ros.node.qos import latched_publisher

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
    """Publishes the vocabulary as vision_msgs knows it, latched; does nothing where vision_msgs is missing."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._announced: tuple[Vocabulary, float] | None = None
        self._publishers: list[Any] = []
        if MISSING:
            node.get_logger().info(MISSING)
            return
        for name, message_type in (("label_info", LabelInfo), ("vision_info", VisionInfo)):
            self._publishers.append(latched_publisher(node, message_type, name))

    @property
    def publishers(self) -> list[Any]:
        """Those of what is latched; none where vision_msgs is missing."""
        return list(self._publishers)

    def announce(self, vocabulary: Vocabulary, stamp: Time) -> None:
        """The vocabulary changed at `stamp`. From any thread."""
        if not self._publishers:
            return
        message = VisionInfo(header=Header(stamp=stamp), method=f"ovseg_ros {self._node.get_parameter('preset').value}")
        message.database_location = self._node.resolve_topic_name("~/vocabulary")
        message.database_version = vocabulary.version
        with self._lock:
            self._publish_label_info(vocabulary, stamp)
            self._publishers[1].publish(message)

    def follow_threshold(self) -> None:
        """Publishes the label info again if the threshold is another one by now. From any thread."""
        with self._lock:
            if self._announced is not None and self._announced[1] != self._threshold():
                self._publish_label_info(self._announced[0], self._node.get_clock().now().to_msg())

    def close(self) -> None:
        """Destroys the publishers."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def _publish_label_info(self, vocabulary: Vocabulary, stamp: Time) -> None:
        """Names of the values in ~/label_image. Negatives are left out: they are never published."""
        threshold = self._threshold()
        self._announced = (vocabulary, threshold)
        names = {category.id: category.name for category in vocabulary.categories if not category.negative}
        classes = [VisionClass(class_id=id_, class_name=name) for id_, name in names.items()]
        self._publishers[0].publish(LabelInfo(header=Header(stamp=stamp), class_map=classes, threshold=threshold))

    def _threshold(self) -> float:
        return float(self._node.get_parameter("object_threshold").value)


def detections_message(frame: SegmentedFrame) -> Any:
    """One detection for each thing: `id` is the value of its mask in ~/segment_image, `class_id` the category's id."""
    message = Detection2DArray(header=frame.header)
    for segment in frame.result.segments:
        if not segment.is_thing:
            continue
        detection = Detection2D(header=frame.header, id=str(segment.id))
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
