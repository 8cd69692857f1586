"""The content of image messages, live or from a bag: Image and CompressedImage to uint8 RGB, depth images to metres.

Messages are taken by their fields, so that neither ROS nor a particular bag library is needed. The common encodings are
NumPy views on the message's own buffer. Whatever is wrong with a message is an `ImageFieldError` that names topic,
field, value and remedy.
"""

from dataclasses import dataclass
from reprlib import repr as shown
from typing import Any, Protocol

import cv2
import numpy as np

from ovseg_ros.core.errors import ImageError

MAX_PIXELS = 100_000_000
"""Most pixels accepted; a bigger size is a broken message, not a camera."""


class ImageFieldError(ImageError):
    """An image message cannot be used.

    Attributes:
        topic: where it came from.
        field: the field of the message that is wrong.
    """

    def __init__(self, topic: str, field: str, problem: str) -> None:
        super().__init__(f"{topic}: {field} {problem}")
        self.topic = topic
        self.field = field


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image; `data` offers the buffer protocol."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage."""

    format: str
    data: Any


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an encoding lies in memory: values a pixel, their type, and the OpenCV conversion to RGB (None = is RGB)."""

    channels: int
    kind: str = "u1"
    to_rgb: int | None = None


# 8UC3 and 8UC4 say nothing about colour; like RViz and OpenCV, take them as BGR.
_LAYOUTS = {
    "rgb8": _Layout(3),
    "bgr8": _Layout(3, to_rgb=cv2.COLOR_BGR2RGB),
    "8UC3": _Layout(3, to_rgb=cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(4, to_rgb=cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, to_rgb=cv2.COLOR_BGRA2RGB),
    "8UC4": _Layout(4, to_rgb=cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, to_rgb=cv2.COLOR_GRAY2RGB),
    "8UC1": _Layout(1, to_rgb=cv2.COLOR_GRAY2RGB),
    "mono16": _Layout(1, "u2", to_rgb=cv2.COLOR_GRAY2RGB),
    "16UC1": _Layout(1, "u2", to_rgb=cv2.COLOR_GRAY2RGB),
    "yuv422": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_YUY2),
}
COLOR_ENCODINGS = frozenset(_LAYOUTS)
"""Encodings of pictures that `image_from_message` reads."""
_SUBSAMPLED = frozenset({"yuv422", "uyvy", "yuv422_yuy2", "yuyv"})
_DEPTH_LAYOUTS = {"32FC1": _Layout(1, "f4"), "16UC1": _Layout(1, "u2"), "mono16": _Layout(1, "u2")}


def image_from_message(message: ImageMessage, topic: str) -> np.ndarray:
    """The picture as uint8 RGB (H, W, 3), C-contiguous; for tightly packed rgb8 a view on the message's buffer.

    One-channel images become grey; of 16-bit ones the upper byte is taken.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        supported = ", ".join(_LAYOUTS)
        problem = f"; expected one of {supported}"
        if is_measurement(message.encoding):
            problem = (
                ", which holds depth or other measurements; choose (or remap image to) the topic of a colour camera "
                f"({supported})"
            )
        raise ImageFieldError(topic, "encoding", f"is {shown(message.encoding)}{problem}")
    pixels = _pixels(message, layout, topic)  # (H, W) or (H, W, channels)
    if message.encoding in _SUBSAMPLED and message.width % 2:
        raise ImageFieldError(
            topic, "width", f"is {message.width}; {message.encoding} stores pixels in pairs, so it must be even"
        )
    if layout.kind == "u2":
        pixels = (pixels >> 8).astype(np.uint8)
    if layout.to_rgb is None:
        return np.ascontiguousarray(pixels)
    return cv2.cvtColor(pixels, layout.to_rgb)


