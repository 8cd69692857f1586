"""Option types and texts that several subcommands share."""

import argparse

DEVICE_HELP = "auto (the first GPU, else the CPU), cpu, cuda or cuda:N"
PRESET_HELP = "name of a preset in config/models, or the path of a preset's YAML file"


def positive(text: str) -> int:
    """An integer of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def size(text: str) -> tuple[int, int]:
    """WxH as (width, height)."""
    width, separator, height = text.lower().partition("x")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return positive(width), positive(height)
