"""Images in: any image file, a folder of them, or a video, as uint8 RGB arrays (H, W, 3).

What a file means is decided here once:

- EXIF orientation is applied, so that up is up. Of an animation or a multi-page file, the first frame counts.
- Transparency is laid over white, as a page shows it.
- 16-bit grey is scaled by its full range (65535 becomes 255); 16-bit colour keeps its upper byte.
- Floating-point images have no known range and are refused.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ovseg_ros.core.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Files of a folder that are taken for images; a file named by itself may have any suffix."""

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

DAMAGE = (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, struct.error, zlib.error)
"""What Pillow's decoders raise for a damaged file, whichever of their parsers meets the damage first."""

_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source.

    Attributes:
        name: unique within its source and usable as a relative path without suffix ("kitchen/cup", "clip_000012").
        load: decodes it to uint8 RGB (H, W, 3), or raises ImageError with the reason.
    """

    name: str
    load: Callable[[], np.ndarray]


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image, a folder or a video.

    Attributes:
        length: how many images it yields; None where a video does not say. For a video this is an estimate.
        images: yields the images once, in the order of their names; those of a video must be used in turn.
    """

    length: int | None
    images: Iterator[SourceImage]


def load_image(path: Path) -> np.ndarray:
    """Decode an image file.

    Returns:
        uint8 RGB (H, W, 3), writable.

    Raises:
        ImageError: the file is missing, unreadable, corrupt, truncated, too large or without 8-bit meaning.
    """
    if not path.is_file():
        raise ImageError(f"{path} is not a file; give an image, a folder of images or a video")
    try:
        with Image.open(path) as file:
            return _to_rgb(ImageOps.exif_transpose(file), path)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} ({path.stat().st_size} bytes) is not an image in a known format; "
            "expected PNG, JPEG, TIFF, WebP, BMP, GIF or PNM"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to decode: {error}; scale it down first") from error
    except DAMAGE as error:
        raise ImageError(f"{path} cannot be decoded: {error}; the file may be truncated or damaged") from error


def open_source(path: Path, *, exclude: Path | None = None) -> ImageSource:
    """What `path` holds: one image, all images below a folder, or the frames of a video.

    Args:
        path: a file or a folder; a file is a video when its suffix is in `VIDEO_SUFFIXES`.
        exclude: a folder below `path` to leave out, such as the one that outputs go to.

    Raises:
        ImageError: nothing is there, the folder has no image, or the video cannot be opened.
    """
    if path.is_dir():
        return _open_folder(path, exclude)
    if not path.exists():
        raise ImageError(f"{path} does not exist; give an image, a folder of images or a video")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return _open_video(path)
    return ImageSource(1, iter([SourceImage(path.stem, partial(load_image, path))]))


def _to_rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode == "F":
        raise ImageError(
            f"{path} holds floating-point pixels, whose range is unknown; convert it to 8 or 16 bits first"
        )
    if image.mode in _SIXTEEN_BIT_MODES:
        grey = np.asarray(image).astype(np.int64)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise ImageError(f"{path} holds integers from {low} to {high}; expected 8 or 16 bits (0 to 65535)")
        grey8 = ((grey * 255 + 32767) // 65535).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # the grey value that stands for nothing (PNG)
            grey8[grey == transparent] = 255
        return np.repeat(grey8[..., None], 3, axis=2)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _open_folder(folder: Path, exclude: Path | None) -> ImageSource:
    excluded = exclude.resolve() if exclude is not None else None
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (excluded is not None and excluded != folder.resolve() and path.resolve().is_relative_to(excluded))
    ]
    if not paths:
        raise ImageError(f"{folder} has no image; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    # "cup.png" is named "cup", unless "cup.jpg" lies beside it (or on file systems that ignore case, "Cup.jpg").
    stems = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    count = Counter(stem.casefold() for stem in stems)
    names = [
        stem if count[stem.casefold()] == 1 else path.relative_to(folder).as_posix()
        for stem, path in zip(stems, paths, strict=True)
    ]
    images = (SourceImage(name, partial(load_image, path)) for name, path in zip(names, paths, strict=True))
    return ImageSource(len(paths), images)


def _open_video(path: Path) -> ImageSource:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        capture.release()
        raise ImageError(
            f"{path} ({path.stat().st_size} bytes) cannot be opened as a video; it may be damaged or empty"
        )
    frame_count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def images() -> Iterator[SourceImage]:
        index = 0
        try:
            while (read := capture.read())[0]:
                yield SourceImage(f"{path.stem}_{index:06d}", partial(cv2.cvtColor, read[1], cv2.COLOR_BGR2RGB))
                index += 1
        finally:
            capture.release()
        if index == 0:
            raise ImageError(
                f"{path} opened as a video, but no frame of it can be decoded; its codec may be unsupported"
            )

    return ImageSource(frame_count if frame_count > 0 else None, images())
