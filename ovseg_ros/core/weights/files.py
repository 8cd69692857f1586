"""Public weights: where a checkpoint's files are, and what is in them. Nothing here uses the network.

Weights stay in the file, mapped into memory, until they are used: opening a checkpoint costs no memory of its size.
"""

import argparse
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.errors import CheckpointError

# Safetensors come first: they hold no code.
TRANSFORMERS_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weight files, or indices of their shards, as transformers writes them, the preferred one first."""

_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")
_HUB_PREFIX = "hf-hub:"
_SPACES = "spaces"
"""What an address on the hub begins with, if it is not of a model's repository."""


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

    @property
    def where(self) -> str:
        """The source and its file, for messages."""
        name = self.shards[0].name
        return self.source if self.source.endswith(name) else f"{self.source} ({name})"


def find_weights(source: str, names: Sequence[str] = TRANSFORMERS_NAMES) -> WeightFiles:
    """Find a checkpoint on this machine.

    Args:
        source: a file (.safetensors, .bin, .ckpt, .pt, .pth, or an index.json of shards) as `find_file` takes it; a
            folder that holds one; or a hub repository, "owner/name" or "hf-hub:owner/name", or a file of a hub's space,
            "spaces/owner/name/file", looked for in the local cache of huggingface_hub. An existing path wins over a
            repository. A config.json beside the weights is read.
        names: file names to look for in a folder or repository, the preferred one first. A folder may instead hold
            exactly one weight file of any name.

    Raises:
        CheckpointError: nothing is there, with where it was looked for and the command that fetches it; or a shard is
            missing.
    """
    path = Path(source).expanduser()
    repository = repository_of(source)
    if path.is_dir():
        file = _weights_in(path, names)
    elif path.is_file() or repository is None:
        file = find_file(source)
    else:
        names = [source.removeprefix(f"{repository}/")] if repository.startswith(f"{_SPACES}/") else names
        cached = cached_file(repository, names)
        if cached is None:
            owner_name, kind = on_hub(repository)
            raise CheckpointError(
                f"the file {names[0]} of {repository} is missing: there is no folder {source}, and the hub's cache has "
                f"none in {repository_folder(repository)}; fetch it with: {ovseg_command()} download PRESET, or: hf "
                f"download {owner_name}{'' if kind == 'model' else f' --repo-type {kind}'}"
            )
        file = cached
    settings = file.parent / "config.json"
    # PyTorch keeps files of all origins in one folder: whose settings lie there, nobody knows.
    is_described = settings.is_file() and file.parent != checkpoint_folder()
    return WeightFiles(source, _shards(file), _read_json(settings) if is_described else {})


def find_file(source: str) -> Path:
    """Find a file of any kind on this machine.

    Args:
        source: its path; or its bare name, looked for in `checkpoint_folder` too.

    Raises:
        CheckpointError: it is not there, with where it was looked for and what to do.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    fetched = checkpoint_folder() / source
    if path.name != source:
        raise CheckpointError(
            f"the checkpoint {source!r} is not there: there is no such file or folder, and a hub repository is written "
            f"owner/name, such as tue-mps/coco_panoptic_eomt_large_640; correct the path"
        )
    if not fetched.is_file():
        raise CheckpointError(
            f"the checkpoint {source!r} is not there: there is no such file or folder here, and none in "
            f"{fetched.parent}; fetch it with: {ovseg_command()} download PRESET, or give its path, or a hub "
            f"repository, which is written owner/name"
        )
    return fetched


def checkpoint_folder(cache: Path | None = None) -> Path:
    """Where torch.hub keeps the files that it fetches, and this package those that are not on the Hugging Face hub.

    Args:
        cache: a folder in place of TORCH_HOME.
    """
    return (Path(torch.hub.get_dir()) if cache is None else cache / "hub") / "checkpoints"


def repository_of(source: str) -> str | None:
    """The hub repository, "owner/name", if `source` is written like one, or "spaces/owner/name" of a space's file; else
    None.
    """
    repository = source.removeprefix(_HUB_PREFIX)
    parts = repository.split("/")
    if len(parts) > 3 and all(parts) and parts[0] == _SPACES:
        return "/".join(parts[:3])
    return repository if len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~") else None


def on_hub(repository: str) -> tuple[str, str]:
    """A repository's "owner/name" and type, "model" or "space", as huggingface_hub takes them."""
    space = repository.removeprefix(f"{_SPACES}/")
    return (space, "space") if space != repository else (repository, "model")


def cached_file(
    repository: str, names: Sequence[str], *, revision: str | None = None, cache: Path | None = None
) -> Path | None:
    """The first of `names` that the local cache has of a repository; None if it has none.

    Args:
        repository: as `repository_of` writes it.
        revision: branch, tag or commit; None is the main branch.
        cache: its folder; None is the hub's own (HF_HUB_CACHE).
    """
    owner_name, kind = on_hub(repository)
    for name in names:
        try:
            found = try_to_load_from_cache(
                owner_name, name, cache_dir=cache or constants.HF_HUB_CACHE, revision=revision, repo_type=kind
            )
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found)
    return None


def repository_folder(repository: str, cache: Path | None = None) -> Path:
    """Where the local cache, or another folder in its place, keeps a repository."""
    owner_name, kind = on_hub(repository)
    return (cache or Path(constants.HF_HUB_CACHE)) / f"{kind}s--{owner_name.replace('/', '--')}"


def read_weights(files: WeightFiles) -> dict[str, Tensor]:
    """All tensors of a checkpoint by the names it gives them, on the CPU, in the type they have in the file.

    A checkpoint of a training is reduced to its `state_dict` (Lightning) or `model`. Pickled files are read with
    `weights_only`: they cannot run code.

    Raises:
        CheckpointError: a file is damaged, or holds something else than named tensors.
    """
    state: dict[str, Tensor] = {}
    for shard in files.shards:
        part = read_safetensors(shard) if shard.suffix == ".safetensors" else _read_pickle(shard)
        twice = state.keys() & part.keys()
        if twice:
            raise CheckpointError(f"{shard} repeats {len(twice)} keys of another shard, such as {min(twice)}")
        state |= part
    return state


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; CheckpointError if it is missing or unreadable."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"the checkpoint {path} {found}; install the package again, correct the path in the preset, or wait for "
            "the stage of the training that writes it"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file: {error}; it has {path.stat().st_size} bytes and may be cut "
            f"off, download or write it again"
        ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _weights_in(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file())
    if len(others) != 1:
        found = f"{len(others)} ({', '.join(path.name for path in others)})" if others else "none"
        raise CheckpointError(
            f"the folder {folder} holds none of {', '.join(names)}, and instead of exactly one file ending in "
            f"{', '.join(_SUFFIXES)}, found {found}; name the file itself"
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


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # A training's options, which many keep beside the weights, run no code either.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError, LookupError) as error:
        first_line = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is not a readable PyTorch file of tensors only: {first_line}; "
            f"it may be cut off (download it again) or hold more than weights (save its state_dict alone)"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(f"{path} does not hold named tensors, nor a state_dict or model of them")
    return dict(content)
