"""Images in: any image file, a folder of them, or a video, as uint8 RGB arrays (H, W, 3).

What a file means is decided here once:

- EXIF orientation is applied, so that up is up. of an animation or a multi-page file, the first frame counts.
- Transparency is laid over white, as a page shows it.
- 16-bit grey is scaled by its full range (65535 becomes 255); 16-bit colour keeps its upper byte.
- Floating-point images have no known range and are refused.
"""

import os
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ovseg_ros.core.errors import ImageError
from ovseg_ros.offline.data.kinds import (
    PACKED_SUFFIXES,
    Kind,
    files_below,
    kind_in_folder,
    kind_of,
    left_out,
    picture_suffixes,
)

DAMAGE = (OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, struct.error, zlib.error)
"""What Pillow's decoders raise for a damaged file, whichever of their parsers meets the damage first."""

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_EXPECTED = "give an image, a folder of images or a video"
_FEW_FRAMES = 2
"""By so many, counts of complete videos differ: packed frames, edit lists."""
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source.

    Attributes:
        name: unique within its source and usable as a relative path without suffix ("kitchen/cup", "clip_000012").
        load: decodes it to uint8 RGB (H, W, 3), or raises ImageError with the reason.
        path: of a picture's file; None for a frame of a video.
    """

    name: str
    load: Callable[[], np.ndarray]
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image, a folder or a video.

    Attributes:
        length: how many images it yields; None where a video does not say. For a video this is an estimate.
        images: yields the images once, in the order of their names; those of a video must be used in turn. Of a video
            that ends before its announced end, the last one cannot be loaded and says so.
        left_out: what else a folder holds, counted, in words; "" for nothing.
        unread: of that, the pictures that cannot be read, the videos and the bags: name and reason.
        video: of a video, with what the names of its frames begin; "" otherwise.
    """

    length: int | None
    images: Iterator[SourceImage]
    left_out: str = ""
    unread: tuple[tuple[str, str], ...] = ()
    video: str = ""


def load_image(path: Path) -> np.ndarray:
    """Decode an image file.

    Returns:
        uint8 RGB (H, W, 3), writable.

    Raises:
        ImageError: the file is missing, unreadable, corrupt, truncated, too large or without 8-bit meaning.
    """
    try:
        if not path.is_file():
            raise ImageError(f"{path} {'is a link to nothing' if path.is_symlink() else 'is not a file'}; {_EXPECTED}")
        with _opened(path) as file:
            return _to_rgb(ImageOps.exif_transpose(file), path)
    except PermissionError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}; make it readable") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} ({path.stat().st_size} bytes) {_unknown(path)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to decode: {error}; scale it down first") from error
    except DAMAGE as error:
        raise ImageError(f"{path} cannot be decoded: {error}; the file may be truncated or damaged") from error


def frames_in(path: Path) -> int:
    """How many frames or pages a picture's file holds, of which the first is segmented.

    MPO, which cameras write, counts as one: what follows its picture is the same in other sizes, depth or brightness.
    """
    with suppress(*DAMAGE, Image.DecompressionBombError), _opened(path) as file:
        return 1 if file.format == "MPO" else int(getattr(file, "n_frames", 1))
    return 1


