"""The node's messages as a bag library writes them: the same fields and names as on the node's topics."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ovseg_ros.core.resources import interfaces_dir
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment
from ovseg_ros.core.vocabulary import Category, Vocabulary

_JPEG_QUALITY = 85
_MONO8_NO_CATEGORY = 255


class BagMessages:
    """Makes messages, and serialises them to CDR."""

    def __init__(self) -> None:
        self.typestore: Typestore = get_typestore(Stores.ROS2_HUMBLE)
        definitions: dict[str, Any] = {}
        for file in sorted(interfaces_dir().glob("*.msg")):
            definitions.update(get_types_from_msg(file.read_text(encoding="utf-8"), _type_name(file)))
        self.typestore.register(definitions)

    def serialize(self, message: Any) -> memoryview:
        """CDR bytes."""
        return self.typestore.serialize_cdr(message, message.__msgtype__)

    def header_of(self, message: Any) -> Any:
        """The header of an image message, without the sequence number that ROS 1 headers have."""
        stamp = message.header.stamp
        nanoseconds = stamp.nanosec
        return self._header(stamp.sec, nanoseconds, message.header.frame_id)

    def image(self, pixels: np.ndarray, encoding: str, header: Any) -> Any:
        """sensor_msgs/Image of (H, W) uint8 for mono8, uint16 for 16UC1."""
        contiguous = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"), copy=False))
        return self._make(
            "sensor_msgs/msg/Image",
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=contiguous.strides[0],
            data=contiguous.reshape(-1).view(np.uint8),
        )

    def label_image(self, result: PanopticResult, vocabulary: Vocabulary, header: Any) -> Any:
        """Category ids: mono8 (255 = none) while every id is below 255, else 16UC1 (65535 = none)."""
        if max(category.id for category in vocabulary.categories) < _MONO8_NO_CATEGORY:
            assert NO_CATEGORY & 0xFF == _MONO8_NO_CATEGORY
            return self.image(result.category_ids.astype(np.uint8), "mono8", header)
        return self.image(result.category_ids, "16UC1", header)

    def jpeg(self, image: np.ndarray, header: Any) -> Any:
        """sensor_msgs/CompressedImage of uint8 RGB (H, W, 3)."""
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        return self._make(
            "sensor_msgs/msg/CompressedImage", header=header, format="rgb8; jpeg compressed bgr8", data=data.reshape(-1)
        )

    def segments(self, result: PanopticResult, header: Any) -> Any:
        """ovseg_ros/PanopticSegmentation."""
        return self._make(
            "ovseg_ros/msg/PanopticSegmentation",
            header=header,
            vocabulary_version=result.vocabulary_version,
            segments=[self._segment(segment) for segment in result.segments],
        )

    def vocabulary(self, vocabulary: Vocabulary, nanoseconds: int) -> Any:
        """ovseg_ros/Vocabulary, stamped with a time since the epoch."""
        return self._make(
            "ovseg_ros/msg/Vocabulary",
            header=self._header(*divmod(nanoseconds, 1_000_000_000), ""),
            version=vocabulary.version,
            categories=[self._category(category) for category in vocabulary.categories],
        )

    def _segment(self, segment: Segment) -> Any:
        x, y, width, height = segment.box
        box = self._make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=x, y_offset=y, height=height, width=width, do_rectify=False
        )
        return self._make(
            "ovseg_ros/msg/Segment",
            id=segment.id,
            category_id=segment.category_id,
            label=segment.label,
            score=segment.score,
            is_thing=segment.is_thing,
            area=segment.area,
            box=box,
            track_id=0,
            mask_rle="",
        )

    def _category(self, category: Category) -> Any:
        red, green, blue = (value / 255 for value in category.color)
        return self._make(
            "ovseg_ros/msg/Category",
            id=category.id,
            name=category.name,
            synonyms=list(category.synonyms),
            is_thing=category.is_thing,
            color=self._make("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=1.0),
            threshold=category.threshold,
            negative=category.negative,
        )

    def _header(self, seconds: int, nanoseconds: int, frame_id: str) -> Any:
        stamp = self._make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _make(self, type_name: str, **fields: Any) -> Any:
        return self.typestore.types[type_name](**fields)


def _type_name(file: Path) -> str:
    return f"ovseg_ros/msg/{file.stem}"