def image_from_compressed_message(message: CompressedImageMessage, topic: str) -> np.ndarray:
    """The picture as uint8 RGB (H, W, 3) from JPEG, PNG or whatever else OpenCV reads, if it is whole."""
    if "compressedDepth" in message.format:
        raise ImageFieldError(
            topic,
            "format",
            f"is {message.format!r}, a depth image; choose (or remap image/compressed to) a colour camera",
        )
    data = np.frombuffer(message.data, dtype=np.uint8)
    if not data.size:
        raise ImageFieldError(topic, "data", "is empty; check the camera driver")
    if _is_truncated(data.tobytes()):
        raise ImageFieldError(
            topic, "data", f"ends early after {data.size} bytes of {message.format!r}; check the network or the driver"
        )
    try:
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:  # such as more pixels than OpenCV takes
        raise ImageFieldError(topic, "data", f"cannot be decoded: {error}") from error
    if decoded is None:
        raise ImageFieldError(
            topic,
            "data",
            f"({data.size} bytes, format {shown(message.format)}) is no picture that OpenCV reads; publish JPEG or PNG",
        )
    check_size(decoded.shape[1], decoded.shape[0], topic)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def depth_from_message(message: ImageMessage, topic: str) -> np.ndarray:
    """Depth in metres as float32 (H, W), NaN where there is no reading (REP 118: 32FC1 in m, 16UC1 in mm)."""
    layout = _DEPTH_LAYOUTS.get(message.encoding)
    if layout is None:
        raise ImageFieldError(
            topic, "encoding", f"is {shown(message.encoding)}; expected a depth image, {' or '.join(_DEPTH_LAYOUTS)}"
        )
    values = _pixels(message, layout, topic)
    depth = values.astype(np.float32)
    if layout.kind == "u2":
        depth *= np.float32(0.001)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def ids_from_message(message: ImageMessage, topic: str) -> np.ndarray:
    """The ids of a segment image, uint16 (H, W), of a 16UC1."""
    if message.encoding != "16UC1":
        raise ImageFieldError(topic, "encoding", f"is {message.encoding[:40]!r}; expected a segment image, 16UC1")
    return _pixels(message, _LAYOUTS["16UC1"], topic)


def _pixels(message: ImageMessage, layout: _Layout, topic: str) -> np.ndarray:
    """A view (H, W) or (H, W, channels) on the message's buffer in the machine's byte order, rows `step` apart."""
    check_size(message.width, message.height, topic)
    dtype = np.dtype((">" if message.is_bigendian else "<") + layout.kind)
    row_bytes = message.width * layout.channels * dtype.itemsize
    if message.step < row_bytes:
        raise ImageFieldError(
            topic,
            "step",
            f"is {message.step}; a row of {message.width} pixels in {message.encoding} takes {row_bytes} bytes, "
            "so step must be at least that; correct it in the publisher",
        )
    size, expected = len(message.data), message.step * message.height
    if not size:
        raise ImageFieldError(topic, "data", f"is empty; expected {expected} bytes; check the camera driver")
    if size != expected:
        raise ImageFieldError(
            topic,
            "data",
            f"has {size} bytes; expected step x height = {message.step} x {message.height} = {expected}; "
            "the message is truncated or its size is wrong; correct it in the publisher",
        )
    shape: tuple[int, ...] = (message.height, message.width)
    strides: tuple[int, ...] = (message.step, layout.channels * dtype.itemsize)
    if layout.channels > 1:
        shape, strides = (*shape, layout.channels), (*strides, dtype.itemsize)
    view: np.ndarray = np.ndarray(shape, dtype, buffer=message.data, strides=strides)
    return view.astype(dtype.newbyteorder("="), copy=False)


def check_size(width: int, height: int, topic: str) -> None:
    """Refuse an empty or absurdly large picture."""
    for field, value in (("width", width), ("height", height)):
        if value == 0:
            raise ImageFieldError(topic, field, "is 0; expected at least 1 pixel; check the camera driver")
    if width * height > MAX_PIXELS:
        field, value = ("width", width) if width >= height else ("height", height)
        raise ImageFieldError(
            topic,
            field,
            f"is {value}; {width}x{height} is more than {MAX_PIXELS} pixels, too many to be a picture; "
            "check the publisher, or send smaller images",
        )


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end marker; OpenCV would return such a JPEG with a grey lower part."""
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < 0
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") < 0
    return False


def is_measurement(encoding: str) -> bool:
    """Whether an encoding holds depth or other measurements rather than a picture."""
    return encoding in _DEPTH_LAYOUTS or encoding.startswith(("32", "64"))
