"""`ovseg download`: a preset's public weights, fetched and verified ahead of time, so that a robot starts offline.

Files of the Hugging Face hub go to its cache, and others to that of torch.hub, where every program that uses them finds
them. An interrupted download from the hub goes on where it stopped.
"""

import hashlib
import re
import shutil
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen
from uuid import uuid4

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils.tqdm import tqdm

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.presets import PresetConfig, load_preset, preset_folder
from ovseg_ros.core.trained_weights import trained_files, training_command
from ovseg_ros.core.weights.files import checkpoint_folder, on_hub, sha256_of
from ovseg_ros.core.weights.weight_file import WeightFile
from ovseg_ros.offline.data.files import check_outputs
from ovseg_ros.offline.options import DownloadOptions

_LEAST_SHARE = 0.5  # of the stated size, which is rounded and for planning
_TIMEOUT = 30
"""Seconds without a byte after which a server is given up."""


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
        trained = trained_files(config.model)
        there = [file for file in trained if preset_folder(preset).own(file).is_file()]
        print(f"{preset}: nothing to fetch" + ("; its weights are here" if trained == there else ""))
        _say_untrained(preset, config)
        return 0
    folders = _folders(config, cache)
    if not check:
        check_outputs(folders={"--cache": cache} if cache is not None else folders, files={})
        _require_space(preset, config, cache)
    faults = 0
    for weights in config.weights:
        path = weights.cached(cache)
        if path is None and not check:
            path = _fetch(weights, cache, endpoint)
        fault = "missing" if path is None else verify(path, weights)
        if fault is not None and path is not None and not check:
            print(f"{weights.address(path.name)}: {fault}; fetching it again", file=sys.stderr)
            if weights.repo is not None:
                path.resolve().unlink()  # of the hub's cache, which keeps links to it
            path.unlink(missing_ok=True)
            path = _fetch(weights, cache, endpoint)
            fault = verify(path, weights)
            if fault is not None:
                raise CheckpointError(
                    f"{weights.address(path.name)} is {fault} after a second download; the preset's checksum is out of "
                    "date, or something between here and the hub changes files"
                )
        faults += fault is not None
        size = f"{path.stat().st_size / 1e6:.1f} MB, " if path is not None else ""
        address = weights.address(weights.name if path is None else path.name)
        print(f"{fault or 'ok'}: {address} ({size}{weights.licence})")
    if faults:
        advice = f"run: {ovseg_command()} download {preset}"
        print(f"{preset}: {faults} of {len(config.weights)} files are not usable; {advice}")
        return 1
    print(f"{preset}: complete in {' and '.join(map(str, folders.values()))}; works offline from now on")
    _say_untrained(preset, config)
    if cache is not None:
        variables = " ".join(f"{name}={cache}" for name in folders)
        print(f"so that other commands and the node look there: export {variables}")
    return 0


def verify(path: Path, weights: WeightFile) -> str | None:
    """What is wrong with a fetched file, or None.

    The content is compared with the preset's own SHA-256, if it gives one for this file, else with the checksum under
    whose name the hub's cache keeps it: SHA-256 for large files, Git's for small ones. A cache without symbolic links
    (some file systems) knows no names, nor does that of torch.hub; there only the preset's own counts, emptiness, and
    of a url whether the file is much smaller than the preset says.
    """
    size = path.stat().st_size
    if size == 0:
        return "empty"
    if weights.url is not None and size < weights.bytes * _LEAST_SHARE:
        return f"damaged or something else ({size} bytes, expected about {weights.bytes})"
    stored = path.resolve().name
    if weights.sha256 is not None and (weights.url is not None or path.name == weights.file):
        found, expected = sha256_of(path), weights.sha256
    elif re.fullmatch("[0-9a-f]{64}", stored):
        found, expected = sha256_of(path), stored
    elif re.fullmatch("[0-9a-f]{40}", stored):
        found, expected = _git_hash(path), stored
    else:
        return None
    return None if found == expected else f"damaged (checksum {found[:12]}..., expected {expected[:12]}...)"


def _fetch(weights: WeightFile, cache: Path | None, endpoint: str | None) -> Path:
    if weights.repo is not None:
        return _fetch_from_hub(weights.repo, weights, cache, endpoint)
    return _fetch_from_url(weights, weights.folder(cache) / weights.name)


def _fetch_from_url(weights: WeightFile, path: Path) -> Path:
    """Download a file to `path`, where it never is in part. Proxies are those of the environment."""
    advice = f"see to that and run the command again, or fetch the file on another machine and copy it to {path}"
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(weights.where, timeout=_TIMEOUT) as response, unfinished.open("xb") as file:
            announced = response.length
            bar = {"total": announced, "desc": path.name, "unit": "B", "unit_scale": True}
            with tqdm.wrapattr(response, "read", bytes=False, **bar) as body:
                shutil.copyfileobj(body, file, 1 << 20)
        size = unfinished.stat().st_size
        fault = verify(unfinished, weights)
        if announced is not None and size != announced:
            fault = f"cut off at {size} of {announced} bytes"
        if fault is not None:
            raise CheckpointError(f"cannot fetch {weights.where}: what arrived is {fault}; {advice}")
        return unfinished.replace(path)
    except (OSError, HTTPException, ValueError) as error:
        told = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        reason = " ".join(str(told).split()) or type(error).__name__
        raise CheckpointError(f"cannot fetch {weights.where}: {reason}; {advice}") from error
    finally:
        with suppress(OSError):  # where even the folder is no folder, there is nothing to remove
            unfinished.unlink()


def _fetch_from_hub(repository: str, weights: WeightFile, cache: Path | None, endpoint: str | None) -> Path:
    """Download a file under the first of its names that the repository has."""
    where = weights.where
    owner_name, kind = on_hub(repository)
    fetch = partial(
        hf_hub_download,
        owner_name,
        repo_type=kind,
        revision=weights.revision,
        cache_dir=cache,
        endpoint=endpoint,
        etag_timeout=10,
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
    raise CheckpointError(f"{repository} has none of {', '.join(weights.names)}; correct the preset's weights")


def _say_untrained(preset: str, config: PresetConfig) -> None:
    """What a training has yet to write."""
    for file in trained_files(config.model):
        if not preset_folder(preset).own(file).is_file():
            print(f"{preset}: {file} is nowhere to be fetched; a training writes it: {training_command(file)}")


def _folders(config: PresetConfig, cache: Path | None) -> dict[str, Path]:
    """Where a preset's files go, by the variable that has a say in it."""
    hub = {"HF_HUB_CACHE": cache or Path(constants.HF_HUB_CACHE)}
    others = {"TORCH_HOME": checkpoint_folder(cache)}
    on_hub = {weights.repo is not None for weights in config.weights}
    return (hub if True in on_hub else {}) | (others if False in on_hub else {})


def _require_space(preset: str, config: PresetConfig, cache: Path | None) -> None:
    needed: Counter[int] = Counter()  # bytes by file system
    places = {}
    for weights in config.weights:
        if weights.cached(cache) is None:
            folder = weights.folder(cache).absolute()
            existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
            device = existing.stat().st_dev
            needed[device] += weights.bytes
            places[device] = existing
    for device, place in places.items():
        free = shutil.disk_usage(place).free
        if needed[device] > free:
            raise CheckpointError(
                f"{preset} needs {needed[device] / 1e9:.1f} GB in {place}, where {free / 1e9:.1f} GB are free; make "
                "room, or give another folder with --cache"
            )


def _git_hash(path: Path) -> str:
    """The name that Git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
