"""Image messages in: those that `core/image_messages.py` reads, and rare encodings where cv_bridge is installed."""

import reprlib

import numpy as np
from sensor_msgs.msg import Image

from ovseg_ros.core import image_messages
from ovseg_ros.core.image_messages import COLOR_ENCODINGS, ImageFieldError, check_size, is_measurement


def image_from_message(message: Image, topic: str) -> np.ndarray:
    """As `image_messages.image_from_message`; Bayer patterns and other rare encodings as well, where cv_bridge is.

    Raises:
        ImageFieldError: the message contradicts itself, or its encoding is not one of a picture.
    """
    if message.encoding in COLOR_ENCODINGS or is_measurement(message.encoding):
        return image_messages.image_from_message(message, topic)
    check_size(message.width, message.height, topic)
    encoding, supported = reprlib.repr(message.encoding), ", ".join(sorted(COLOR_ENCODINGS))
    try:
        # Only when needed: the wheels have no working cv_bridge, and older ones do not import beside NumPy 2.
        from cv_bridge import CvBridge

        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except ImportError as error:
        raise ImageFieldError(
            topic,
            "encoding",
            f"is {encoding}; expected one of {supported}; Bayer patterns and other rare encodings need cv_bridge, "
            f"which cannot be imported ({error}): install ros-$ROS_DISTRO-cv-bridge",
        ) from error
    except Exception as error:  # cv_bridge raises KeyError, TypeError, cv2.error and its own error on bad messages
        raise ImageFieldError(
            topic,
            "encoding",
            f"is {encoding}, which cv_bridge could not convert ({error}); expected one of {supported}",
        ) from error
