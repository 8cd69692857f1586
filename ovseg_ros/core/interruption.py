"""Ctrl-C and SIGTERM while Python imports, which takes seconds with PyTorch: a quiet end, at once.

An exception would not do: the C code of some libraries prints and swallows what is raised under their imports.
"""

import os
import signal
from types import FrameType
from typing import NoReturn

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


def is_importing(frame: FrameType | None) -> bool:
    """Whether a signal, whose handler got this frame, came in the midst of an import."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


def leave(code: int, message: str = "") -> NoReturn:
    """End the process at once: nothing is flushed or cleaned up. The message goes to the standard error."""
    if message:
        os.write(2, f"{message}\n".encode())
    os._exit(code)


def leave_when_interrupted(code: int, message: str = "") -> None:
    """From now on SIGINT and SIGTERM end the process, until the program has handlers of its own.

    For the first lines of a node's executable, before its imports.

    Args:
        code: the exit code, which should be the one that the program has when it is interrupted later.
        message: as of `leave`.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        leave(code, message)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
