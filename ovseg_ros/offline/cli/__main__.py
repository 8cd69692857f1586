"""The start of the command `ovseg`, as pip and CMake install it, and of `python -m ovseg_ros.offline.cli`."""

import signal
import sys
from types import FrameType

from ovseg_ros.core.interruption import is_importing, leave

_STOPPED = "ovseg: stopped"
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def main() -> int:
    """Run the command line of the process, with a quiet end by Ctrl-C and SIGTERM, and return the exit code."""
    for known in _EXIT_CODES:
        signal.signal(known, _interrupt)
    try:
        from ovseg_ros.offline.cli import main as cli

        return cli.main()
    except KeyboardInterrupt:
        print(_STOPPED, file=sys.stderr)
        return _EXIT_CODES[signal.SIGINT]
    finally:
        for known, code in _EXIT_CODES.items():
            signal.signal(known, lambda *_, code=code: leave(code))  # while Python ends


def _interrupt(number: int, frame: FrameType | None) -> None:
    code = _EXIT_CODES[signal.Signals(number)]
    if is_importing(frame):
        leave(code, _STOPPED if number == signal.SIGINT else "")
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
