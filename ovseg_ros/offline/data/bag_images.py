"""Images of a bag: rosbag2 folders, .mcap and .db3 files and ROS 1 .bag files, read without ROS."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag1 import ReaderError as Bag1Error
from rosbags.rosbag2 import ReaderError as Bag2Error
from rosbags.typesys import Stores, get_typestore

from ovseg_ros.core.errors import DatasetError, ImageError
from ovseg_ros.core.image_messages import image_from_compressed_message, image_from_message

BAG_SUFFIXES = frozenset({".bag", ".db3", ".mcap"})
_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
# What a reader raises on bytes that are no bag depends on where its parser stumbles.
_DAMAGE = (AnyReaderError, Bag1Error, Bag2Error, OSError, ValueError, KeyError, TypeError, AssertionError)


@dataclass(frozen=True, slots=True)
class BagImage:
    """One image message.

    Attributes:
        topic: where it was recorded.
        received: when, in nanoseconds.
        message: sensor_msgs Image or CompressedImage as the bag library gives it; None where it cannot be parsed.
        fault: why not, else "".
    """

    topic: str
    received: int
    message: Any
    fault: str = ""

    def decode(self) -> np.ndarray:
        """uint8 RGB (H, W, 3).

        Raises:
            ImageError: the message cannot be used.
        """
        if self.message is None:
            raise ImageError(f"{self.topic} at {self.received}: the message cannot be parsed: {self.fault}")
        if self.message.__msgtype__ == _COMPRESSED:
            return image_from_compressed_message(self.message, self.topic)
        return image_from_message(self.message, self.topic)


def is_bag(path: Path) -> bool:
    """Whether a path is a bag: a folder with metadata.yaml, or a file with a bag's suffix."""
    return (path / "metadata.yaml").is_file() or (path.is_file() and path.suffix.lower() in BAG_SUFFIXES)


class BagImages:
    """The chosen image topics of an open bag, in the order of recording. Made by `open_bag_images`."""

    def __init__(self, reader: AnyReader, connections: list[Connection]) -> None:
        self._reader = reader
        self._connections = connections
        self.topics = sorted({connection.topic for connection in connections})

    def __len__(self) -> int:
        return sum(connection.msgcount for connection in self._connections)

    def __iter__(self) -> Iterator[BagImage]:
        for connection, received, raw in self._reader.messages(connections=self._connections):
            try:
                message = self._reader.deserialize(raw, connection.msgtype)
            except Exception as error:  # a torn message makes the parser stumble in any of a dozen ways
                yield BagImage(connection.topic, received, None, f"{type(error).__name__}: {error}")
            else:
                yield BagImage(connection.topic, received, message)


@contextmanager
def open_bag_images(path: Path, topics: Sequence[str]) -> Iterator[BagImages]:
    """The images of a bag.

    Args:
        path: as in `is_bag`.
        topics: which to read; empty takes the bag's only colour image topic.

    Raises:
        DatasetError: the bag cannot be read, a topic is not in it or holds no images, or the choice is not clear.
    """
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except _DAMAGE as error:
        raise DatasetError(
            f"{path} cannot be read as a bag: {error}; expected a rosbag2 folder, .mcap, .db3 or .bag; "
            "a recording that was killed is repaired by `ros2 bag reindex`"
        ) from error
    try:
        yield BagImages(reader, _choose(reader, path, topics))
    finally:
        reader.close()


def _choose(reader: AnyReader, path: Path, topics: Sequence[str]) -> list[Connection]:
    images = [connection for connection in reader.connections if connection.msgtype in (_RAW, _COMPRESSED)]
    found = sorted({connection.topic for connection in images})
    if not found:
        others = ", ".join(sorted({connection.topic for connection in reader.connections})[:20]) or "none"
        raise DatasetError(f"{path} holds no image topic (Image or CompressedImage); its topics: {others}")
    for topic in topics:
        if topic not in found:
            raise DatasetError(f"{path} holds no images on {topic!r}; image topics: {', '.join(found)}")
    wanted = topics or _only_colour(found, path)
    return [connection for connection in images if connection.topic in wanted]


def _only_colour(found: list[str], path: Path) -> list[str]:
    """The one camera of a bag: its raw topic where both forms were recorded."""
    colour = [topic for topic in found if "depth" not in topic.lower()]
    twins = {f"{topic}/compressed" for topic in colour}
    cameras = [topic for topic in colour if topic not in twins]
    if len(cameras) != 1:
        raise DatasetError(f"{path} holds several image topics; choose with --topic: {', '.join(found)}")
    return cameras
