"""What a file is by its name: a picture that Pillow reads, one that it does not read, a video, a bag, or none of these.

The one rule for every folder that is searched: folders of pictures, of data sets and of recordings. Hidden files are no
matter of ours, among them what macOS (`._NAME`, `.DS_Store`) and Windows (`Thumbs.db`) leave behind.
"""

import mimetypes
import os
import stat
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path, PurePath

from PIL import Image, ImageFile

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv"}
)
"""Files of a folder that are taken for videos; a file named by itself may have any suffix."""

PACKED_SUFFIXES = frozenset({".7z", ".bz2", ".gz", ".lz4", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"})
"""Archives and compressed files, which have to be unpacked first."""

_LEFT_BEHIND = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"})
# Python's table of types has pictures of the web; these are of cameras and film.
_OTHER_PICTURES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heif", ".hif", ".jxl", ".nef", ".orf", ".raf", ".rw2"}
)
_HEIF = frozenset({".heic", ".heif", ".hif"})
_TYPES = mimetypes.MimeTypes()


class Kind(Enum):
    """What a file is taken for; the value says what to do about those that are left out."""

    PICTURE = "pictures"
    UNREADABLE = "Pillow cannot read them; convert them to PNG or JPEG"
    VIDEO = "a video: give it by itself"
    BAG = "a bag: give it by itself"
    PACKED_BAG = "a compressed bag: unpack it"
    FOLDER = "give it by itself"
    CLOSED = "permission denied: make it readable"
    LINK = "a link to nothing: copy the file that it should lead to"
    DEVICE = "no file but a pipe, socket or device"
    OTHER = "no picture"


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of the pictures that this Pillow reads, in lower case; HEIF where pillow-heif is installed."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return frozenset(s for s, name in Image.registered_extensions().items() if _is_read(name)) - VIDEO_SUFFIXES


def _is_read(name: str) -> bool:
    """Whether Pillow decodes a format: some it can only write, of some it knows no more than the beginning."""
    if name == "MPO":  # several JPEGs in one, which the reader of JPEG opens
        name = "JPEG"
    factory, _ = Image.OPEN.get(name, (ImageFile.StubImageFile, None))
    return not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))


def bag_suffix(path: PurePath) -> str:
    """What kind of bag a file is by its name: .mcap, .db3 or .bag (also .bag.active); "" for anything else."""
    suffix = PurePath(path.name.lower().removesuffix(".zstd").removesuffix(".active")).suffix
    return suffix if suffix in (".bag", ".db3", ".mcap") else ""


def kind_of(path: PurePath) -> Kind:
    """What a file is taken for by its name."""
    suffix = path.suffix.lower()
    if suffix in picture_suffixes():
        return Kind.PICTURE
    if suffix in VIDEO_SUFFIXES:
        return Kind.VIDEO
    if bag_suffix(path):
        return Kind.BAG
    if suffix in PACKED_SUFFIXES and bag_suffix(PurePath(path.stem)):
        return Kind.PACKED_BAG
    guessed = _TYPES.guess_type(path.name)[0] or ""
    return Kind.UNREADABLE if guessed.startswith("image/") or suffix in _OTHER_PICTURES else Kind.OTHER


def kind_in_folder(path: Path) -> Kind:
    """What an entry of a folder is: by its name, if it is a file that is there."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return Kind.CLOSED
    except OSError:  # nothing is there, or it leads to itself
        return Kind.LINK
    if stat.S_ISDIR(mode):
        return Kind.FOLDER if path.is_symlink() else Kind.CLOSED
    kind = kind_of(path)
    return kind if stat.S_ISREG(mode) or kind is Kind.OTHER else Kind.DEVICE


def is_hidden(path: PurePath) -> bool:
    """Whether a path below a searched folder is hidden, or what a system leaves behind."""
    return any(part.startswith(".") or part.lower() in _LEFT_BEHIND for part in path.parts)


def files_below(folder: Path, *, closed: bool = False) -> list[Path]:
    """All files in a folder and its subfolders that are not hidden, sorted. Links to folders count as files.

    Args:
        folder: where to search.
        closed: whether subfolders that cannot be read count as files, too.

    Raises:
        OSError: a folder cannot be read.
    """
    found = []

    def fail(error: OSError) -> None:
        if not closed or (place := Path(error.filename)) == folder:
            raise error
        found.append(place)

    for place, folders, names in os.walk(folder, onerror=fail):
        here = Path(place)
        folders[:] = [name for name in folders if not is_hidden(PurePath(name))]
        links = [name for name in folders if (here / name).is_symlink()]
        found += [here / name for name in (*names, *links) if not is_hidden(PurePath(name))]
    return sorted(found)


def left_out(kinds: Mapping[Path, Kind]) -> str:
    """Files that are not read, counted by suffix, with what to do: "2 .heic (...), 1 .txt"; "" for none."""
    counts = Counter((_called(path, kind), kind) for path, kind in kinds.items())
    return ", ".join(f"{count} {name}{_advice(name, kind)}" for (name, kind), count in counts.items())


def _called(path: Path, kind: Kind) -> str:
    if kind is Kind.FOLDER:
        return "linked folder"
    return path.suffix.lower() or ("folder" if kind is Kind.CLOSED else "without a suffix")


def _advice(name: str, kind: Kind) -> str:
    if kind is Kind.OTHER:
        return ""
    return f" ({kind.value}{', or install pillow-heif' if name in _HEIF else ''})"
