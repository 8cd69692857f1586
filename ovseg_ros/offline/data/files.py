"""Files in and out: written whole or not at all, so that a kill never leaves half an image or half a JSON."""

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovseg_ros.core.errors import DatasetError, ImageError, OvsegError

_NAME_FAULTS = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ})
_LONGEST_NAME = 255  # bytes, where the file system does not say
_PROBE = bytes(1 << 16)


class OutputError(OvsegError, OSError):
    """A file cannot be written, told for people.

    Attributes:
        by_name: whether its own name is at fault, so that others can be written.
    """

    def __init__(self, message: str, *, by_name: bool = False) -> None:
        super().__init__(message)
        self.by_name = by_name


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; its folder is made if need be. What is no regular file (/dev/stdout) is written to.

    Raises:
        OutputError: it cannot be written; what was there before is as it was.
    """
    # A short name: the file's own may be as long as the file system takes.
    unfinished = path.with_name(f".{digest_of(path.name, 12)}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
            return
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except BaseException as error:
        with suppress(OSError):  # where even the folder is no folder, there is nothing to remove
            unfinished.unlink()
        if isinstance(error, OSError):
            raise _output_error(path, error) from error
        raise


def check_outputs(*, folders: Mapping[str, Path | None] | None = None, files: Mapping[str, Path | None]) -> None:
    """Refuse outputs that cannot be written, before any work is done for them. Leaves nothing behind.

    Args:
        folders, files: by the name of the option that gives them; None for those not asked for.

    Raises:
        OutputError: a file is where a folder should be or the reverse, a name is too long for the file system, or the
            place is read-only, missing or full.
    """
    for option, path in (folders or {}).items():
        if path is not None:
            _check_place(option, path, path)
    for option, path in files.items():
        if path is not None:
            _check_place(option, path, path.parent)


def longest_name(place: Path) -> int:
    """Bytes that a file's name may have in the nearest of a folder, and the folders above it, that exists."""
    return _longest_name(next(folder for folder in (place, *place.absolute().parents) if _exists(folder)))


def _check_place(option: str, path: Path, folder: Path) -> None:
    """Tries to write where `path` is to be: in the nearest of `folder` and the folders above it that exists."""
    existing = next(place for place in (folder, *folder.absolute().parents) if _exists(place))
    try:
        if not existing.is_dir():
            what = "is a link to nothing"
            if existing.exists():
                what = "is a file" if existing.is_file() else "is a device"
            where = "" if existing == path else f" cannot be made: {existing}"
            raise OutputError(f"{option} {path}{where} {what}; expected a folder, give another path")
        name = max(path.parts, key=lambda part: len(os.fsencode(part)), default="")
        if (length := len(os.fsencode(name))) > (allowed := _longest_name(existing)):
            raise OutputError(
                f"{option} has a name of {length} bytes ({name[:40]}...); {existing} takes names of at most {allowed}; "
                "choose a shorter one"
            )
        if path is not folder and _exists(path) and not path.is_file():
            if path.is_dir():
                raise OutputError(f"{option} {path} is a folder; expected a file, give another path")
            return  # /dev/stdout and the like
        probe = existing / f".ovseg-{os.getpid()}.tmp"
        try:
            probe.write_bytes(_PROBE)
        finally:
            probe.unlink(missing_ok=True)
    except OutputError:
        raise
    except FileNotFoundError as error:  # the folder is there, as /proc is
        message = f"{option} {path} cannot be written: {existing} takes no new files; choose another {option}"
        raise OutputError(message) from error
    except OSError as error:
        raise OutputError(
            f"{option} {path} cannot be written: {error.strerror or error} in {existing}; "
            f"{_remedy(error)} or choose another {option}"
        ) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except OSError:  # a name too long, a folder that may not be read
        return False


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return _LONGEST_NAME


def _output_error(path: Path, error: OSError) -> OutputError:
    by_name = error.errno in _NAME_FAULTS
    remedy = "rename what it is made of" if by_name else f"{_remedy(error)} and run the same command again"
    return OutputError(f"{path} cannot be written: {error.strerror or error}; {remedy}", by_name=by_name)


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "make the folder writable"
    return "see whether the folder is there"


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        remedy: what to do where it is missing or damaged, for the message.

    Raises:
        DatasetError: the file is missing, unreadable, not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; {remedy}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}; {remedy}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds a {type(content).__name__}; expected an object; {remedy}")
    return content


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented. NaN is refused, since JSON has none: pass None.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image atomically in its suffix's format: uint8 RGB (H, W, 3), or uint8 or uint16 grey (H, W).

    Raises:
        ImageError: OpenCV cannot encode such an image in that format.
    """
    try:
        encoded, content = cv2.imencode(path.suffix, image[..., ::-1] if image.ndim == 3 else image)
    except cv2.error as error:
        raise ImageError(f"OpenCV knows no image format {path.suffix!r} for {path}; use .png or .jpg") from error
    if not encoded:
        raise ImageError(f"OpenCV cannot encode an image of {image.shape} {image.dtype} as {path.suffix}")
    write_bytes(path, content.tobytes())


def digest_of(value: Any, digits: int = 64) -> str:
    """The first digits of the SHA-256 of a value of JSON's types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]
