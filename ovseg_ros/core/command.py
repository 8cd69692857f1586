"""How whoever reads a message of this process calls the command `ovseg`, for messages that advise it."""

import shlex
import shutil
import sys
from pathlib import Path


def ovseg_command() -> str:
    """`ovseg` where it is on the PATH; else by the way in which this process was started, if that tells another one."""
    if shutil.which("ovseg"):
        return "ovseg"
    program = Path(sys.argv[0])
    if program.parent.parts[-2:] == ("lib", "ovseg_ros"):  # the node, or the command itself, as colcon installs them
        return "ros2 run ovseg_ros ovseg" if shutil.which("ros2") else shlex.quote(str(program.with_name("ovseg")))
    if program.name == "ovseg":
        return shlex.quote(sys.argv[0])
    if program.parent.parts[-2:] == ("offline", "cli"):
        return f"{shlex.quote(sys.executable)} -m ovseg_ros.offline.cli"
    return "ovseg"
