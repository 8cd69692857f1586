"""Image messages to arrays: right pixels for good messages, one clear error for bad ones."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from ovseg_ros.core.image_messages import ImageFieldError, depth_from_message, image_from_compressed_message
from ovseg_ros.ros.node.image_decoding import image_from_message

RGB = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
GRAY = np.repeat(RGB[..., :1], 3, axis=2)


def make_image(encoding: str, pixels: np.ndarray, *, padding: int = 0, big_endian: bool = False) -> Image:
    """A message of `pixels`, each row followed by `padding` bytes of 0xEE."""
    rows = [row.tobytes() + b"\xee" * padding for row in np.ascontiguousarray(pixels)]
    message = Image(encoding=encoding, is_bigendian=int(big_endian), step=len(rows[0]))
    message.height, message.width = pixels.shape[:2]
    message.data.frombytes(b"".join(rows))
    return message


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("8UC3", RGB[..., ::-1], RGB),
        ("rgba8", with_alpha(RGB), RGB),
        ("bgra8", with_alpha(RGB[..., ::-1]), RGB),
        ("8UC4", with_alpha(RGB[..., ::-1]), RGB),
        ("mono8", RGB[..., 0], GRAY),
        ("8UC1", RGB[..., 0], GRAY),
    ],
)
def test_eight_bit_encodings(encoding: str, pixels: np.ndarray, expected: np.ndarray, padding: int) -> None:
    decoded = image_from_message(make_image(encoding, pixels, padding=padding), "/image")
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("padding", [0, 3])
def test_sixteen_bit_honours_byte_order(encoding: str, byte_order: str, padding: int) -> None:
    pixels = (RGB[..., 0].astype(np.uint16) << 8 | 0x7F).astype(byte_order + "u2")
    message = make_image(encoding, pixels, padding=padding, big_endian=byte_order == ">")
    np.testing.assert_array_equal(image_from_message(message, "/image"), GRAY)


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")]
)
def test_yuv_422(encoding: str, order: str) -> None:
    # BT.601, studio range: white, black, then a pair of pure red.
    values = [{"Y": (235, 16), "U": 128, "V": 128}, {"Y": (81, 81), "U": 90, "V": 240}]
    row = []
    for pair in values:
        lumas = iter(pair["Y"])
        row += [next(lumas) if letter == "Y" else pair[letter] for letter in order]
    message = make_image(encoding, np.array([row] * 2, np.uint8).reshape(2, 4, 2), padding=2)
    expected = [[255, 255, 255], [0, 0, 0], [255, 0, 0], [255, 0, 0]]
    np.testing.assert_allclose(image_from_message(message, "/image")[0].astype(int), expected, atol=2)


def test_packed_rgb_is_a_view() -> None:
    message = make_image("rgb8", RGB)
    assert np.shares_memory(image_from_message(message, "/image"), np.frombuffer(message.data, np.uint8))


def broken(**changes: object) -> Image:
    message = make_image("rgb8", RGB)
    for field, value in changes.items():
        setattr(message, field, value)
    return message


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        (broken(step=17), "step", ["17", "18", "rgb8"]),
        (broken(step=0), "step", ["0", "18"]),
        (broken(step=4000000000), "data", ["90", "4000000000"]),
        (broken(data=b""), "data", ["empty", "90"]),
        (broken(data=bytes(89)), "data", ["89", "90", "truncated"]),
        (broken(data=bytes(91)), "data", ["91", "90"]),
        (broken(width=0), "width", ["0"]),
        (broken(height=0), "height", ["0"]),
        (broken(width=4294967295, height=4294967295), "width", ["4294967295", "too many"]),
        (broken(encoding="banana"), "encoding", ["banana", "rgb8"]),
        (broken(encoding=""), "encoding", ["''", "rgb8"]),
        (broken(encoding="x" * 100000), "encoding", ["rgb8"]),
        (broken(encoding="32FC1"), "encoding", ["32FC1", "depth", "remap"]),
        (make_image("yuv422", RGB[:, :5, :2]), "width", ["5", "even"]),
    ],
)
def test_bad_images_name_topic_field_and_value(message: Image, field: str, words: list[str]) -> None:
    with pytest.raises(ImageFieldError) as caught:
        image_from_message(message, "/cam/image")
    text = str(caught.value)
    assert (caught.value.topic, caught.value.field) == ("/cam/image", field)
    assert text.startswith(f"/cam/image: {field} ") and len(text) < 600
    assert all(word in text for word in words), text


class StandInBridge:
    """Answers as cv_bridge does; the real one needs a ROS distribution from apt."""

    def imgmsg_to_cv2(self, message: Image, encoding: str) -> np.ndarray:
        assert encoding == "rgb8"
        if message.encoding != "bayer_rggb8":
            raise KeyError(message.encoding)
        return np.full((message.height, message.width, 3), 9, np.uint8)


def test_rare_encodings_go_through_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=StandInBridge))
    image = image_from_message(make_image("bayer_rggb8", RGB[..., 0]), "/image")
    assert image.shape == RGB.shape and (image == 9).all()
    with pytest.raises(ImageFieldError, match="'banana', which cv_bridge could not convert"):
        image_from_message(broken(encoding="banana"), "/image")


def test_without_cv_bridge_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)
    with pytest.raises(ImageFieldError, match=r"bayer_rggb8.*install ros-\$ROS_DISTRO-cv-bridge"):
        image_from_message(make_image("bayer_rggb8", RGB[..., 0]), "/image")


def compressed(data: bytes, format: str = "rgb8; jpeg compressed bgr8") -> CompressedImage:
    message = CompressedImage(format=format)
    message.data.frombytes(data)
    return message


def encode(extension: str, image: np.ndarray = RGB) -> bytes:
    return cv2.imencode(extension, image[..., ::-1])[1].tobytes()


def test_compressed_png_is_exact() -> None:
    np.testing.assert_array_equal(image_from_compressed_message(compressed(encode(".png"), "png"), "/c"), RGB)


def test_compressed_jpeg_is_rgb() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    # Cameras pad the stream after its end marker.
    decoded = image_from_compressed_message(compressed(encode(".jpg", red) + bytes(7)), "/c")
    np.testing.assert_allclose(decoded.astype(int), red, atol=4)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (compressed(b""), "data"),
        (compressed(b"no picture"), "data"),
        (compressed(encode(".jpg")[:-20]), "data"),
        (compressed(encode(".png")[:-20], "png"), "data"),
        (compressed(encode(".png"), "16UC1; compressedDepth png"), "format"),
    ],
)
def test_bad_compressed_images(message: CompressedImage, field: str) -> None:
    with pytest.raises(ImageFieldError) as caught:
        image_from_compressed_message(message, "/cam/image/compressed")
    assert caught.value.field == field
    assert str(caught.value).startswith("/cam/image/compressed: ")


@pytest.mark.parametrize("padding", [0, 4])
def test_depth_in_metres_with_nan_for_invalid(padding: int) -> None:
    metres = np.array([[0.5, np.nan, np.inf], [-np.inf, 0.0, -1.0]], np.float32)
    expected = np.array([[0.5, np.nan, np.nan], [np.nan, np.nan, np.nan]], np.float32)
    decoded = depth_from_message(make_image("32FC1", metres, padding=padding), "/depth")
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_depth_in_millimetres(byte_order: str) -> None:
    millimetres = np.array([[1500, 0, 65535]], byte_order + "u2")
    message = make_image("16UC1", millimetres, big_endian=byte_order == ">")
    np.testing.assert_allclose(depth_from_message(message, "/depth"), [[1.5, np.nan, 65.535]], rtol=1e-6)


def test_depth_refuses_colour() -> None:
    with pytest.raises(ImageFieldError, match=r"rgb8.*expected a depth image"):
        depth_from_message(make_image("rgb8", RGB), "/depth")
