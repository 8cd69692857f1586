"""Where a published checkpoint's files are, and what is in them: a hub name, a folder or a file; never the network.

Weights stay in the file, mapped into memory, until they are used: opening a checkpoint costs no memory of its size.
"""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovseg_ros.core.errors import CheckpointError

# The first that is there counts: safetensors holds no code and is what transformers writes.
_FILE_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = frozenset({".safetensors", ".bin", ".ckpt", ".pt", ".pth"})
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one checkpoint.

    Attributes:
        source: what was asked for.
        shards: the weight files, at least one; their keys do not overlap.
        settings: what its config.json holds; empty without one.
    """

    source: str
    shards: tuple[Path, ...]
    settings: Mapping[str, Any]


def find_weights(source: str) -> WeightFiles:
    """Find a checkpoint.

    Args:
        source: a file (.safetensors, .bin, .ckpt, .pt, .pth, or an index.json of shards), a folder that holds one, or a
            hub name such as "tue-mps/coco_panoptic_eomt_large_640", looked for in the cache of huggingface_hub only.
            An existing path wins over a hub name. A config.json beside the weights is read.

    Raises:
        CheckpointError: nothing is there, with where it was looked for and the command that fetches it; or a shard is
            missing.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        file = _weights_in(path)
    elif path.is_file():
        file = path
    elif _HUB_NAME.fullmatch(source):
        cached = cached_weights(source)
        if cached is None:
            raise CheckpointError(
                f"the weights of {source} ({_FILE_NAMES[0]} or {_FILE_NAMES[2]}) are not on this machine: there is no "
                f"folder {source}, and the hub cache {constants.HF_HUB_CACHE} has none; fetch them with "
                f"'hf download {source}'"
            )
        file = cached
    else:
        raise CheckpointError(
            f"the checkpoint {source!r} is not there: expected a file, a folder or a hub name such as "
            f"tue-mps/coco_panoptic_eomt_large_640; correct the path"
        )
    return WeightFiles(source, _shards(file), _settings(file.parent / "config.json"))


def cached_weights(hub_name: str) -> Path | None:
    """A hub repository's weight file, or the index of its shards, in the local cache; None if it was not fetched."""
    for name in _FILE_NAMES:
        found = try_to_load_from_cache(hub_name, name)
        if isinstance(found, str):
            return Path(found)
    return None


def read_weights(files: WeightFiles) -> dict[str, Tensor]:
    """All tensors of a checkpoint by the names it gives them, on the CPU, in the type they have in the file.

    A Lightning checkpoint is reduced to its `state_dict`. Pickled files are read with `weights_only`: they cannot run
    code.

    Raises:
        CheckpointError: a file is damaged, or holds something else than named tensors.
    """
    state: dict[str, Tensor] = {}
    for shard in files.shards:
        part = _read_safetensors(shard) if shard.suffix == ".safetensors" else _read_pickle(shard)
        twice = state.keys() & part.keys()
        if twice:
            raise CheckpointError(f"{shard} repeats {len(twice)} keys of another shard, such as {min(twice)}")
        state |= part
    return state


def _weights_in(folder: Path) -> Path:
    for name in _FILE_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if len(others) != 1:
        found = f"{len(others)} weight files ({', '.join(path.name for path in others)})" if others else "none"
        raise CheckpointError(
            f"{folder} should hold {' or '.join(_FILE_NAMES)}, or exactly one file ending in "
            f"{', '.join(sorted(_SUFFIXES))}; found {found}; name the file itself"
        )
    return others[0]


def _shards(file: Path) -> tuple[Path, ...]:
    if file.suffix != ".json":
        return (file,)
    index = _read_json(file).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{file} is no index of weight files: it has no weight_map")
    shards = tuple(file.parent / str(name) for name in sorted(set(index.values())))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{file} names {len(shards)} weight files, of which {', '.join(missing)} are missing in {file.parent}; "
            f"download the checkpoint again"
        )
    return shards


def _settings(path: Path) -> Mapping[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is not a readable safetensors file: {error}; it may be cut off, "
            f"download it again"
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError, LookupError) as error:
        first_line = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is not a readable PyTorch file of tensors only: {first_line}; "
            f"it may be cut off (download it again) or hold more than weights (save its state_dict alone)"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(f"{path} does not hold named tensors, nor a state_dict of them")
    return dict(content)
