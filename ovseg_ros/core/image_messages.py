"""The content of image messages, live or from a bag: Image and CompressedImage to uint8 RGB, depth images to metres.

Messages are taken by their fields, so that neither ROS nor a particular bag library is needed. The common encodings are
NumPy views on the message's own buffer. Pictures stay in the sensor's coordinates, to which depth and calibration
belong: what a file may say about how to hold or show it does not count. Whatever is wrong with a message is an
`ImageFieldError` that names topic, field, value and remedy.
"""

import re
import zlib
from dataclasses import dataclass
from io import BytesIO
from reprlib import Repr
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image as PillowImage

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
        self.problem = problem


class UnknownEncodingError(ImageFieldError):
    """The encoding is none that this module knows, and the message's size is one of a picture."""


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
    """How an encoding lies in memory.

    Attributes:
        channels: values a pixel.
        kind: their type.
        to_rgb: the OpenCV conversion to RGB; None where it is RGB.
        shared: neighbours in a row and in a column with one colour; in a column only where the colours are a plane of
            their own, after that of the brightness.
    """

    channels: int
    kind: str = "u1"
    to_rgb: int | None = None
    shared: tuple[int, int] = (1, 1)


# ROS names a Bayer pattern by its first two rows, OpenCV by the second and third pixel of the second row.
_PATTERNS = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_BAYER = {f"bayer_{pattern}{bits}": to_rgb for pattern, to_rgb in _PATTERNS.items() for bits in (8, 16)}
_SMALLEST_BAYER = 3  # pixels a side; of less OpenCV makes black
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
    "mono16": _Layout(1, "u2", cv2.COLOR_GRAY2RGB),
    "rgb16": _Layout(3, "u2"),
    "bgr16": _Layout(3, "u2", cv2.COLOR_BGR2RGB),
    "rgba16": _Layout(4, "u2", cv2.COLOR_RGBA2RGB),
    "bgra16": _Layout(4, "u2", cv2.COLOR_BGRA2RGB),
    "yuv422": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_UYVY, shared=(2, 1)),
    "uyvy": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_UYVY, shared=(2, 1)),
    "yuv422_yuy2": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_YUY2, shared=(2, 1)),
    "yuyv": _Layout(2, to_rgb=cv2.COLOR_YUV2RGB_YUY2, shared=(2, 1)),
    "nv12": _Layout(1, to_rgb=cv2.COLOR_YUV2RGB_NV12, shared=(2, 2)),
    "nv21": _Layout(1, to_rgb=cv2.COLOR_YUV2RGB_NV21, shared=(2, 2)),
    "i420": _Layout(1, to_rgb=cv2.COLOR_YUV2RGB_I420, shared=(2, 2)),
    "yuv420": _Layout(1, to_rgb=cv2.COLOR_YUV2RGB_I420, shared=(2, 2)),
}
_EXPECTED = f"{', '.join(_LAYOUTS)} or a Bayer pattern (bayer_rggb8, bayer_rggb16 and so on)"
_LAYOUTS |= {name: _Layout(1, "u2" if name.endswith("16") else "u1", to_rgb) for name, to_rgb in _BAYER.items()}
_DEPTH_LAYOUTS = {"32FC1": _Layout(1, "f4"), "16UC1": _Layout(1, "u2"), "mono16": _Layout(1, "u2")}
_MEASUREMENTS = re.compile("(8S|16[SU]|32[SF]|64F)C[0-9]*")
"""Encodings that hold depth or other measurements rather than a picture."""
_COLOUR_CAMERA = (
    "choose the topic of a colour camera (for the node, remap image to it; of a bag, give it by --topic); that of a "
    "depth camera is for the input depth, and grey of 16 bits has to be published as mono16"
)
_SHORT = Repr()
_SHORT.maxstring = 80  # whole formats, but no longer rubbish
_JPEG_START, _JPEG_END, _PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
_DAMAGED = "is damaged; check the network or the driver"
_COMPRESSED_BAYER = re.compile(r"\bbayer_\w+")
_VIDEO = re.compile("h.?26[45]|hevc|av1|vp[89]|theora|mpeg4|ffmpeg", re.IGNORECASE)


