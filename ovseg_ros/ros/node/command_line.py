"""A node's command line: what is no ROS argument is refused; what rclpy refuses is said with the form it expects."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import rclpy
from rclpy.utilities import remove_ros_args

from ovseg_ros.core.errors import ConfigError

_FORMS = {
    "remap rule": (
        "expected FROM:=TO, such as image:=/camera/color/image_raw, __node:=my_ovseg or __ns:=/robot_1; names are of "
        "letters, digits and _, no digit first, with / between them but not at the end; a namespace begins with /"
    ),
    "log level": "expected debug, info, warn, error or fatal, or the same of one logger, such as ovseg:=debug",
    "parameter override rule": (
        "expected NAME:=VALUE with a value in YAML, such as max_rate:=10.0 or vocabulary:='[cup, table]'; the values "
        "of a list are of one type"
    ),
    "params file": (
        "expected YAML with parameters under a node's name, or /** for any, and ros__parameters, such as "
        "ovseg: {ros__parameters: {max_rate: 10.0}}; the values of a list are of one type"
    ),
}
"""By what rclpy could not parse."""
_PLACE = re.compile(r",? at \S+:\d+")
"""A line in rcl's source code."""
_SAYS_NOTHING = re.compile(r" Error: (error not set|Expected lexeme type .*)")
_PARAMS_FILE = re.compile(r"'--params-file (.*?)'")


def init_ros(name: str, args: Sequence[str] | None = None) -> None:
    """As `rclpy.init`, for the default context. `--help` ends the process.

    Args:
        name: of the node, for the help.
        args: the command line without the program; None takes that of the process.

    Raises:
        ConfigError: there are arguments that are not ROS's, or rclpy refuses those that are.
    """
    parser = argparse.ArgumentParser(
        prog=Path(sys.argv[0]).name,
        description=f"The ROS 2 node {name}. It takes ROS arguments only, after --ros-args: -r FROM:=TO remaps a name, "
        f"-p NAME:=VALUE and --params-file FILE set parameters, --log-level LEVEL says how much is logged. While it "
        f"runs, `ros2 param describe /{name} NAME` explains a parameter.",
    )
    _, others = parser.parse_known_args(_without_ros_arguments(args))
    if others:
        raise ConfigError(
            f"unknown argument {others[0]!r}; expected ROS arguments only, after --ros-args, such as --ros-args "
            "-r image:=/camera/color/image_raw -p max_rate:=10.0"
        )
    try:
        rclpy.init(args=None if args is None else [*args])
    except Exception as error:
        raise ConfigError(explain(str(error))) from error


def _without_ros_arguments(args: Sequence[str] | None) -> list[str]:
    try:
        return remove_ros_args([*sys.argv[1:]] if args is None else [*args])
    except Exception:  # malformed ones; `rclpy.init` gives the reason
        return []


def explain(reason: str) -> str:
    """What rclpy says of a command line that it refuses, in one line, with what it should be."""
    reason = " ".join(reason.split())
    reason = _PLACE.sub("", reason).removeprefix("failed to initialize rcl: ")
    reason = _SAYS_NOTHING.sub("", reason).rstrip(" .,")
    if reason.startswith("["):  # of arguments, all that rclpy says of unknown ones
        return f"unknown ROS arguments {reason}; expected -r, -p, --params-file, --log-level or others that ROS knows"
    if (file := _PARAMS_FILE.search(reason)) and not Path(file[1]).is_file():
        missing = "is a folder" if Path(file[1]).is_dir() else "does not exist"
        return f"the params file {file[1]!r} {missing}; give the path of a YAML file"
    form = next((form for what, form in _FORMS.items() if what in reason), "")
    return f"{reason}; {form}" if form else reason
