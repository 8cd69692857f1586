"""How an option of `ovseg` is given: what kinds of values there are, and how the command line has them."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


def some_text(value: str) -> str:
    """A text that says something."""
    if not value.strip():
        raise argparse.ArgumentTypeError("it is empty; give a value")
    return value


def path(value: str) -> Path:
    """A path; the empty one would be the current folder."""
    return Path(some_text(value))


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {least} to {most}")
        return value

    return parse


def number(least: float, most: float, *, above: bool = False) -> Callable[[str], float]:
    """A number from `least`, or if `above` from above it, to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (above and value == least):
            expected = f"above {least:g} and at most {most:g}" if above else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number {expected}")
        return value

    return parse


def width_by_height(least: int, most: int) -> Callable[[str], tuple[int, int]]:
    """WxH as (width, height), each from `least` to `most` pixels."""
    side = whole(least, most)

    def parse(text: str) -> tuple[int, int]:
        width, separator, height = text.lower().partition("x")
        try:
            if separator:
                return side(width), side(height)
        except argparse.ArgumentTypeError:
            pass
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is not a size such as 640x480, sides of {least} to {most} pixels"
        )

    return parse


@dataclass(frozen=True, slots=True)
class Option:
    """How the command line gives a field: as --its-name or, `by_place`, as a word without a name.

    `heading` stands above it and those that follow in the command's help; `output` says that the command writes there,
    which is tried before anything else; the rest is as argparse takes it.
    """

    help: str | None
    type: Callable[[str], Any] | None = some_text
    metavar: str | None = None
    choices: Sequence[Any] | None = None
    nargs: str | None = None
    action: str | None = None
    heading: str | None = None
    by_place: bool = False
    output: Literal["file", "folder"] | None = None


def switch(text: str) -> Option:
    """True if it is given."""
    return Option(text, None, action="store_true")
