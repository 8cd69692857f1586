"""`ovseg download`: fetch and verify a preset's public weights ahead of time."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import PRESET_HELP, Commands


def add(commands: Commands) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("download", help="fetch and verify a preset's public weights ahead of time")
    parser.add_argument("preset", metavar="PRESET", help=PRESET_HELP)
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder in place of the hub's cache (HF_HUB_CACHE)")
    parser.add_argument("--check", action="store_true", help="fetch nothing; say what is missing or damaged")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.download import download

    return download(options.preset, cache=options.cache, check=options.check)
