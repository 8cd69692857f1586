"""Files out, written whole or not at all, so that a kill never leaves half an image or half a JSON; and JSON in."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovseg_ros.core.errors import DatasetError


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


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented. NaN is refused, since JSON has none: pass None.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DatasetError: it cannot be read, or holds something else; `remedy` says what to do then.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path} ({error}); {remedy}") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{path} holds a {type(value).__name__}; expected an object; {remedy}")
    return value


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG atomically: uint8 RGB (H, W, 3), or uint8 or uint16 grey (H, W)."""
    encoded, content = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    if not encoded:
        raise ValueError(f"OpenCV cannot encode an image of {image.shape} {image.dtype} as PNG")
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
