"""Files in and out: written whole or not at all, so that a kill never leaves half an image or half a JSON."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovseg_ros.core.errors import DatasetError, ImageError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


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


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any, digits: int = 64) -> str:
    """The first digits of the SHA-256 of a value of JSON's types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]
