"""Masks as COCO's compressed run-length codes, made by pycocotools from no more of the image than a segment reaches.

A code is a sequence of numbers, the lengths of the runs of 0 and 1 by turns down the columns, from the left; from the
fourth on each is stored as the difference to the one before the last. A number is written in digits of 5 bits, the
least significant first: characters from "0" on, and those from "P" on tell that another digit follows.
"""

import re
from collections.abc import Iterable

import numpy as np

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.types import Segment

_NUMBER = re.compile(rb"[P-o]*[0-O]")


def require_pycocotools() -> None:
    """Raise ConfigError, with the remedy, where pycocotools is missing."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"run-length codes of masks need pycocotools, which cannot be imported ({error}): pip install pycocotools"
        ) from error


def mask_codes(segment_ids: np.ndarray, segments: Iterable[Segment]) -> list[str]:
    """The mask of each segment as `counts` of an RLE whose `size` is that of the whole image, [H, W].

    Args:
        segment_ids: (H, W) uint16.
        segments: their `box` holds all their pixels.

    Raises:
        ConfigError: pycocotools is missing.
    """
    require_pycocotools()
    by_columns = np.asfortranarray(segment_ids)
    return [_code(by_columns, segment.id, segment.box).decode() for segment in segments]


def _code(segment_ids: np.ndarray, segment_id: int, box: tuple[int, int, int, int]) -> bytes:
    """That of the box's columns and one more, so that it ends with a run of 0, with both ends drawn to the image's."""
    from pycocotools import mask

    height, width = segment_ids.shape
    left, right = box[0], min(box[0] + box[2] + 1, width)
    code = mask.encode((segment_ids[:, left:right] == segment_id).view(np.uint8))["counts"]
    numbers = _NUMBER.findall(code)
    numbers[0] = _plus(numbers[0], height * left)  # no other number is stored as a difference to this one
    if right < width:
        numbers[-1] = _plus(numbers[-1], height * (width - right))
    return b"".join(numbers)


def _plus(digits: bytes, more: int) -> bytes:
    """A written number and `more`; the highest bit of its last digit is the sign."""
    number = more + sum(((digit - 48) & 31) << 5 * place for place, digit in enumerate(digits))
    if (digits[-1] - 48) & 16:
        number -= 1 << 5 * len(digits)
    written = bytearray()
    while not -16 <= number < 16:
        written.append((number & 31 | 32) + 48)
        number >>= 5
    return bytes([*written, (number & 31) + 48])