def open_source(path: Path, *, exclude: Path | None = None) -> ImageSource:
    """What `path` holds: one image, all images below a folder, or the frames of a video.

    Args:
        path: a file or a folder. A file is a video by its suffix, or where it is no image and OpenCV opens it.
        exclude: a folder below `path` to leave out, such as the one that outputs go to.

    Raises:
        ImageError: nothing is there, the folder has no image, or the video cannot be opened.
    """
    if path.is_dir():
        return _open_folder(path, exclude)
    if not path.exists():
        problem = "is a link to nothing" if path.is_symlink() else "does not exist"
        raise ImageError(f"{path} {problem}; {_EXPECTED}")
    kind = kind_of(path)
    if kind is Kind.PACKED_BAG:
        raise ImageError(f"{path} is a compressed bag: unpack it, and give what was in it")
    if path.suffix.lower() in PACKED_SUFFIXES:
        raise ImageError(f"{path} is an archive: unpack it, and give the folder or the file that was in it")
    if path.name == "metadata.yaml":
        raise ImageError(f"{path} describes a bag: give the folder that it is in, {path.absolute().parent}")
    if kind is Kind.VIDEO or (kind is Kind.OTHER and _opens_as_video(path)):
        return _open_video(path)
    return ImageSource(1, iter([SourceImage(path.stem, partial(load_image, path), path)]))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A file opened by Pillow, without its warning of pictures half as large as those that it refuses."""
    picture_suffixes()  # makes Pillow's plug-ins known
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as file:
            yield file


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


def _unknown(path: Path) -> str:
    """What to say of a file that Pillow does not know."""
    with path.open("rb") as file:
        start = file.read(12)
    if not start:
        return "is empty; copy it again"
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "holds HEIF (HEIC), which Pillow cannot read; convert it to PNG or JPEG, or install pillow-heif"
    kind = kind_of(path)
    if kind is Kind.UNREADABLE:
        return f"is an image that Pillow cannot read ({path.suffix}); convert it to PNG or JPEG"
    return "is not an image in a known format; expected PNG, JPEG, TIFF, WebP, BMP, GIF or another that Pillow reads"


def _open_folder(folder: Path, exclude: Path | None) -> ImageSource:
    # Unlike Path.resolve, realpath passes over links that lead to themselves.
    excluded = None if exclude is None else os.path.realpath(exclude)
    if excluded == os.path.realpath(folder):
        excluded = None
    try:
        files = [
            path
            for path in files_below(folder, closed=True)
            if excluded is None or not Path(os.path.realpath(path)).is_relative_to(excluded)
        ]
    except OSError as error:
        raise ImageError(f"{error.filename} cannot be read: {error.strerror}; make it readable") from error
    kinds = {path: kind_in_folder(path) for path in files}
    paths = [path for path, kind in kinds.items() if kind is Kind.PICTURE]
    others = left_out({path: kind for path, kind in kinds.items() if kind is not Kind.PICTURE})
    if not paths:
        holds = f"; it holds {others}" if others else ""
        raise ImageError(f"{folder} has no image that can be read{holds}. Expected pictures such as .jpg, .png or .tif")
    names = _names([path.relative_to(folder) for path in paths])
    images = (SourceImage(name, partial(load_image, path), path) for name, path in zip(names, paths, strict=True))
    unread = tuple(
        (path.relative_to(folder).as_posix(), f"{path}: {kind.value}")
        for path, kind in kinds.items()
        if kind not in (Kind.PICTURE, Kind.OTHER)
    )
    return ImageSource(len(paths), images, others, unread)


def _names(paths: Sequence[Path]) -> list[str]:
    """Unique names: "cup.png" is named "cup", unless another is (or on file systems that ignore case, "Cup")."""
    full = [path.as_posix() for path in paths]
    names = [path.with_suffix("").as_posix() for path in paths]
    while True:  # the full name of "cup.jpg" may be the short one of "cup.jpg.png"
        count = Counter(name.casefold() for name in names)
        unique = [name if count[name.casefold()] == 1 else whole for name, whole in zip(names, full, strict=True)]
        if unique == names:
            return names
        names = unique


def _opens_as_video(path: Path) -> bool:
    """Whether a file that Pillow does not know is a video. FFmpeg would also play text as a terminal shows it."""
    with suppress(*DAMAGE, Image.DecompressionBombError), _opened(path):
        return False
    with path.open("rb") as file:
        if b"\0" not in file.read(1 << 12):
            return False
    capture = cv2.VideoCapture(str(path))
    opened = bool(capture.isOpened())
    capture.release()
    return opened


def _open_video(path: Path) -> ImageSource:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}; make it readable") from error
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        capture.release()
        raise ImageError(
            f"{path} ({path.stat().st_size} bytes) cannot be opened as a video; it may be damaged, cut short or empty, "
            "or its format unknown to OpenCV"
        )
    announced, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), float(capture.get(cv2.CAP_PROP_FPS))

    def images() -> Iterator[SourceImage]:
        index, milliseconds = 0, 0.0
        try:
            while (read := capture.read())[0]:
                yield SourceImage(f"{path.stem}_{index:06d}", partial(cv2.cvtColor, read[1], cv2.COLOR_BGR2RGB))
                index, milliseconds = index + 1, float(capture.get(cv2.CAP_PROP_POS_MSEC))
        finally:
            capture.release()
        if index == 0:
            raise ImageError(
                f"{path} opened as a video, but no frame of it can be decoded; its codec may be unsupported"
            )
        if _ends_early(announced, rate, index, milliseconds / 1000):
            yield SourceImage(f"{path.stem}_{index:06d}", partial(_refuse_end, path, announced, index))

    return ImageSource(announced if announced > 0 else None, images(), video=path.stem)


def _ends_early(announced: int, rate: float, decoded: int, last: float) -> bool:
    """Whether a video lacks frames at its end.

    Some containers count their frames; of others, OpenCV multiplies the duration, of the sound too, with a rate. So
    both must say it: the frames' number, and the time of the last one. Some formats give no times; they say nothing.

    Args:
        announced, rate: frames, and frames a second.
        decoded: frames.
        last: time of the last of them in seconds.
    """
    if announced <= 0 or rate <= 0 or (last <= 0 and decoded > 1):
        return False
    missing = min(announced - decoded, announced - last * rate - 1)
    return missing > max(_FEW_FRAMES, min(announced / 50, rate))


def _refuse_end(path: Path, announced: int, decoded: int) -> np.ndarray:
    raise ImageError(
        f"{path} announces {announced} frames, and only {decoded} can be decoded; it was cut short or is damaged. Copy "
        "it again, or repair it with a video tool"
    )
