"""Image messages to arrays: right pixels for good messages, one clear error for bad ones."""

import sys
from io import BytesIO
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import ExifTags, ImageCms
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image

from ovseg_ros.core.image_messages import (
    ImageFieldError,
    depth_from_message,
    image_from_compressed_message,
)
from ovseg_ros.ros.node.image_decoding import image_from_message

RGB = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
SMOOTH = cv2.resize(RGB, (64, 48), interpolation=cv2.INTER_LINEAR)
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


@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("mono16", RGB[..., 0], GRAY),
        ("rgb16", RGB, RGB),
        ("bgr16", RGB[..., ::-1], RGB),
        ("rgba16", with_alpha(RGB), RGB),
        ("bgra16", with_alpha(RGB[..., ::-1]), RGB),
    ],
)
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("padding", [0, 3])
def test_sixteen_bit_honours_byte_order(
    encoding: str, pixels: np.ndarray, expected: np.ndarray, byte_order: str, padding: int
) -> None:
    pixels = (pixels.astype(np.uint16) << 8 | 0x7F).astype(byte_order + "u2")
    message = make_image(encoding, pixels, padding=padding, big_endian=byte_order == ">")
    np.testing.assert_array_equal(image_from_message(message, "/image"), expected)


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


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "i420", "yuv420"])
def test_yuv_420_has_its_colours_in_a_plane_of_their_own(encoding: str, padding: int) -> None:
    # BT.601, studio range: two columns of red, then two of blue; each two by two pixels share a colour.
    luma, u, v = [81, 81, 41, 41], [90, 240], [240, 110]
    half, empty = [0xEE] * (padding // 2), [0xEE] * padding
    chroma = {
        "nv12": [u[0], v[0], u[1], v[1], *empty] * 2,
        "nv21": [v[0], u[0], v[1], u[1], *empty] * 2,
    }.get(encoding, [*u, *half] * 2 + [*v, *half] * 2)
    message = Image(encoding=encoding, height=4, width=4, step=4 + padding, data=[*luma, *empty] * 4 + chroma)
    expected = [[[255, 0, 0]] * 2 + [[0, 0, 255]] * 2] * 4
    decoded = image_from_message(message, "/image")
    assert decoded.flags.c_contiguous
    np.testing.assert_allclose(decoded.astype(int), expected, atol=3)


PATTERNS = ["rggb", "bggr", "gbrg", "grbg"]
COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255)}


def mosaic(pattern: str, colour: str, kind: type = np.uint8) -> np.ndarray:
    """What a sensor of that pattern, row by row from the upper left, sees of a wall of one pure colour: (6, 8)."""
    lit = [[pattern[2 * (row % 2) + column % 2] == colour for column in range(8)] for row in range(6)]
    return np.array(lit, kind) * np.iinfo(kind).max


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_patterns_become_colour(pattern: str, colour: str) -> None:
    expected = np.full((6, 8, 3), COLOURS[colour], np.uint8)
    for bits, kind in ((8, np.uint8), (16, np.uint16)):
        encoding, pixels = f"bayer_{pattern}{bits}", mosaic(pattern, colour, kind)
        raw = image_from_message(make_image(encoding, pixels, padding=3), "/image")
        png = cv2.imencode(".png", pixels)[1].tobytes()
        np.testing.assert_array_equal(raw, expected)
        for format in (f"{encoding}; png compressed ", f"{encoding.upper()}; png compressed ", f"png; {encoding}"):
            packed = image_from_compressed_message(compressed(png, format), "/image/compressed")
            np.testing.assert_array_equal(packed, expected)
    turned = make_image(f"bayer_{pattern}16", mosaic(pattern, colour, np.uint16).astype(">u2"), big_endian=True)
    np.testing.assert_array_equal(image_from_message(turned, "/image"), expected)


