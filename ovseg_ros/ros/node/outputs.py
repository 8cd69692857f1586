"""The node's outputs. One that nobody subscribes to costs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from ovseg_ros.core.draw import draw_overlay
from ovseg_ros.core.space.segments import SegmentGeometry, measure_segments
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.msg import PanopticSegmentation, Segments3D
from ovseg_ros.ros.node.conversions import (
    image_message,
    jpeg_message,
    label_image_message,
    label_pixels,
    png_message,
    segments_message,
)
from ovseg_ros.ros.node.depth_inputs import DepthFrame
from ovseg_ros.ros.node.parameters import Settings
from ovseg_ros.ros.node.qos import offending_subscribers, output_qos, publisher_events
from ovseg_ros.ros.node.space_messages import markers_message, points_message, segments_3d_message
from ovseg_ros.ros.node.vision_outputs import FRAME_TYPES, detections_message

# In the order of publishing: what robots use first, then what people look at.
_TYPES: dict[str, type] = {
    "label_image": Image,
    "segment_image": Image,
    "confidence_image": Image,
    "segments": PanopticSegmentation,
    **FRAME_TYPES,
    "points": PointCloud2,
    "segments_3d": Segments3D,
    "label_image/compressed": CompressedImage,
    "segment_image/compressed": CompressedImage,
    "markers": MarkerArray,
    "overlay_image": Image,
    "overlay_image/compressed": CompressedImage,
}
NEEDS_DEPTH = frozenset({"points", "segments_3d", "markers"})
"""Outputs that are made only where depth belongs to the image."""

SHOWS_IDENTITY = frozenset({"segments", "segments_3d", "markers"})
"""Outputs that carry track ids."""


@dataclass(frozen=True)
class SegmentedFrame:
    """All that the outputs of one frame are made of: one image, one result, one vocabulary, one set of parameters."""

    image: np.ndarray
    header: Header
    result: PanopticResult
    vocabulary: Vocabulary
    settings: Settings
    depth: DepthFrame | None = None

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

    @cached_property
    def geometry(self) -> list[SegmentGeometry]:
        """The segments in 3D, measured once, where somebody wants it; needs depth."""
        if self.depth is None:
            return []
        things = {segment.id for segment in self.result.segments if segment.is_thing}
        return measure_segments(self.depth.depth, self.depth.camera, self.result.segment_ids, things)


class Outputs:
    """One camera's publishers under the node's private namespace; they publish while the node is active.

    Args:
        node: owns the publishers.
        prefix: before the outputs' names, such as "front/"; empty for none.
        on_matched: called in the executor's thread when a subscriber comes or goes; never on Humble.
    """

    def __init__(self, node: LifecycleNode, prefix: str, on_matched: Callable[[], None]) -> None:
        self._node = node
        self._publishers: dict[str, LifecyclePublisher] = {
            name: node.create_lifecycle_publisher(
                message_type,
                f"~/{prefix}{name}",
                output_qos(),
                event_callbacks=publisher_events(node, node.resolve_topic_name(f"~/{prefix}{name}"), on_matched),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for name, message_type in _TYPES.items()
        }

    def wanted(self) -> frozenset[str]:
        """The outputs that have a subscriber now."""
        return frozenset(name for name, publisher in self._publishers.items() if publisher.get_subscription_count())

    def publish(self, frame: SegmentedFrame, wanted: frozenset[str]) -> None:
        """Makes and publishes the wanted messages, all with the frame's header."""
        make: dict[str, Callable[[], object]] = {
            "label_image": lambda: label_image_message(frame.result, frame.vocabulary, frame.header),
            "segment_image": lambda: image_message(frame.result.segment_ids, "16UC1", frame.header),
            "confidence_image": lambda: image_message(frame.result.confidence, "mono8", frame.header),
            "segments": lambda: segments_message(frame.result, frame.header),
            "detections": lambda: detections_message(frame.result, frame.header),
            "label_image/compressed": lambda: png_message(*label_pixels(frame.result, frame.vocabulary), frame.header),
            "segment_image/compressed": lambda: png_message(frame.result.segment_ids, "16UC1", frame.header),
            "overlay_image": lambda: image_message(frame.overlay, "rgb8", frame.header),
            "overlay_image/compressed": lambda: jpeg_message(frame.overlay, frame.header, frame.settings.jpeg_quality),
        }
        if (depth := frame.depth) is not None:
            make |= {
                "points": lambda: points_message(frame.image, frame.result, depth, frame.header),
                "segments_3d": lambda: segments_3d_message(frame.result, frame.geometry, frame.header),
                "markers": lambda: markers_message(frame.result, frame.geometry, frame.vocabulary, frame.header),
            }
        for name, publisher in self._publishers.items():
            if name in wanted and name in make:
                publisher.publish(make[name]())

    def incompatible(self) -> list[str]:
        """Every subscriber whose QoS does not fit, with the policy."""
        return [
            f"{publisher.topic_name}: {subscriber}"
            for publisher in self._publishers.values()
            for subscriber in offending_subscribers(self._node, publisher)
        ]

    def close(self) -> None:
        """Destroys the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}
