"""A vocabulary written to a file, so that what a person taught the robot outlives a restart."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec

SAVED_MARK = "# Saved by ovseg"
"""First words of every file that `save_vocabulary_file` wrote."""
_HEADER = f"{SAVED_MARK} after a change of the vocabulary; the next change replaces this file.\n"


def is_saved_file(path: Path) -> bool:
    """Whether a file is one that `save_vocabulary_file` wrote, rather than a person."""
    try:
        with path.open("rb") as file:
            return file.read(len(SAVED_MARK)) == SAVED_MARK.encode()
    except OSError:
        return False


def save_vocabulary_file(path: Path, specs: Sequence[CategorySpec]) -> None:
    """Write a vocabulary as `load_vocabulary_file` reads it: whole, or not at all.

    A file that a person wrote is kept beside it as NAME.orig.yaml, once.

    Args:
        path: ends with .yaml or .yml; its folder is made if need be.
        specs: what to write.

    Raises:
        VocabularyError: nothing could be written (no space, no permission); the old file is intact.
    """
    content = _HEADER + yaml.safe_dump(
        {"categories": [_entry(spec) for spec in specs]}, allow_unicode=True, sort_keys=False, width=120
    )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
        _keep_original(path)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):  # where even the folder is no folder, there is nothing to remove
            unfinished.unlink()
        raise VocabularyError(
            f"the vocabulary is in force but could not be saved to {path}: {error.strerror or error}; the old file is "
            "as it was; free some space or correct vocabulary_file, then set the vocabulary again"
        ) from error


def _keep_original(path: Path) -> None:
    original = path.with_name(f"{path.stem}.orig{path.suffix}")
    if path.is_file() and not is_saved_file(path) and not original.exists():
        os.link(path, original)


def _entry(spec: CategorySpec) -> dict[str, object]:
    entry: dict[str, object] = {"name": spec.name, "is_thing": spec.is_thing}
    if spec.synonyms:
        entry["synonyms"] = list(spec.synonyms)
    if spec.threshold:
        entry["threshold"] = spec.threshold
    if spec.negative:
        entry["negative"] = True
    return entry
