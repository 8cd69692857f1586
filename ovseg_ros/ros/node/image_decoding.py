"""Image messages in: those that `core/image_messages.py` reads, and rare encodings where cv_bridge is installed."""

import reprlib
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import Image

from ovseg_ros.core import image_messages
from ovseg_ros.core.image_messages import (
    COLOR_ENCODINGS,
    MAX_PIXELS,
    ImageFieldError,
    check_size,
    depth_from_message,
    image_from_compressed_message,
    is_measurement,
)

__all__ = [
    "MAX_PIXELS",
    "ImageFieldError",
    "depth_from_message",
    "image_from_compressed_message",
    "image_from_message",
]


def image_from_message(message: Image, topic: str) -> np.ndarray:
    """The picture as uint8 RGB (H, W, 3), C-contiguous; for tightly packed rgb8 a view on the message's buffer.

    One-channel images become grey; of 16-bit ones the upper byte is taken.

    Raises:
        ImageFieldError: the message contradicts itself, or its encoding is not one of a picture.
    """
    if message.encoding in COLOR_ENCODINGS or is_measurement(message.encoding):
        return image_messages.image_from_message(message, topic)
    check_size(message.width, message.height, topic)
    return _decode_with_cv_bridge(message, topic)


def _decode_with_cv_bridge(message: Image, topic: str) -> np.ndarray:
    """Bayer patterns and the other rare encodings, where cv_bridge is installed."""
    supported = ", ".join(sorted(COLOR_ENCODINGS))
    convert = _import_cv_bridge(message, topic, supported)
    try:
        return np.ascontiguousarray(convert(message, "rgb8"))
    except Exception as error:  # cv_bridge raises KeyError, TypeError, cv2.error and its own error on bad messages
        raise ImageFieldError(
            topic,
            "encoding",
            f"is {reprlib.repr(message.encoding)}, which cv_bridge could not convert ({error}); "
            f"expected one of {supported}",
        ) from error


def _import_cv_bridge(message: Image, topic: str, supported: str) -> Callable[[Image, str], np.ndarray]:
    # Imported only when needed: the wheels have no working cv_bridge, and older ones do not import beside NumPy 2.
    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise ImageFieldError(
            topic,
            "encoding",
            f"is {reprlib.repr(message.encoding)}; expected one of {supported}; "
            "Bayer patterns and other rare encodings "
            f"need cv_bridge, which cannot be imported ({error}): install ros-$ROS_DISTRO-cv-bridge",
        ) from error
    return CvBridge().imgmsg_to_cv2
