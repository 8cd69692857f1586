"""Between the core's types and ROS messages. Decoding pictures is in image_decoding.py.

Pixels are appended to a fresh message's own `data`: assigning an array, a memoryview or bytes instead goes through
rclpy's checking setter, which takes up to 100 times as long.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import ColorRGBA, Header

from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.msg import Category as CategoryMessage
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.msg import Segment as SegmentMessage
from ovseg_ros.msg import Vocabulary as VocabularyMessage

if TYPE_CHECKING:  # brings torch along, which the simulated camera does without
    from ovseg_ros.core.types import PanopticResult, Segment

_DTYPES = {"mono8": np.uint8, "rgb8": np.uint8, "16UC1": np.uint16, "32FC1": np.float32}
MONO8_NO_CATEGORY = 255
"""Value of a mono8 label image where there is no category."""


def image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """An Image without row padding.

    Args:
        pixels: (H, W) uint8 for mono8, uint16 for 16UC1, float32 for 32FC1; (H, W, 3) uint8 for rgb8.
        encoding: one of these four.
        header: stamp and frame of the image that the pixels came from.
    """
    channels = pixels.shape[2:] if encoding == "rgb8" else ()
    if pixels.dtype != _DTYPES[encoding] or pixels.shape[2:] != channels or (encoding == "rgb8" and channels != (3,)):
        raise ValueError(f"{encoding} cannot hold {pixels.dtype} pixels of shape {pixels.shape}")
    contiguous = np.ascontiguousarray(pixels)
    message = Image()
    message.header = header
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(sys.byteorder == "big")
    message.step = contiguous.strides[0]
    message.data.frombytes(memoryview(contiguous).cast("B"))
    return message


def jpeg_message(image: np.ndarray, header: Header, quality: int) -> CompressedImage:
    """A JPEG of a uint8 RGB (H, W, 3) image at quality 1 to 100, in the format that image_transport names."""
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ImageError(f"OpenCV could not encode a {image.shape[1]}x{image.shape[0]} image as JPEG")
    message = CompressedImage()
    message.header = header
    message.format = "rgb8; jpeg compressed bgr8"
    message.data.frombytes(memoryview(data).cast("B"))
    return message


def png_message(pixels: np.ndarray, encoding: str, header: Header) -> CompressedImage:
    """A lossless PNG of (H, W) uint8 for mono8 or uint16 for 16UC1, in the format that image_transport names."""
    # The first level is several times as fast as the default, and labels are small anyway.
    encoded, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded or pixels.dtype != _DTYPES[encoding]:
        raise ImageError(
            f"OpenCV could not encode {pixels.dtype} pixels of shape {pixels.shape} as a PNG of {encoding}"
        )
    message = CompressedImage()
    message.header = header
    message.format = f"{encoding}; png compressed "
    message.data.frombytes(memoryview(data).cast("B"))
    return message


def label_pixels(result: "PanopticResult", vocabulary: Vocabulary) -> tuple[np.ndarray, str]:
    """Category ids (H, W) and their encoding: mono8 (255 = none) while all ids are below 255, else 16UC1 (65535)."""
    if max(category.id for category in vocabulary.categories) < MONO8_NO_CATEGORY:
        # The low byte of NO_CATEGORY is MONO8_NO_CATEGORY.
        return result.category_ids.astype(np.uint8), "mono8"
    return result.category_ids, "16UC1"


def label_image_message(result: "PanopticResult", vocabulary: Vocabulary, header: Header) -> Image:
    """Category ids: mono8 (255 = none) while every id of the vocabulary is below 255, else 16UC1 (65535 = none)."""
    return image_message(*label_pixels(result, vocabulary), header)


def segments_message(result: "PanopticResult", header: Header) -> PanopticSegmentation:
    """The list of segments of one image."""
    message = PanopticSegmentation()
    message.header = header
    message.vocabulary_version = result.vocabulary_version
    message.segments = [_segment_message(segment) for segment in result.segments]
    return message


def region_message(box: tuple[int, int, int, int]) -> RegionOfInterest:
    """A box (x, y, width, height) in pixels."""
    x, y, width, height = box
    return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)


def vocabulary_message(vocabulary: Vocabulary, stamp: Time) -> VocabularyMessage:
    """The vocabulary as published; `stamp` is when it was set."""
    message = VocabularyMessage()
    message.header.stamp = stamp
    message.version = vocabulary.version
    message.categories = [
        CategoryMessage(
            id=category.id,
            name=category.name,
            synonyms=list(category.synonyms),
            is_thing=category.is_thing,
            color=_color_message(category.color),
            threshold=category.threshold,
            negative=category.negative,
        )
        for category in vocabulary.categories
    ]
    return message


def specs_from_messages(categories: Sequence[CategoryMessage]) -> tuple[CategorySpec, ...]:
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


def _segment_message(segment: "Segment") -> SegmentMessage:
    return SegmentMessage(
        id=segment.id,
        category_id=segment.category_id,
        label=segment.label,
        score=float(segment.score),
        is_thing=segment.is_thing,
        area=segment.area,
        box=region_message(segment.box),
        track_id=segment.track_id,
    )


def _color_message(color: tuple[int, int, int]) -> ColorRGBA:
    red, green, blue = (channel / 255 for channel in color)
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)
