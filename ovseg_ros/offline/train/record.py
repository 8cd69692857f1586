"""What a run was begun with: kept in its folder, and compared with what it is to go on with."""

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.version import VERSION
from ovseg_ros.offline.data.files import sha256_of
from ovseg_ros.offline.data.open import dataset_info, dataset_root
from ovseg_ros.offline.train.clip import ClipTraining
from ovseg_ros.offline.train.data import PanopticData, open_data
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.eomt import EoMTTraining, PresetNetwork, network_of
from ovseg_ros.offline.train.fisa import FisaTraining
from ovseg_ros.offline.train.state import FREE_TO_CHANGE

RECORD_NAME = "run.yaml"
Stage = EoMTTraining | ClipTraining | FisaTraining

_FREE = FREE_TO_CHANGE | {"mixed_precision", "workers", "on_error", "preset", "version", "command"}
"""Keys that may change. A preset may be called or lie otherwise: what it says is compared, in `models`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, config=STRICT)
class Record:
    """What a recipe does not say of a run.

    Attributes:
        version: of the package.
        command: as it was typed.
        data: by stage, the data set's index with the first digits of its SHA-256; rendered views follow from the
            recipe and the version.
        models: by stage, what its preset says.
    """

    version: str
    command: str
    data: dict[str, str]
    models: dict[str, Any]


def record_of(stages: tuple[Stage, ...], run: Run) -> Record:
    """Of this process's run.

    Raises:
        ConfigError, DatasetError: a preset is missing or malformed, or a data set's index is missing.
    """
    data: dict[str, str] = {}
    models: dict[str, Any] = {}
    for stage in stages:
        if isinstance(stage, EoMTTraining):
            if isinstance(stage.network, PresetNetwork):
                models[stage.kind] = plain(network_of(stage.network))
        else:
            models[stage.kind] = plain(load_preset(stage.preset).model)
        if not isinstance(stage, ClipTraining) and isinstance(stage.data, PanopticData):
            data[stage.kind] = _index_digest(stage.data, run)
    return Record(VERSION, shlex.join(sys.argv), data, models)


def _index_digest(data: PanopticData, run: Run) -> str:
    info = dataset_info(data.dataset)
    index = info.layout.parts(data.split)[0].place(dataset_root(data.dataset, run.data))
    if not index.is_file():
        open_data(data, run)  # says what is missing
    return f"{index.name}, SHA-256 {sha256_of(index)[:16]}"


def plain(config: Any) -> dict[str, Any]:
    """A configuration in values of JSON's types: tuples as lists, as they come back from a file."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def differences(was: Any, now: Any, where: str = "") -> Iterator[str]:
    """What of two plain recipes differs and matters, in words, such as "stages[0].data.split was 'train', is 'val'"."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for key in {**was, **now}:
            if key not in _FREE:
                yield from differences(was.get(key), now.get(key), f"{where}.{key}".removeprefix("."))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from differences(old, new, f"{where}[{index}]")
    elif was != now:
        yield f"{where} was {_short(was)}, is {_short(now)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
