"""Puts together the messages that belong to one camera image: those that carry its stamp."""

from dataclasses import dataclass, field
from typing import Any

from sensor_msgs.msg import Image

from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import nanoseconds

IMAGE = "image"
SEGMENTS = "ovseg/segments"
SEGMENT_IMAGE = "ovseg/segment_image"
OVERLAY_IMAGE = "ovseg/overlay_image"
TRUTH_SEGMENTS = "ground_truth/segments"
TRUTH_SEGMENT_IMAGE = "ground_truth/segment_image"
TOPICS: dict[str, type] = {
    IMAGE: Image,
    SEGMENTS: PanopticSegmentation,
    SEGMENT_IMAGE: Image,
    OVERLAY_IMAGE: Image,
    TRUTH_SEGMENTS: PanopticSegmentation,
    TRUTH_SEGMENT_IMAGE: Image,
}
"""What the demonstration listens to: relative names, and their types."""


@dataclass(slots=True)
class StampedFrame:
    """What has come of one camera image so far, by topic, and when each came; times in nanoseconds."""

    stamp: int
    messages: dict[str, Any] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)

    def is_complete(self, version: int) -> bool:
        """Whether every topic's message is there, with segments of this version of the vocabulary."""
        return len(self.messages) == len(TOPICS) and self.messages[SEGMENTS].vocabulary_version == version


class FrameMatcher:
    """Collects messages by their exact stamp.

    Attributes:
        first_received: when the first segments of each vocabulary version came.
    """

    def __init__(self) -> None:
        self._frames: dict[int, StampedFrame] = {}
        self.first_received: dict[int, int] = {}

    def add(self, topic: str, message: Any, received: int) -> None:
        """Files a message of `topic` that came at `received`, in nanoseconds of the node's clock."""
        stamp = nanoseconds(message.header.stamp)
        frame = self._frames.setdefault(stamp, StampedFrame(stamp))
        frame.messages[topic], frame.received[topic] = message, received
        if topic == SEGMENTS:
            self.first_received.setdefault(message.vocabulary_version, received)

    def has(self, topic: str) -> bool:
        """Whether any message of `topic` has come."""
        return any(topic in frame.messages for frame in self._frames.values())

    def complete(self, version: int, since: int) -> list[StampedFrame]:
        """The frames of a vocabulary version of which everything has come, in the order of their stamps.

        Args:
            since: the first stamp that counts.
        """
        frames = [self._frames[stamp] for stamp in sorted(self._frames) if stamp >= since]
        return [frame for frame in frames if frame.is_complete(version)]

    def first(self, count: int, version: int, since: int) -> list[StampedFrame] | None:
        """Those of the first `count` frames that are complete; None as long as something of them may still come.

        Every topic keeps the order of its messages. So once a frame is complete, what lacks of those before was lost.
        """
        path = sorted(stamp for stamp in self._frames if stamp >= since)
        complete = self.complete(version, since)
        if len(path) < count or not complete or complete[-1].stamp < path[count - 1]:
            return None
        return [frame for frame in complete if frame.stamp <= path[count - 1]]

    def forget(self) -> None:
        """Drops all frames, to free their memory; when versions first came stays known."""
        self._frames.clear()
