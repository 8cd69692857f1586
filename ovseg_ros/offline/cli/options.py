"""What several subcommands share: options, types of options, and the way from the command line to typed options."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
T = TypeVar("T", bound="DataclassInstance")

DEVICE_HELP = "auto (the first GPU, else the CPU), cpu, cuda or cuda:N"
PRESET_HELP = "name of a preset in config/models, or the path of a preset's YAML file"

MAX_SECONDS = 86400.0
"""Longest wait that can be asked for."""


def positive(text: str) -> int:
    """An integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def seconds(text: str) -> float:
    """A time that is over some day, more than 0."""
    value = float(text)
    if not 0 < value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and at most {MAX_SECONDS:g}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not 0 to 1")
    return value


def size(text: str) -> tuple[int, int]:
    """WxH as (width, height)."""
    width, separator, height = text.lower().partition("x")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return positive(width), positive(height)


def add_preset(parser: argparse.ArgumentParser) -> None:
    """`--preset` and `--device`."""
    parser.add_argument("--preset", default="tabletop", help=PRESET_HELP)
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)


def add_json(parser: argparse.ArgumentParser, text: str = "write the figures here") -> None:
    """`--json`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=text)


def typed(cls: type[T], options: argparse.Namespace) -> T:
    """A dataclass of options, each field of which is an option of the same name."""
    return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})
