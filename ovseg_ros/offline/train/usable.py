"""What a run leaves beside its weights, so that they can be used: presets that name them, and the data's vocabulary."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import PresetConfig, PresetFolder, load_preset, preset_folder, preset_name
from ovseg_ros.core.run_folders import LAST_STATE, OF_RUN, PRESET_NAME
from ovseg_ros.core.sections import ClosedSetSection, EoMTSection, NamedClass
from ovseg_ros.core.vocabulary.files import is_saved_file
from ovseg_ros.offline.data.files import write_bytes
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.offline.train.clip import ClipTraining
from ovseg_ros.offline.train.data import PanopticData, open_semantic
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.eomt import EoMTTraining, PresetNetwork, with_own_padding
from ovseg_ros.offline.train.fisa import FisaTraining
from ovseg_ros.offline.train.lmseg import LMSegTraining
from ovseg_ros.offline.train.omtseg import OMTSegTraining
from ovseg_ros.offline.train.pmp import PmpTraining
from ovseg_ros.offline.train.record import loops_of, plain

Stage = EoMTTraining | ClipTraining | FisaTraining | PmpTraining | OMTSegTraining | LMSegTraining

VOCABULARY_NAME = "vocabulary.yaml"
_MARK = "# Written by ovseg train when it began"
_PATHS = frozenset({"checkpoint", "base", "encoder_weights", "warm_start", "file", "architecture", "files", "classes"})
"""Keys of a preset that may name files beside it."""

logger = logging.getLogger(__name__)


def require_free(stages: Sequence[Stage], out: Path) -> None:
    """ConfigError if a file of somebody else's is where presets or the vocabulary belong."""
    folders = [out, *(out / name for name in loops_of(stages))]
    for path in (out / VOCABULARY_NAME, *(folder / PRESET_NAME for folder in folders)):
        if path.exists() and not _is_own(path):
            raise ConfigError(
                f"{path} is there already, and not of a training, which would write its own; choose another --out, or "
                "move it away"
            )


def leave_presets(stages: Sequence[Stage], results: Mapping[str, str], run: Run, *, begun: bool) -> None:
    """Write them; those of a run that goes on stay as they are.

    Args:
        stages: of the recipe, in order.
        results: by stage, what its preset calls its checkpoint.
        begun: whether the run goes on.

    Raises:
        OutputError: they cannot be written.
    """
    if not run.engine.is_main:
        return
    categories = {stage.kind: _categories(stage, run) for stage in stages}
    contents: dict[Path, Mapping[str, Any]] = {}
    for stage in stages:
        preset = _preset_of(stage, categories[stage.kind])
        earlier = {other.kind: results[other.kind] for other in stages if _source(other) == _source(stage) is not None}
        final = {name: f"{OF_RUN}{Path(name).name}" for name in earlier.values()}
        final[results[stage.kind]] = f"{OF_RUN}{Path(results[stage.kind]).name}"
        contents[run.out / PRESET_NAME] = _renamed(preset, final)  # the last stage's
        beside = {name: f"../{Path(name).name}" for name in final}
        for loop in loops_of([stage]):
            state = {**beside, results[stage.kind]: f"{OF_RUN}{LAST_STATE}"}
            contents[run.out / loop / PRESET_NAME] = _renamed(preset, state)
    if shown := next((found for found in categories.values() if found), None):
        contents[run.out / VOCABULARY_NAME] = {"categories": [_entry(category) for category in shown]}
    for path, content in contents.items():
        if not (begun and path.exists()):
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
            write_bytes(path, f"{_MARK}; docs/training.md says how it is used.\n{text}".encode())


def _is_own(path: Path) -> bool:
    """Whether a training wrote it, or a node keeps its words there."""
    return path.is_file() and (path.read_bytes().startswith(_MARK.encode()) or is_saved_file(path))


def _categories(stage: Stage, run: Run) -> Sequence[DatasetCategory]:
    """The data's; none of a stage that learns from captions."""
    if isinstance(stage, ClipTraining):
        return ()
    name = stage.data.dataset if isinstance(stage.data, PanopticData) else "tabletop"
    return dataset_info(name).categories() or open_semantic(stage.data, run).categories


def _source(stage: Stage) -> str | None:
    """The preset that a stage trains a part of."""
    if isinstance(stage, EoMTTraining):
        return stage.network.preset if isinstance(stage.network, PresetNetwork) else None
    return stage.preset


def _preset_of(stage: Stage, categories: Sequence[DatasetCategory]) -> dict[str, Any]:
    """The preset of which a stage trains a part, with paths that lead where they did; or a closed set."""
    source = _source(stage)
    if source is not None:
        config = load_preset(source)
        values = plain(replace(config, description=f"A training of {preset_name(source)}.", expected=""))
        return {**values, "model": _absolute(values["model"], preset_folder(source))}
    assert isinstance(stage, EoMTTraining) and isinstance(stage.network, EoMTSection)
    if stage.classes == "categories":
        classes = tuple(NamedClass(one.name, one.synonyms, one.is_thing) for one in categories)
    else:
        classes = (NamedClass("thing", is_thing=True), NamedClass("stuff", is_thing=False))
    network = with_own_padding(stage)
    proposer = replace(
        network,
        architecture=replace(network.architecture, num_classes=len(classes)),
        classes=classes,
    )
    model = ClosedSetSection(network.architecture.image_size, proposer)
    return plain(PresetConfig(description="A training of one's own: its classes, and no others.", model=model))


def _absolute(values: Any, files: PresetFolder, key: str = "") -> Any:
    """A preset's values, in which what lies beside it is named by its whole path."""
    if isinstance(values, dict):
        return {name: _absolute(value, files, name) for name, value in values.items()}
    if isinstance(values, list):
        return [_absolute(value, files, key) for value in values] if key == "files" else values
    if isinstance(values, str) and key in _PATHS:
        beside = files.folder / Path(values).expanduser()
        return str(beside.resolve()) if beside.exists() else values
    return values


def _renamed(values: Any, names: Mapping[str, str], key: str = "") -> Any:
    """A preset's values, in which some checkpoints are called otherwise; also those that lay beside it."""
    if isinstance(values, dict):
        return {name: _renamed(value, names, name) for name, value in values.items()}
    if key == "checkpoint" and isinstance(values, str):
        for name, new in names.items():
            if values == name or (Path(values).is_absolute() and Path(values).name == Path(name).name):
                return new
    return values


def _entry(category: DatasetCategory) -> dict[str, Any]:
    synonyms = {"synonyms": list(category.synonyms)} if category.synonyms else {}
    return {"name": category.name, "is_thing": category.is_thing, **synonyms}
