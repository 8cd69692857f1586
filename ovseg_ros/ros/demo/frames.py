"""Puts together the messages that belong to one camera image: those that carry its stamp."""

from dataclasses import dataclass, field

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

from ovseg_ros.msg import PanopticSegmentation

Message = Image | PanopticSegmentation

IMAGE = "image"
SEGMENTS = "ovseg/segments"
SEGMENT_IMAGE = "ovseg/segment_image"
OVERLAY_IMAGE = "ovseg/overlay_image"
TRUTH_SEGMENTS = "ground_truth/segments"
TRUTH_SEGMENT_IMAGE = "ground_truth/segment_image"
TOPICS: dict[str, type[Message]] = {
    IMAGE: Image,
    SEGMENTS: PanopticSegmentation,
    SEGMENT_IMAGE: Image,
    OVERLAY_IMAGE: Image,
    TRUTH_SEGMENTS: PanopticSegmentation,
    TRUTH_SEGMENT_IMAGE: Image,
}
"""What the demonstration listens to: relative names, and their types."""


def nanoseconds(stamp: Time) -> int:
    """A stamp as one number."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def segment_ids_from_message(message: Image) -> np.ndarray:
    """The ids of a 16UC1 segment image: uint16 (H, W)."""
    if message.encoding != "16UC1":
        raise ValueError(f"a segment image must be 16UC1, got {message.encoding!r}")
    dtype = ">u2" if message.is_bigendian else "<u2"
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
    return rows[:, : 2 * message.width].copy().view(dtype).astype(np.uint16)


@dataclass(slots=True)
class StampedFrame:
    """What has come of one camera image so far: by topic, and when it came, in nanoseconds of the node's clock."""

    messages: dict[str, Message] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every topic's message is there."""
        return len(self.messages) == len(TOPICS)

    @property
    def version(self) -> int | None:
        """Vocabulary version of the segments; None while there are none."""
        segments = self.messages.get(SEGMENTS)
        return segments.vocabulary_version if isinstance(segments, PanopticSegmentation) else None


class FrameMatcher:
    """Collects messages by their exact stamp."""

    def __init__(self) -> None:
        self._frames: dict[int, StampedFrame] = {}
        self._first_received: dict[int, int] = {}

    def add(self, topic: str, message: Message, received: int) -> None:
        """Files a message of `topic` that came at `received`, in nanoseconds."""
        frame = self._frames.setdefault(nanoseconds(message.header.stamp), StampedFrame())
        frame.messages[topic] = message
        frame.received[topic] = received
        if topic == SEGMENTS and frame.version is not None:
            self._first_received.setdefault(frame.version, received)

    def has(self, topic: str) -> bool:
        """Whether any message of `topic` has come."""
        return any(topic in frame.messages for frame in self._frames.values())

    def first_received(self, version: int) -> int | None:
        """When the first segments of a vocabulary version came, in nanoseconds; None if not yet."""
        return self._first_received.get(version)

    def complete(self, version: int) -> list[tuple[int, StampedFrame]]:
        """The frames of a vocabulary version of which everything has come, with their stamps, in their order."""
        return [(stamp, frame) for stamp, frame in self._sorted() if frame.version == version and frame.is_complete]

    def dropped(self, first: int, last: int) -> int:
        """Camera images with stamps from `first` to `last` for which no segments came."""
        return sum(
            IMAGE in frame.messages and SEGMENTS not in frame.messages
            for stamp, frame in self._sorted()
            if first <= stamp <= last
        )

    def forget(self) -> None:
        """Drops all frames, to free their memory; when versions first came stays known."""
        self._frames.clear()

    def _sorted(self) -> list[tuple[int, StampedFrame]]:
        return sorted(self._frames.items())