def test_what_was_demosaiced_before_compression_stays_as_it_is() -> None:
    grey = mosaic("rggb", "r")
    message = compressed(cv2.imencode(".png", grey)[1].tobytes(), "bayer_rggb8; jpeg compressed mono8")
    np.testing.assert_array_equal(image_from_compressed_message(message, "/c")[..., 1], grey)
    message = compressed(encode(".png"), "bayer_rggb8; jpeg compressed bgr8")
    np.testing.assert_array_equal(image_from_compressed_message(message, "/c"), RGB)


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
        (broken(encoding="nv24"), "encoding", ["nv24", "set the camera driver to one of", "bayer_rggb8", "convert"]),
        (broken(encoding="32FC1"), "encoding", ["32FC1", "depth", "remap"]),
        (broken(encoding="16UC1"), "encoding", ["16UC1", "depth", "remap image to", "mono16"]),
        (broken(encoding="16SC1"), "encoding", ["16SC1", "depth", "remap image to"]),
        (make_image("bayer_rggb8", RGB[:2, :, 0]), "height", ["2", "Bayer pattern needs 3"]),
        (make_image("nv12", RGB[..., 0]), "height", ["5", "multiple of 2"]),
        (make_image("nv12", RGB[:4, :, 0]), "data", ["24", "1.5 height = 6 x 6 = 36"]),
        (make_image("nv12", np.zeros((12, 6), np.uint8)), "data", ["72", "8 rows: height is that of the picture"]),
        (make_image("yuv422", RGB[:, :5, :2]), "width", ["5", "multiple of 2"]),
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
        if message.encoding != "nv24":
            raise KeyError(message.encoding)
        return np.full((message.height, message.width, 3), 9, np.uint8)


def test_what_only_cv_bridge_knows_goes_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=StandInBridge))
    image = image_from_message(make_image("nv24", RGB[..., 0]), "/image")
    assert image.shape == RGB.shape and (image == 9).all()
    with pytest.raises(ImageFieldError, match="is 'banana', which cannot be decoded.*cv_bridge says: 'banana'"):
        image_from_message(broken(encoding="banana"), "/image")


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stay_in_the_sensors_coordinates(orientation: int) -> None:
    exif = PillowImage.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    for kind in ("png", "jpeg"):
        file = BytesIO()
        PillowImage.fromarray(SMOOTH).save(file, kind, exif=exif, quality=95, subsampling=0)
        decoded = image_from_compressed_message(compressed(file.getvalue(), kind), "/c")
        np.testing.assert_allclose(decoded.astype(int), SMOOTH, atol=0 if kind == "png" else 9)


def test_neither_transparency_nor_a_colour_profile_changes_the_pixels() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind, options in (("png", {}), ("webp", {"lossless": True, "exact": True})):
        file = BytesIO()
        PillowImage.fromarray(with_alpha(SMOOTH)).save(file, kind, icc_profile=profile, **options)
        np.testing.assert_array_equal(image_from_compressed_message(compressed(file.getvalue(), kind), "/c"), SMOOTH)


@pytest.mark.parametrize(
    ("format", "extension", "order"),
    [
        ("rgb8; png compressed bgr8", ".png", "bgr"),
        ("bgr8; png compressed bgr8", ".png", "bgr"),
        ("rgba8; png compressed bgr8", ".png", "bgr"),
        ("bgr8; png compressed rgb8", ".png", "rgb"),
        ("rgb8; png compressed rgb8", ".png", "rgb"),
        ("rgb8; tiff compressed ", ".tiff", "rgb"),
        ("bgr8; tiff compressed ", ".tiff", "bgr"),
        ("rgb8; png compressed ", ".png", "bgr"),
        ("webp", ".webp", "bgr"),
        ("", ".png", "bgr"),
    ],
)
def test_the_format_tells_the_order_of_colours_in_memory(format: str, extension: str, order: str) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    in_memory = red if order == "rgb" else red[..., ::-1]
    data = cv2.imencode(extension, np.ascontiguousarray(in_memory))[1].tobytes()
    decoded = image_from_compressed_message(compressed(data, format), "/c")
    np.testing.assert_allclose(decoded.astype(int), red, atol=4)


