"""Small recordings of every format, for the tests of what reads bags."""

from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
HEIGHT, WIDTH = 6, 8
STORE_1 = get_typestore(Stores.ROS1_NOETIC)


def header(index: int, store=STORE):
    stamp = store.types["builtin_interfaces/msg/Time"](sec=100 + index, nanosec=index)
    kind = store.types["std_msgs/msg/Header"]
    fields = {"stamp": stamp, "frame_id": f"camera_{index}"}
    return kind(seq=0, **fields) if "seq" in kind.__dataclass_fields__ else kind(**fields)


def image(index: int, store=STORE, *, height: int = HEIGHT, data_bytes: int | None = None):
    pixels = np.full(height * WIDTH * 3 if data_bytes is None else data_bytes, index % 256, dtype=np.uint8)
    return store.types["sensor_msgs/msg/Image"](
        header=header(index, store),
        height=height,
        width=WIDTH,
        encoding="rgb8",
        is_bigendian=0,
        step=WIDTH * 3,
        data=pixels,
    )


def jpeg(index: int):
    _, data = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), index, np.uint8))
    return STORE.types["sensor_msgs/msg/CompressedImage"](header=header(index), format="jpeg", data=data.reshape(-1))


def write_bag(path: Path, topics: dict, *, plugin=StoragePlugin.MCAP, packed: CompressionMode | None = None) -> Path:
    """`topics`: name -> messages; message i of each is received at second i."""
    writer = Writer(path, version=8, storage_plugin=plugin)
    if packed:
        writer.set_compression(packed, CompressionFormat.ZSTD)
    with writer:
        for topic, messages in topics.items():
            kind = messages[0].__msgtype__
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for index, message in enumerate(messages):
                writer.write(connection, (index + 1) * 10**9, STORE.serialize_cdr(message, kind))
    return path


def write_bag_1(path: Path, messages: list, packed: Writer1.CompressionFormat | None = None) -> Path:
    """A ROS 1 bag with `messages`, made with `STORE_1`, on /image."""
    writer = Writer1(path)
    if packed:
        writer.set_compression(packed)
    with writer:
        kind = messages[0].__msgtype__
        connection = writer.add_connection("/image", kind, typestore=STORE_1)
        for index, message in enumerate(messages):
            writer.write(connection, (index + 1) * 10**9, STORE_1.serialize_ros1(message, kind))
    return path
