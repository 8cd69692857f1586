"""`ovseg doctor`: say what is wrong with this installation."""

import argparse

from ovseg_ros.offline.cli.options import Commands


def add(commands: Commands) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("doctor", help="say what is wrong with this installation, and what to do about it")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.doctor import doctor

    return doctor(as_json=options.json)
