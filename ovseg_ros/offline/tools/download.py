"""`ovseg download`: a preset's public weights, fetched and verified ahead of time, so that a robot starts offline.

Files go to the cache of the Hugging Face hub, where every program that uses it finds them. An interrupted download goes
on where it stopped.
"""

import hashlib
import re
import shutil
import sys
from functools import partial
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.presets import PresetConfig, WeightFile, load_preset
from ovseg_ros.offline.data.files import check_outputs, sha256_of
from ovseg_ros.offline.options import DownloadOptions


def download(options: DownloadOptions, *, endpoint: str | None = None) -> int:
    """Fetch what is missing of a preset's weights and verify all of it.

    Args:
        endpoint: the hub's address; None takes HF_ENDPOINT, or huggingface.co.

    Returns:
        The exit code: 0 if everything is there and intact, 1 if --check found something missing or damaged.

    Raises:
        ConfigError: for a missing or malformed preset.
        CheckpointError: if a file cannot be fetched, with the reason in one sentence.
    """
    preset, cache, check = options.preset, options.cache, options.check
    config = load_preset(preset)
    if not config.weights:
        print(f"{preset}: nothing to fetch; its weights come with the package")
        return 0
    if not check:
        check_outputs(folders={"--cache": cache or Path(constants.HF_HUB_CACHE)}, files={})
        _require_space(preset, config, cache)
    faults = 0
    for weights in config.weights:
        path = weights.cached(cache)
        if path is None and not check:
            path = _fetch(weights, cache, endpoint)
        fault = "missing" if path is None else verify(path, weights)
        if fault is not None and path is not None and not check:
            print(f"{weights.repo}/{path.name}: {fault}; fetching it again", file=sys.stderr)
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            path = _fetch(weights, cache, endpoint)
            fault = verify(path, weights)
            if fault is not None:
                raise CheckpointError(
                    f"{weights.repo}/{path.name} is {fault} after a second download; the preset's checksum is out of "
                    "date, or something between here and the hub changes files"
                )
        faults += fault is not None
        size = f"{path.stat().st_size / 1e6:.1f} MB, " if path is not None else ""
        found = weights.file if path is None else path.name
        print(f"{fault or 'ok'}: {weights.repo}/{found} ({size}{weights.licence})")
    folder = cache or Path(constants.HF_HUB_CACHE)
    if faults:
        advice = f"run: {ovseg_command()} download {preset}"
        print(f"{preset}: {faults} of {len(config.weights)} files are not usable; {advice}")
        return 1
    print(f"{preset}: complete in {folder}; works offline from now on")
    if cache is not None:
        print(f"so that other commands and the node look there: export HF_HUB_CACHE={folder}")
    return 0


def verify(path: Path, weights: WeightFile) -> str | None:
    """What is wrong with a fetched file, or None.

    The content is compared with the preset's own SHA-256, if it gives one for this file, else with the checksum under
    whose name the hub's cache keeps it: SHA-256 for large files, Git's for small ones. A cache without symbolic links
    (some file systems) knows no names; there only the preset's own counts, and emptiness.
    """
    if path.stat().st_size == 0:
        return "empty"
    stored = path.resolve().name
    if weights.sha256 is not None and path.name == weights.file:
        found, expected = sha256_of(path), weights.sha256
    elif re.fullmatch("[0-9a-f]{64}", stored):
        found, expected = sha256_of(path), stored
    elif re.fullmatch("[0-9a-f]{40}", stored):
        found, expected = _git_hash(path), stored
    else:
        return None
    return None if found == expected else f"damaged (checksum {found[:12]}..., expected {expected[:12]}...)"


def _fetch(weights: WeightFile, cache: Path | None, endpoint: str | None) -> Path:
    """Download a file under the first of its names that the repository has."""
    where = f"{weights.file} of {weights.repo}"
    fetch = partial(
        hf_hub_download, weights.repo, revision=weights.revision, cache_dir=cache, endpoint=endpoint, etag_timeout=10
    )
    for name in weights.names:
        try:
            return Path(fetch(name))
        except LocalEntryNotFoundError as error:
            cause = str(error.__cause__ or "offline mode is on").splitlines()[0]
            raise CheckpointError(
                f"cannot fetch {where}: the hub {endpoint or constants.ENDPOINT} cannot be reached ({cause}); connect "
                "to the network, or copy the cache folder of a machine that has it"
            ) from error
        except EntryNotFoundError:
            continue
        except GatedRepoError as error:
            raise CheckpointError(
                f"cannot fetch {where}: the repository asks for an agreement; accept it on its page, then run: "
                "hf auth login"
            ) from error
        except RepositoryNotFoundError as error:
            raise CheckpointError(
                f"cannot fetch {where}: there is no such public repository; correct the preset's weights"
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"the download of {where} was interrupted ({reason}); run the command again, it goes on from there"
            ) from error
    raise CheckpointError(f"{weights.repo} has none of {', '.join(weights.names)}; correct the preset's weights")


def _require_space(preset: str, config: PresetConfig, cache: Path | None) -> None:
    needed = sum(weights.bytes for weights in config.weights if weights.cached(cache) is None)
    folder = (cache or Path(constants.HF_HUB_CACHE)).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CheckpointError(
            f"{preset} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; make room, or give "
            "another folder with --cache"
        )


def _git_hash(path: Path) -> str:
    """The name that Git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
