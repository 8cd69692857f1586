"""The `ovseg` command. Each subcommand's module is imported when it runs, so that `ovseg --help` is immediate.

Exit codes: 0 done; 1 done in part (an image was skipped); 2 a wrong command line or input; 130 stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence

from ovseg_ros.core.errors import OvsegError
from ovseg_ros.offline.cli import (
    ablate,
    bench,
    check_dataset,
    count,
    dataset,
    doctor,
    download,
    evaluate,
    evaluate_space,
    evaluate_tracking,
    segment,
    train,
    vocabulary,
)

_COMMANDS = (
    segment,
    evaluate,
    evaluate_space,
    evaluate_tracking,
    bench,
    dataset,
    check_dataset,
    train,
    vocabulary,
    download,
    doctor,
    ablate,
    count,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _make_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except OvsegError as error:
        print(f"ovseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "ovseg_ros"):
            raise
        print(f"ovseg: error: this command needs the Python package {package!r}; install it first", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovseg: stopped", file=sys.stderr)
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ovseg", description="Open-vocabulary panoptic segmentation, without ROS.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
