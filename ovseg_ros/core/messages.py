"""Messages out, of ROS's own classes or of a bag library's; image messages in are in image_messages.py."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.vocabulary import Category, Vocabulary

if TYPE_CHECKING:  # brings torch along, which the simulated camera does without
    from ovseg_ros.core.types import PanopticResult, Segment

_DTYPES = {"mono8": np.uint8, "rgb8": np.uint8, "16UC1": np.uint16, "32FC1": np.float32}


class Messages:
    """Makes messages.

    Args:
        types: message classes by their ROS names, such as "sensor_msgs/msg/Image"; they take fields as keywords.
        fill: puts bytes, uint8 (N,), into the field `data` of a message that has none.
    """

    def __init__(self, types: Mapping[str, Any], fill: Callable[[Any, np.ndarray], None]) -> None:
        self._types = types
        self._fill = fill

    def image(self, pixels: np.ndarray, encoding: str, header: Any) -> Any:
        """sensor_msgs/Image without row padding.

        Args:
            pixels: (H, W) uint8 for mono8, uint16 for 16UC1, float32 for 32FC1; (H, W, 3) uint8 for rgb8.
            encoding: one of these four.
            header: stamp and frame of the image that the pixels came from.
        """
        channels = (3,) if encoding == "rgb8" else ()
        if pixels.dtype != _DTYPES[encoding] or pixels.ndim != 2 + len(channels) or pixels.shape[2:] != channels:
            raise ValueError(f"{encoding} cannot hold {pixels.dtype} pixels of shape {pixels.shape}")
        contiguous = np.ascontiguousarray(pixels)
        message = self._types["sensor_msgs/msg/Image"](
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=int(sys.byteorder == "big"),
            step=contiguous.strides[0],
            data=(),
        )
        self._fill(message, contiguous.reshape(-1).view(np.uint8))
        return message

    def compressed(self, pixels: np.ndarray, encoding: str, header: Any, jpeg_quality: int) -> Any:
        """sensor_msgs/CompressedImage in the formats that image_transport names.

        Args:
            pixels: uint8 RGB (H, W, 3) for rgb8, which becomes a JPEG; else (H, W) uint8 for mono8 or uint16 for 16UC1,
                which becomes a lossless PNG.
            encoding: one of these three.
            header: as for `image`.
            jpeg_quality: 1 to 100.
        """
        if encoding == "rgb8":
            suffix, kind, parameters = ".jpg", "jpeg compressed bgr8", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
            encoded, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), parameters)
        else:
            # The first level is several times as fast as the default, and labels are small anyway.
            suffix, kind, parameters = ".png", "png compressed ", [cv2.IMWRITE_PNG_COMPRESSION, 1]
            encoded, data = cv2.imencode(suffix, pixels, parameters)
        if not encoded or pixels.dtype != _DTYPES[encoding]:
            raise ImageError(
                f"OpenCV could not encode {pixels.dtype} pixels of shape {pixels.shape} as a {suffix} of {encoding}"
            )
        message = self._types["sensor_msgs/msg/CompressedImage"](header=header, format=f"{encoding}; {kind}", data=())
        self._fill(message, data.reshape(-1))
        return message

    def segments(self, result: "PanopticResult", header: Any, *, mask_rle: bool) -> Any:
        """ovseg_ros/PanopticSegmentation: the segments of one image; ConfigError if `mask_rle` lacks pycocotools."""
        codes = [""] * len(result.segments)
        if mask_rle:
            from ovseg_ros.core.run_length import mask_codes

            codes = mask_codes(result.segment_ids, result.segments)
        return self._types["ovseg_ros/msg/PanopticSegmentation"](
            header=header,
            vocabulary_version=result.vocabulary_version,
            segments=[self._segment(*pair) for pair in zip(result.segments, codes, strict=True)],
        )

    def vocabulary(self, vocabulary: Vocabulary, stamp: Any) -> Any:
        """ovseg_ros/Vocabulary; `stamp`, builtin_interfaces/Time, is when it was set."""
        return self._types["ovseg_ros/msg/Vocabulary"](
            header=self._types["std_msgs/msg/Header"](stamp=stamp, frame_id=""),
            version=vocabulary.version,
            categories=[self._category(category) for category in vocabulary.categories],
        )

    def region(self, box: Sequence[int]) -> Any:
        """sensor_msgs/RegionOfInterest of a box (x, y, width, height) in pixels."""
        x, y, width, height = box
        return self._types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=x, y_offset=y, height=height, width=width, do_rectify=False
        )

    def _segment(self, segment: "Segment", mask_rle: str) -> Any:
        return self._types["ovseg_ros/msg/Segment"](
            id=segment.id,
            category_id=segment.category_id,
            label=segment.label,
            score=float(segment.score),
            is_thing=segment.is_thing,
            area=segment.area,
            box=self.region(segment.box),
            track_id=segment.track_id,
            mask_rle=mask_rle,
        )

    def _category(self, category: Category) -> Any:
        red, green, blue = (channel / 255 for channel in category.color)
        return self._types["ovseg_ros/msg/Category"](
            id=category.id,
            name=category.name,
            synonyms=list(category.synonyms),
            is_thing=category.is_thing,
            color=self._types["std_msgs/msg/ColorRGBA"](r=red, g=green, b=blue, a=1.0),
            threshold=category.threshold,
            negative=category.negative,
        )
