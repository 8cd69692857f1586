"""`ovseg count`: a preset's parameters and floating-point operations, by shape alone."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import PRESET_HELP, positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("count", help="count a preset's parameters and FLOPs, without its weights")
    parser.add_argument("preset", help=PRESET_HELP)
    parser.add_argument("--masks", type=positive, default=100, metavar="N", help="masks in an image (default: 100)")
    parser.add_argument(
        "--words", type=positive, default=150, metavar="N", help="words of the vocabulary (default: 150)"
    )
    parser.add_argument(
        "--timing", action="store_true", help="also time the classifier at 10 and 1000 words, with random weights"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.count import count

    return count(
        options.preset, masks=options.masks, words=options.words, timing=options.timing, json_path=options.json
    )
