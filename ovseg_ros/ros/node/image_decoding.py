"""Image messages in: those that `core/image_messages.py` reads, and others where cv_bridge is installed."""

import numpy as np
from sensor_msgs.msg import Image

from ovseg_ros.core import image_messages
from ovseg_ros.core.image_messages import ImageFieldError, UnknownEncodingError


def image_from_message(message: Image, topic: str) -> np.ndarray:
    """As `image_messages.image_from_message`; what that does not know is left to cv_bridge, where there is one.

    Raises:
        ImageFieldError: the message contradicts itself, or its encoding is not one of a picture.
    """
    try:
        return image_messages.image_from_message(message, topic)
    except UnknownEncodingError as unknown:
        try:
            # Only when needed: the wheels have no working cv_bridge, and older ones do not import beside NumPy 2.
            from cv_bridge import CvBridge
        except ImportError:
            raise unknown from None
        try:
            return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
        except Exception as error:  # KeyError, TypeError, cv2.error and its own error, on encodings it does not know
            raise ImageFieldError(topic, "encoding", f"{unknown.problem}; cv_bridge says: {error}") from error
