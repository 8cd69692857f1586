"""What a run was begun with: kept in its folder, and compared with what it is to go on with."""

import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.presets import (
    description_paths,
    load_preset,
    preset_folder,
    require_weights,
    scored_section,
    section_paths,
    two_stage,
    with_untrained_scorer,
)
from ovseg_ros.core.version import VERSION
from ovseg_ros.core.weights.files import find_weights, read_safetensors, sha256_of
from ovseg_ros.offline.data.open import dataset_info, dataset_root, require_split
from ovseg_ros.offline.train.begin import eomt_files
from ovseg_ros.offline.train.clip import ClipTraining
from ovseg_ros.offline.train.data import PanopticData, open_semantic
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.eomt import EoMTTraining, PresetNetwork, network_of
from ovseg_ros.offline.train.fisa import FisaTraining, begun_fisa
from ovseg_ros.offline.train.lmseg import LMSegTraining
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.omtseg import OMTSegTraining, omtseg_section
from ovseg_ros.offline.train.pmp import PmpTraining, begun_guidance, guided_section
from ovseg_ros.offline.train.pretrained_stem import stem_weights_file
from ovseg_ros.offline.train.state import FREE_TO_CHANGE

RECORD_NAME = "run.yaml"
Stage = EoMTTraining | ClipTraining | FisaTraining | PmpTraining | OMTSegTraining | LMSegTraining

_FREE = FREE_TO_CHANGE | {
    "mixed_precision", "workers", "on_error", "validation", "preset", "version", "command", "sessions",
}  # fmt: skip
"""Keys that may change. A preset may be called or lie otherwise: what it says is compared, in `models`."""


@dataclass(frozen=True, slots=True, config=STRICT)
class LoopSession:
    """What a session asked of a loop: to go on from `begun_at`, to `steps`, each share of a batch in `parts`."""

    begun_at: int
    steps: int
    parts: int


@dataclass(frozen=True, slots=True, config=STRICT)
class Session:
    """A start of a run, the first or a later one.

    Attributes:
        version, command: of the package; as it was typed.
        device: of the first process.
        precision: one of `PRECISIONS`.
        processes: how many there were.
        loops: by the loop's folder.
    """

    version: str
    command: str
    device: str
    precision: str
    processes: int
    loops: dict[str, LoopSession]


@dataclass(frozen=True, slots=True, config=STRICT)
class Record:
    """What a recipe does not say of a run.

    Attributes:
        version, command: of the first session.
        data: by stage, the data set's index with the first digits of its SHA-256, or the number of images and those of
            their names; rendered views follow from the recipe and the version.
        models: by stage, what its preset says.
        weights: by stage, the files that it reads, frozen or to begin with, and the first digits of their SHA-256; None
            in the records of older versions.
        sessions: every start of the run; none of those that older versions made.
    """

    version: str
    command: str
    data: dict[str, str]
    models: dict[str, Any]
    weights: dict[str, tuple[str, ...]] | None = None
    sessions: tuple[Session, ...] = ()


def loops_of(stages: Sequence[Stage]) -> dict[str, LoopConfig]:
    """Every loop, by the folder of its state."""
    loops = {}
    for stage in stages:
        for field in fields(stage):
            loop = getattr(stage, field.name)
            if isinstance(loop, LoopConfig):
                loops[stage.kind if field.name == "loop" else f"{stage.kind}_{field.name}"] = loop
    return loops


def record_of(stages: tuple[Stage, ...], run: Run, *, results: Mapping[str, str], done: Mapping[str, int]) -> Record:
    """Of this process's run, and of this one session.

    Args:
        results: by stage, what its checkpoint is called.
        done: steps, by the folder of a loop that was begun.

    Raises:
        ConfigError, DatasetError: a preset is missing or malformed, or a data set is.
        CheckpointError: weights are missing.
    """
    data: dict[str, str] = {}
    models: dict[str, Any] = {}
    trained = {run.result(name).resolve() for name in results.values()}
    weights: dict[str, tuple[str, ...]] = {
        stage.kind: tuple(_digest(path) for path in paths if path.resolve() not in trained)
        for stage, paths in zip(stages, _weights_read(stages), strict=True)
    }
    loops = {
        name: LoopSession(done.get(name, 0), loop.steps, loop.gradient_accumulation)
        for name, loop in loops_of(stages).items()
    }
    command, engine = f"{ovseg_command()} {shlex.join(sys.argv[1:])}", run.engine
    session = Session(VERSION, command, str(engine.device), engine.precision, engine.world, loops)
    for stage in stages:
        if isinstance(stage, EoMTTraining):
            if isinstance(stage.network, PresetNetwork):
                models[stage.kind] = plain(network_of(stage.network))
        else:
            models[stage.kind] = plain(load_preset(stage.preset).model)
        if not isinstance(stage, ClipTraining) and isinstance(stage.data, PanopticData):
            data[stage.kind] = _data_digest(stage.data, run)
    return Record(VERSION, command, data, models, weights, (session,))