def image_from_message(message: ImageMessage, topic: str) -> np.ndarray:
    """The picture as uint8 RGB (H, W, 3), C-contiguous; for tightly packed rgb8 a view on the message's buffer.

    One-channel images become grey, Bayer patterns colour; of 16-bit ones the upper byte is taken.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        encoding = _SHORT.repr(message.encoding)
        if _MEASUREMENTS.fullmatch(message.encoding):
            problem = f"is {encoding}, which holds depth or other measurements; {_COLOUR_CAMERA}"
            raise ImageFieldError(topic, "encoding", problem)
        check_size(message.width, message.height, topic)
        raise UnknownEncodingError(
            topic,
            "encoding",
            f"is {encoding}, which cannot be decoded; set the camera driver to one of {_EXPECTED}, or convert to rgb8 "
            "on the way",
        )
    pixels = _pixels(message, layout, topic)
    if message.encoding in _BAYER:
        _check_bayer_size(message.width, message.height, topic)
    pixels = _upper_bytes(pixels)
    if layout.to_rgb is None:
        return np.ascontiguousarray(pixels)
    return np.ascontiguousarray(cv2.cvtColor(pixels, layout.to_rgb)[:, : message.width])


def image_from_compressed_message(message: CompressedImageMessage, topic: str) -> np.ndarray:
    """The picture as uint8 RGB (H, W, 3) from JPEG, PNG or whatever else OpenCV reads, if it is whole.

    The format field is read as image_transport writes it: "bayer_rggb8; png compressed " is a Bayer pattern in a grey
    picture, wherever and in whatever case it is named, and "compressed rgb8" says that what OpenCV decodes is not BGR,
    as it is by default, but RGB.
    """
    encoding, _, compression = (part.strip() for part in message.format.partition(";"))
    if "compressedDepth" in message.format or _MEASUREMENTS.fullmatch(encoding):
        raise ImageFieldError(
            topic,
            "format",
            f"is {_SHORT.repr(message.format)}, which holds depth or other measurements; {_COLOUR_CAMERA}",
        )
    content = np.frombuffer(message.data, dtype=np.uint8).tobytes()
    if not content:
        raise ImageFieldError(topic, "data", "is empty; check the camera driver")
    kind = f"({len(content)} bytes, format {_SHORT.repr(message.format)})"
    if content.startswith(_PNG_START) and _png_is_damaged(content):
        raise ImageFieldError(topic, "data", f"{kind} {_DAMAGED}")
    whole = _whole(content)
    if whole is None:
        raise ImageFieldError(
            topic,
            "data",
            f"ends early after {len(content)} bytes of {_SHORT.repr(message.format)}; check the network or the driver",
        )
    # What was compressed as mono8 has been demosaiced to grey before.
    named = None if "compressed mono" in compression else _COMPRESSED_BAYER.search(message.format.lower())
    pattern = named.group() if named else ""
    if pattern and pattern not in _BAYER:
        raise ImageFieldError(
            topic,
            "format",
            f"is {_SHORT.repr(message.format)}, whose Bayer pattern cannot be demosaiced; expected one of "
            f"{', '.join(_BAYER)}; set the driver to 8 or 16 bits, or demosaic (image_proc) before it is compressed",
        )
    flags = cv2.IMREAD_UNCHANGED if pattern else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = cv2.imdecode(np.frombuffer(whole, dtype=np.uint8), flags)
    except cv2.error as error:  # such as more pixels than OpenCV takes
        raise ImageFieldError(topic, "data", f"cannot be decoded: {error}") from error
    if decoded is None:
        if content.startswith((_JPEG_START, _PNG_START)):
            raise ImageFieldError(topic, "data", f"{kind} {_DAMAGED}")
        if _VIDEO.search(message.format):
            problem = (
                "is a packet of a video, which is no picture by itself; have the driver publish JPEG, or turn the "
                "video into sensor_msgs/Image with image_transport's republish"
            )
        else:
            problem = "is no picture that OpenCV reads; publish JPEG or PNG"
        raise ImageFieldError(topic, "data", f"{kind} {problem}")
    height, width = decoded.shape[:2]
    check_size(width, height, topic)
    decoded = _upper_bytes(decoded)
    if pattern and decoded.ndim == 2:
        _check_bayer_size(width, height, topic)
        return cv2.cvtColor(decoded, _BAYER[pattern])
    if "compressed rgb" in compression or (compression.startswith("tiff") and encoding.startswith("rgb")):
        return decoded
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def depth_from_message(message: ImageMessage, topic: str) -> np.ndarray:
    """Depth in metres as float32 (H, W), NaN where there is no reading (REP 118: 32FC1 in m, 16UC1 in mm)."""
    layout = _DEPTH_LAYOUTS.get(message.encoding)
    if layout is None:
        raise ImageFieldError(
            topic,
            "encoding",
            f"is {_SHORT.repr(message.encoding)}; expected a depth image, {' or '.join(_DEPTH_LAYOUTS)}",
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
    return _pixels(message, _DEPTH_LAYOUTS["16UC1"], topic)


def _pixels(message: ImageMessage, layout: _Layout, topic: str) -> np.ndarray:
    """A view on the message's buffer in the machine's byte order, rows `step` apart.

    Returns:
        (H, W) or (H, W, channels); where the colours are a plane of their own (H * 3 / 2, step), both planes.
    """
    check_size(message.width, message.height, topic)
    has_planes = layout.shared[1] > 1
    sides = {"width": (message.width, layout.shared[0]), "height": (message.height, layout.shared[1])}
    if has_planes:
        sides["step"] = (message.step, layout.shared[0])
    for field, (value, shared) in sides.items():
        if value % shared:
            raise ImageFieldError(
                topic,
                field,
                f"is {value}; in {message.encoding} neighbours share a colour, so it must be a multiple of {shared}",
            )
    dtype = np.dtype((">" if message.is_bigendian else "<") + layout.kind)
    row_bytes = message.width * layout.channels * dtype.itemsize
    if message.step < row_bytes:
        raise ImageFieldError(
            topic,
            "step",
            f"is {message.step}; a row of {message.width} pixels in {message.encoding} takes {row_bytes} bytes, "
            "so step must be at least that; correct it in the publisher",
        )
    rows = message.height * 3 // 2 if has_planes else message.height
    size, expected = len(message.data), message.step * rows
    if not size:
        raise ImageFieldError(topic, "data", f"is empty; expected {expected} bytes; check the camera driver")
    if size != expected:
        raise ImageFieldError(
            topic,
            "data",
            f"has {size} bytes; expected step x {'1.5 height' if has_planes else 'height'} = {message.step} x {rows} = "
            f"{expected}; "
            + (
                f"it fits a picture of {message.height * 2 // 3} rows: height is that of the picture, without the "
                "colours' plane; correct it in the publisher"
                if has_planes and size == message.step * message.height
                else "the message is truncated or its size is wrong; correct it in the publisher"
            ),
        )
    shape: tuple[int, ...] = (rows, message.step if has_planes else message.width)
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


def _upper_bytes(pixels: np.ndarray) -> np.ndarray:
    """uint8, of 16 bits the upper ones."""
    return pixels if pixels.dtype == np.uint8 else (pixels >> np.uint16(8)).astype(np.uint8)


def _check_bayer_size(width: int, height: int, topic: str) -> None:
    for field, value in (("width", width), ("height", height)):
        if value < _SMALLEST_BAYER:
            raise ImageFieldError(
                topic, field, f"is {value}; a Bayer pattern needs {_SMALLEST_BAYER} pixels a side; check the driver"
            )


def _whole(data: bytes) -> bytes | None:
    """`data` with its end marker, which a camera may leave out; None where pixels are missing.

    OpenCV would fill the lower part of such a JPEG with grey, without a word.
    """
    if data.startswith(_PNG_START):
        return data if b"IEND" in data else None
    if not data.startswith(_JPEG_START) or data.rfind(_JPEG_END, _scan_of(data)) >= 0:
        return data
    # Of a buffer's empty rest no more than a picture may end in, and no half of a marker.
    data = data[: len(data.rstrip(b"\0")) + 2].removesuffix(b"\xff")
    # Where bits are missing the decoder takes them from what follows, and so the picture depends on that.
    one, other = (_pillow_pixels(data + filling * 64 + _JPEG_END) for filling in (b"\x55", b"\xaa"))
    return data + _JPEG_END if one is not None and other is not None and np.array_equal(one, other) else None


def _png_is_damaged(data: bytes) -> bool:
    """Whether a chunk that counts contradicts its checksum; what ends early is another matter.

    libpng would tell that to the terminal only, with every picture.
    """
    position = len(_PNG_START)
    while (end := position + 12 + int.from_bytes(data[position : position + 4], "big")) <= len(data):
        kind = data[position + 4 : position + 8]
        # Of a chunk in small letters, such as a comment, the picture does not depend.
        if kind[:1].isupper() and zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            return True
        position = end
    return False


def _scan_of(data: bytes) -> int:
    """Where a JPEG's first scan begins: the segments before it may hold another JPEG, as a preview."""
    position = len(_JPEG_START)
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return position


def _pillow_pixels(data: bytes) -> np.ndarray | None:
    """As Pillow decodes it, which unlike OpenCV does not write about bytes too many or too few; None if it refuses."""
    try:
        with PillowImage.open(BytesIO(data)) as image:
            return np.asarray(image)
    except Exception:  # whichever of its parsers stumbles, over whatever is missing
        return None
