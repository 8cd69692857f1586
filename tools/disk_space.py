"""Before the first set-up: an error if the disk cannot hold it. pip would tell only after minutes of downloads."""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_GB = 1000**3


class Need(NamedTuple):
    """Room for something.

    Attributes:
        what: it is.
        folder: where it goes.
        gb: its size, as measured with the pinned requirements.
        instead: what else can be done about it, if anything.
    """

    what: str
    folder: Path
    gb: int
    instead: str = ""


def needs(root: Path) -> list[Need]:
    """What a first set-up of the repository at `root` writes."""
    found = [
        Need(".venv and what is built", root, 9),
        Need("pip's temporary files", Path(tempfile.gettempdir()), 4, "TMPDIR=FOLDER puts them on another disk"),
    ]
    if not os.environ.get("PIP_NO_CACHE_DIR"):
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        cache = Path(os.environ.get("PIP_CACHE_DIR") or Path(caches) / "pip")
        found.append(Need("pip's cache", cache, 4, "PIP_NO_CACHE_DIR=1 goes without"))
    return found


def complaint(wanted: Sequence[Need]) -> str | None:
    """What the first disk that is too small lacks, and what to do; None if all have room."""
    disks: dict[int, list[Need]] = {}
    for need in wanted:
        disks.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    for here in disks.values():
        needed = sum(need.gb for need in here)
        free = shutil.disk_usage(_existing(here[0].folder)).free / _GB
        if free >= needed:
            continue
        parts = ", ".join(f"{need.gb} for {need.what} in {need.folder}" for need in here)
        ways = [need.instead for need in here if need.instead]
        if free < sum(need.gb for need in here if not need.instead):
            ways = []  # they would not be enough
        return (
            f"a first set-up needs {needed} GB of free disk ({parts}), and there are {free:.1f} GB. "
            f"{'; or '.join(['Free some', *ways])}. Then run make again"
        )
    return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def main() -> None:
    try:
        error = complaint(needs(Path(__file__).resolve().parents[1]))
    except FileNotFoundError as unusable:  # of tempfile
        error = (
            f"pip needs a folder for temporary files ({unusable}). Make room there, or set TMPDIR, then run make again"
        )
    if error is not None:
        sys.exit(f"make setup: {error}")


if __name__ == "__main__":
    main()