def _weights_read(stages: Sequence[Stage]) -> Iterator[Sequence[Path]]:
    """The weight files of each stage that it reads and does not write: frozen ones, and those that it begins with."""
    trains_generator = False
    for stage in stages:
        match stage:
            case EoMTTraining():
                trains_generator = True
                if stage.begins_with is not None:
                    yield eomt_files(stage.begins_with)
                    continue
                encoder = find_weights(stage.encoder_weights).shards if stage.encoder_weights is not None else ()
                yield (*encoder, *([stem_weights_file(stage.stem_weights)] if stage.stem_weights is not None else ()))
            case ClipTraining():
                files, model = preset_folder(stage.preset), two_stage(stage.preset)
                proposes = stage.adaptation is not None and not trains_generator
                yield section_paths(files, model.proposer) if proposes else ()
            case OMTSegTraining():
                require_weights(stage.preset, load_preset(stage.preset))
                untrained_network = replace(omtseg_section(stage.preset), checkpoint=None)
                yield section_paths(preset_folder(stage.preset), untrained_network)
            case LMSegTraining():
                require_weights(stage.preset, with_untrained_scorer(stage.preset))
                scored, scorer = scored_section(stage.preset)
                read = section_paths(preset_folder(stage.preset), scored.clip, replace(scorer, checkpoint=None))
                yield (*read, *description_paths(stage.preset))
            case FisaTraining():
                require_weights(stage.preset, load_preset(stage.preset))
                model, begun = two_stage(stage.preset), begun_fisa(stage.preset, stage.begins_with)
                read = section_paths(preset_folder(stage.preset), model.proposer, model.clip)
                yield (*read, *((begun,) if begun is not None else ()), *description_paths(stage.preset))
            case PmpTraining():
                require_weights(stage.preset, load_preset(stage.preset))
                begun = begun_guidance(stage.preset, stage.begins_with)
                masks = replace(guided_section(stage.preset), checkpoint=str(begun) if begun is not None else None)
                read = section_paths(preset_folder(stage.preset), masks, two_stage(stage.preset).clip)
                yield (*read, *description_paths(stage.preset))


def _digest(weights: Path) -> str:
    if not weights.is_file():
        read_safetensors(weights)  # says what is missing
    return f"{weights.name}, SHA-256 {sha256_of(weights)[:16]}"


def _data_digest(data: PanopticData, run: Run) -> str:
    """Of the index or, where there is none, of the images' names; and of what somebody's own data set's file says."""
    info = dataset_info(data.dataset)
    require_split(info, data.split)
    file = f"{info.file.name}, SHA-256 {info.digest[:16]}; " if info.is_own else ""
    index = info.index(data.split)
    if index is None:
        dataset = open_semantic(data, run)
        names = "\n".join(dataset.name_of(index) for index in range(len(dataset)))
        return f"{file}{len(dataset)} images, SHA-256 {hashlib.sha256(names.encode()).hexdigest()[:16]}"
    path = index.place(dataset_root(info, run.data))
    if not path.is_file():
        open_semantic(data, run)  # says what is missing
    return f"{file}{path.name}, SHA-256 {sha256_of(path)[:16]}"


def plain(config: Any) -> dict[str, Any]:
    """A configuration in values of JSON's types: tuples as lists, as they come back from a file."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def differences(was: Any, now: Any, where: str = "") -> Iterator[str]:
    """What of two plain recipes differs and matters, in words, such as "stages[0].data.split was 'train', is 'val'"."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        if was.get("kind") != now.get("kind"):  # then so does all else
            yield f"{where}.kind was {was.get('kind')!r}, is {now.get('kind')!r}".removeprefix(".")
            return
        for key in {**was, **now}:
            if key not in _FREE:
                yield from differences(was.get(key), now.get(key), f"{where}.{key}".removeprefix("."))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from differences(old, new, f"{where}[{index}]")
    elif isinstance(was, list) and isinstance(now, list) and all(isinstance(entry, Mapping) for entry in was + now):
        yield f"{where}: {_number(was)}, now {_number(now)}"
    elif was != now:
        yield f"{where} was {_short(was)}, is {_short(now)}"


def _number(sections: Sequence[Mapping[str, Any]]) -> str:
    kinds = [str(section["kind"]) for section in sections if "kind" in section]
    return f"{len(sections)} ({', '.join(kinds)})" if kinds else f"{len(sections)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
