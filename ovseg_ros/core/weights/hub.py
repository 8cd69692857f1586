"""Weight files by name: a file, a folder, or a repository in the local cache of the Hugging Face hub.

Nothing here uses the network; `ovseg download` does.
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from ovseg_ros.core.errors import CheckpointError

_HUB_PREFIX = "hf-hub:"


def find_file(source: str, names: Sequence[str], *, revision: str | None = None) -> Path:
    """The first of `names` that `source` holds.

    Args:
        source: path of a file; path of a folder; or a hub repository, as "owner/name" or "hf-hub:owner/name".
        names: file names to look for in a folder or repository, the preferred one first.
        revision: branch, tag or commit of the repository; None is its main branch.

    Raises:
        CheckpointError: if there is none, with where it was looked for and the command that fetches it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        for name in names:
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"the folder {path} holds none of {', '.join(names)}; put one of them there")
    repository = source.removeprefix(_HUB_PREFIX)
    if not is_repository(source):
        raise CheckpointError(
            f"the weights {source!r} are missing: there is no such file or folder, and a hub repository is written "
            "owner/name"
        )
    for name in names:
        if cached := cached_file(repository, name, revision=revision):
            return cached
    raise CheckpointError(
        f"the file {names[0]} of {repository} is missing: looked for it in {repository_folder(repository)}; "
        f"fetch it with: ovseg download PRESET, or: hf download {repository} {names[0]}"
    )


def is_repository(source: str) -> bool:
    """Whether `source` is written like a hub repository, "owner/name"."""
    parts = source.removeprefix(_HUB_PREFIX).split("/")
    return len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~")


def cached_file(repository: str, name: str, *, revision: str | None = None, cache: Path | None = None) -> Path | None:
    """A repository's file in the local cache, or None; `cache` defaults to the hub's own (HF_HUB_CACHE)."""
    try:
        found = try_to_load_from_cache(repository, name, cache_dir=cache or constants.HF_HUB_CACHE, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def repository_folder(repository: str, cache: Path | None = None) -> Path:
    """Where the local cache keeps a repository."""
    return Path(cache or constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
