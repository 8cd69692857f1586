"""The node's outputs. One that nobody subscribes to costs nothing."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from ovseg_ros.core.draw import draw_overlay
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.conversions import image_message, jpeg_message, label_image_message, segments_message
from ovseg_ros.ros.parameters import Settings
from ovseg_ros.ros.qos import output_qos, publisher_events

# In the order of publishing: what robots use first, then what people look at.
_TYPES = {
    "label_image": Image,
    "segment_image": Image,
    "confidence_image": Image,
    "segments": PanopticSegmentation,
    "overlay_image": Image,
    "overlay_image/compressed": CompressedImage,
}


@dataclass(frozen=True)
class SegmentedFrame:
    """All that the outputs of one frame are made of: one image, one result, one vocabulary, one set of parameters."""

    image: np.ndarray
    header: Header
    result: PanopticResult
    vocabulary: Vocabulary
    settings: Settings

    @cached_property
    def overlay(self) -> np.ndarray:
        """The image with colours and names drawn into it, uint8 RGB (H, W, 3); drawn once, where somebody wants it."""
        return draw_overlay(
            self.image,
            self.result,
            self.vocabulary,
            alpha=self.settings.overlay_alpha,
            labels=self.settings.overlay_labels,
        )


class Outputs:
    """The publishers under the node's private namespace; they publish while the node is active."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._publishers: dict[str, LifecyclePublisher] = {
            name: node.create_lifecycle_publisher(
                message_type,
                f"~/{name}",
                output_qos(),
                event_callbacks=publisher_events(node, node.resolve_topic_name(f"~/{name}")),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for name, message_type in _TYPES.items()
        }

    def wanted(self) -> frozenset[str]:
        """The outputs that have a subscriber now."""
        return frozenset(name for name, publisher in self._publishers.items() if publisher.get_subscription_count())

    def publish(self, frame: SegmentedFrame, wanted: frozenset[str]) -> None:
        """Makes and publishes the wanted messages, all with the frame's header."""
        make = {
            "label_image": lambda: label_image_message(frame.result, frame.vocabulary, frame.header),
            "segment_image": lambda: image_message(frame.result.segment_ids, "16UC1", frame.header),
            "confidence_image": lambda: image_message(frame.result.confidence, "mono8", frame.header),
            "segments": lambda: segments_message(frame.result, frame.header),
            "overlay_image": lambda: image_message(frame.overlay, "rgb8", frame.header),
            "overlay_image/compressed": lambda: jpeg_message(frame.overlay, frame.header, frame.settings.jpeg_quality),
        }
        for name, publisher in self._publishers.items():
            if name in wanted:
                publisher.publish(make[name]())

    def close(self) -> None:
        """Destroys the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}
