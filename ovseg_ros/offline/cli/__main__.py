"""The start of the command `ovseg`, as pip and CMake install it, and of `python -m ovseg_ros.offline.cli`."""

import signal
import sys
from types import FrameType

from ovseg_ros.core.interruption import is_importing, leave

_STOPPED, _EXIT_CODE = "ovseg: stopped", 130


def main() -> int:
    """Run the command line of the process, from here on with a quiet end by Ctrl-C, and return the exit code."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        from ovseg_ros.offline.cli import main as cli

        return cli.main()
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        return _EXIT_CODE
    finally:
        signal.signal(signal.SIGINT, lambda *_: leave(_EXIT_CODE))  # while Python ends


def _interrupt(number: int, frame: FrameType | None) -> None:
    if is_importing(frame):
        leave(_EXIT_CODE, _STOPPED)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
