"""Pixels of a data set's files, with kind, bit depth and size checked."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_ros.core.errors import DatasetError, ImageError
from ovseg_ros.offline.data.coco_panoptic import rgb_to_ids
from ovseg_ros.offline.data.images import DAMAGE, load_image

_GREY_8_MODES = ("L", "P")
_GREY_16_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
_GREY_MODES = ("1", *_GREY_8_MODES, *_GREY_16_MODES)
_MODE_NAMES = {
    "1": "1-bit",
    "L": "8-bit grey",
    "P": "8-bit palette",
    "LA": "8-bit grey with alpha",
    "RGB": "8-bit RGB",
    "RGBA": "8-bit RGB with alpha",
    "I": "32-bit grey",
    "F": "floating-point",
    **dict.fromkeys(_GREY_16_MODES, "16-bit grey"),
}


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """A photograph as uint8 RGB (H, W, 3), upright by its EXIF orientation.

    Args:
        path: of the image.
        size: (height, width) that it must have; None when its annotation decides.

    Raises:
        DatasetError: it is missing, damaged or of another size.
    """
    if not path.is_file():
        raise DatasetError(f"the image {path} is missing")
    try:
        image = load_image(path)
    except ImageError as error:
        raise DatasetError(f"the image {error}") from error
    if size is not None:
        _require_size(f"the image {path}", image, size)
    return image


def read_segment_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """COCO's panoptic PNG as int32 segment ids (H, W), 0 = void.

    Raises:
        DatasetError: it is missing, damaged, not 8-bit RGB or of another size than `size` (height, width).
    """
    pixels = _decode(path, ("RGB", "RGBA"), "8-bit RGB, id = R + 256 G + 65536 B")
    _require_size(f"the annotation {path}", pixels, size)
    return rgb_to_ids(pixels)


def read_labels(path: Path, size: tuple[int, int], *, bits: int | None) -> np.ndarray:
    """A map of labels as int32 (H, W), values as in the file.

    Args:
        path: a PNG or TIFF with one channel.
        size: (height, width) of its image.
        bits: 8 or 16; None for either.

    Raises:
        DatasetError: it is missing, damaged, of another bit depth or of another size.
    """
    modes: Collection[str] = {8: _GREY_8_MODES, 16: _GREY_16_MODES}.get(
        bits or 0, (*_GREY_8_MODES, *_GREY_16_MODES, "1")
    )
    expected = f"{bits or '8- or 16'}-bit with one channel, whose values are the classes' numbers"
    labels = _decode(path, modes, expected).astype(np.int32)
    _require_size(f"the annotation {path}", labels, size)
    return labels


def _decode(path: Path, modes: Collection[str], expected: str) -> np.ndarray:
    if not path.is_file():
        raise DatasetError(f"the annotation {path} is missing")
    try:
        with Image.open(path) as file:
            mode = file.mode
            # Decoding first would spend time on a file of the wrong kind.
            pixels = np.asarray(file) if mode in modes else None
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise DatasetError(f"the annotation {path} cannot be decoded: {error}; it may be truncated") from error
    if pixels is None:
        raise DatasetError(f"the annotation {path} is {_MODE_NAMES.get(mode, mode)}; expected {expected}")
    return pixels


def _require_size(what: str, pixels: np.ndarray, size: tuple[int, int]) -> None:
    height, width = pixels.shape[:2]
    if (height, width) != size:
        raise DatasetError(f"{what} is {width}x{height} (width x height); expected {size[1]}x{size[0]}")