def test_sixteen_bit_pictures_keep_their_upper_bytes() -> None:
    pixels = RGB.astype(np.uint16) << 8 | 0x7F
    for format, stored, expected in (
        ("rgb16; png compressed bgr16", pixels[..., ::-1], RGB),
        ("mono16; png compressed ", pixels[..., 0], GRAY),
    ):
        data = cv2.imencode(".png", np.ascontiguousarray(stored))[1].tobytes()
        np.testing.assert_array_equal(image_from_compressed_message(compressed(data, format), "/c"), expected)


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_jpeg_without_end_marker_is_used_if_all_its_pixels_are_there(progressive: int) -> None:
    jpeg = cv2.imencode(".jpg", SMOOTH[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    expected = image_from_compressed_message(compressed(jpeg), "/c")
    for unended in (jpeg[:-2], jpeg[:-1], jpeg[:-2] + bytes(5000)):
        np.testing.assert_array_equal(image_from_compressed_message(compressed(unended), "/c"), expected)
    for cut in (jpeg[:-6], jpeg[: len(jpeg) // 2], jpeg[: len(jpeg) // 2] + bytes(5000), jpeg[:300], jpeg[:3]):
        with pytest.raises(ImageFieldError, match=f"data ends early after {len(cut)} bytes"):
            image_from_compressed_message(compressed(cut), "/c")


def test_the_end_of_a_preview_is_not_the_end_of_the_picture() -> None:
    preview, jpeg = encode(".jpg"), encode(".jpg", SMOOTH)
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    whole = jpeg[:2] + segment + jpeg[2:]
    assert image_from_compressed_message(compressed(whole), "/c").shape == SMOOTH.shape
    with pytest.raises(ImageFieldError, match="data ends early"):
        image_from_compressed_message(compressed(whole[: -len(jpeg) // 3]), "/c")


def damaged(png: bytes) -> tuple[bytes, bytes, bytes]:
    """With one wrong byte in its pixels."""
    place = png.index(b"IDAT") + 8
    return png[:place], bytes([png[place] ^ 255]), png[place + 1 :]


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        (compressed(b""), "data", ["empty"]),
        (compressed(b"no picture"), "data", ["10 bytes", "publish JPEG or PNG"]),
        (compressed(encode(".jpg")[:-20]), "data", ["ends early"]),
        (compressed(encode(".png")[:-20], "png"), "data", ["ends early"]),
        (compressed(bytes(99), "h264"), "data", ["99 bytes", "'h264'", "packet of a video", "republish"]),
        (compressed(encode(".png"), "16UC1; compressedDepth png"), "format", ["compressedDepth", "remap image to"]),
        (compressed(encode(".png"), "16UC1; png compressed "), "format", ["16UC1", "remap image to", "mono16"]),
        (compressed(encode(".png"), "32FC1; tiff compressed "), "format", ["32FC1", "remap image to"]),
        (compressed(encode(".png"), "bayer_rggb12; png compressed "), "format", ["bayer_rggb12", "bayer_rggb8"]),
        (compressed(encode(".png"), "png; BAYER_GRBG10"), "format", ["BAYER_GRBG10", "8 or 16 bits", "image_proc"]),
        (compressed(b"".join(damaged(encode(".png"))), "png"), "data", ["'png'", "damaged", "check the network"]),
        (
            compressed(encode(".jpg")[:2] + bytes(30) + b"\xff\xd9", "jpeg"),
            "data",
            ["'jpeg'", "damaged", "check the network"],
        ),
    ],
)
def test_bad_compressed_images(message: CompressedImage, field: str, words: list[str]) -> None:
    with pytest.raises(ImageFieldError) as caught:
        image_from_compressed_message(message, "/cam/image/compressed")
    assert caught.value.field == field
    text = str(caught.value)
    assert text.startswith("/cam/image/compressed: ") and "\n" not in text
    assert all(word in text for word in words), text


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
