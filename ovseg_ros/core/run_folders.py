"""Where a preset is meant by what a training leaves: its folder, a result, or a state.

A training writes `OUT/preset.yaml`, which names its results, and `OUT/STAGE/preset.yaml`, which names `last.pt`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ovseg_ros.core.config import load_yaml
from ovseg_ros.core.errors import ConfigError

PRESET_NAME = "preset.yaml"
LAST_STATE = "last.pt"
STATE_NAMES = (LAST_STATE, "previous.pt", "best.pt")
OF_RUN = "./"
"""Begins the names of the run's own files in such a preset, so that none in the package is taken for them."""
_ABOVE = "../"
"""Begins those of the run's results in the preset of a stage."""


class Left(NamedTuple):
    """A preset that a training wrote, and what is meant in place of one of its files: (as it has it, name)."""

    path: Path
    instead: tuple[str, str] | None = None


def left_by_training(source: str) -> Left | None:
    """What a path means, if it is that of a training's folder, result or state; None of everything else.

    Raises:
        ConfigError: it is one, but there is nothing yet that could be used, or it is not clear what.
    """
    path = Path(source).expanduser()
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError):
        return None  # whoever looks for a name says so
    if path.suffix in (".pt", ".safetensors"):
        return _of_file(path, is_file)
    return _of_folder(path) if is_folder else None


def _of_file(path: Path, is_file: bool) -> Left | None:
    preset = path.with_name(PRESET_NAME)
    if not preset.is_file():
        if not is_file:
            return None
        raise ConfigError(
            f"{path} has no {PRESET_NAME} beside it, which would say what network it is of; a training writes it when "
            "it begins or goes on. Name a preset that has this file as its checkpoint"
        )
    if not is_file:
        raise ConfigError(f"{path} does not exist; the training there has not written it, or not yet")
    own = list(_named(load_yaml(preset), OF_RUN))
    if path.name in STATE_NAMES:
        if OF_RUN + LAST_STATE in own:
            return Left(preset, (OF_RUN + LAST_STATE, OF_RUN + path.name))
    elif OF_RUN + path.name in own:
        return Left(preset)
    raise ConfigError(f"{preset} does not say what {path.name} is; it names {', '.join(own) or 'no file beside it'}")


def _of_folder(folder: Path) -> Left | None:
    preset = folder / PRESET_NAME
    states = sorted(path for path in folder.glob(f"*/{LAST_STATE}"))
    if not preset.is_file():
        if states or (folder / LAST_STATE).is_file():
            raise ConfigError(
                f"{folder} is of a training by an older version, without {PRESET_NAME}; go on with it by the command "
                "that began it, which writes that file, or name a preset that has its result as a checkpoint"
            )
        return None
    missing = _missing(preset, OF_RUN)
    if not missing:
        return Left(preset)
    begun = [state.with_name(PRESET_NAME) for state in states if state.with_name(PRESET_NAME).is_file()]
    usable = [path for path in begun if not _missing(path, _ABOVE)] or begun
    if len(usable) == 1:
        return Left(usable[0])
    if usable:
        found = ", ".join(str(path.with_name(LAST_STATE)) for path in usable)
        raise ConfigError(
            f"{folder} has no {missing[0].removeprefix(OF_RUN)} yet, but several states; name one: {found}"
        )
    raise ConfigError(
        f"the training in {folder} has written nothing yet that could be used: {missing[0].removeprefix(OF_RUN)} is "
        "missing; wait for its first checkpoint (checkpoint_every of the recipe)"
    )


def _missing(preset: Path, where: str) -> list[str]:
    return [name for name in _named(load_yaml(preset), where) if not (preset.parent / name).is_file()]


def _named(values: Any, where: str) -> Iterator[str]:
    """The files of a run in a preset: those beside it (`OF_RUN`), or those in the folder above."""
    if isinstance(values, dict):
        for value in values.values():
            yield from _named(value, where)
    elif isinstance(values, str) and values.startswith(where):
        yield values
