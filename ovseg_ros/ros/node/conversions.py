"""Between the core's types and ROS messages. Decoding pictures is in core/image_messages.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import ColorRGBA, Header

from ovseg_ros.core.messages import Messages
from ovseg_ros.core.vocabulary import CategorySpec
from ovseg_ros.msg import Category, PanopticSegmentation, Segment, Vocabulary
from ovseg_ros.srv import SetVocabulary

MESSAGE_TYPES: Mapping[str, type] = {
    "builtin_interfaces/msg/Time": Time,
    "ovseg_ros/msg/Category": Category,
    "ovseg_ros/msg/PanopticSegmentation": PanopticSegmentation,
    "ovseg_ros/msg/Segment": Segment,
    "ovseg_ros/msg/Vocabulary": Vocabulary,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/RegionOfInterest": RegionOfInterest,
    "std_msgs/msg/ColorRGBA": ColorRGBA,
    "std_msgs/msg/Header": Header,
}


def _fill(message: Any, data: np.ndarray) -> None:
    # Assigning an array, a memoryview or bytes goes through rclpy's setter, which takes up to 100 times as long.
    message.data.frombytes(data)


MESSAGES = Messages(MESSAGE_TYPES, _fill)
"""Makes ROS messages."""


def nanoseconds(stamp: Time) -> int:
    """A stamp as one number."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def vocabulary_request(specs: Sequence[CategorySpec]) -> SetVocabulary.Request:
    """The request that sets a vocabulary."""
    categories = [
        Category(
            name=spec.name,
            synonyms=list(spec.synonyms),
            is_thing=spec.is_thing,
            threshold=float(spec.threshold),
            negative=spec.negative,
        )
        for spec in specs
    ]
    return SetVocabulary.Request(categories=categories)


def specs_from_messages(categories: Sequence[Category]) -> tuple[CategorySpec, ...]:
    """The categories of a request; ids and colours in it are ignored, and nothing is checked yet."""
    return tuple(
        CategorySpec(
            name=category.name,
            synonyms=tuple(category.synonyms),
            is_thing=category.is_thing,
            # float32 holds no exact 0.3; undo the excess digits, so that messages show what was typed.
            threshold=round(category.threshold, 6),
            negative=category.negative,
        )
        for category in categories
    )
