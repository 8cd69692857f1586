"""Option types and texts that several subcommands share."""

import argparse

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
