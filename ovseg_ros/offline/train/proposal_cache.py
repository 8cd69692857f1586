"""Proposals of a frozen mask generator on disk, so that every image goes through it once, before a training begins.

A file holds those masks of one image that a classifier reads, the likeliest first, as logits of 23 levels, compressed.
Folders are named by what they depend on: the generator's weights, the data set, the input size, which masks a
classifier reads, the words that guide the generator, if any do, and how masks are packed.
"""

import hashlib
import io
import logging
import math
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ovseg_ros.core.errors import DatasetError, TrainingError
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.files import digest_of, read_json, write_bytes, write_json
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_LIMIT = 12.0
"""Logits beyond this are cut: the sigmoid differs from 0 or 1 by 6e-6 there."""
_LEVELS = 11
"""On each side of 0."""
_FINE = 0.25
"""Levels lie evenly on the scale asinh(logit / this): 0.1 apart around 0, where a mask ends, 4 apart at the limit."""
_DENSITY = _LEVELS / math.asinh(_LIMIT / _FINE)
_PACKING = f"{_LEVELS} levels of asinh below {_LIMIT:g}, zstd"
_EFFORT = 6
"""Of zstd: 16 to 27 ms for 100 masks; less saves half of it, and makes files a tenth larger."""
_IMAGES_AHEAD = 2
"""For each thread, images that wait for the generator or to be written."""

logger = logging.getLogger(__name__)


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over a module's state, names and values, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def words_hash(vocabulary: Vocabulary) -> str:
    """SHA-256 over every name and synonym of a vocabulary, in order, in hexadecimal digits."""
    return digest_of([[category.name, *category.synonyms] for category in vocabulary.categories])


class ProposalCache:
    """The masks that are read of a generator's proposals, by image name; safe to use from several threads and processes
    at once."""

    def __init__(
        self,
        folder: Path,
        proposer: str,
        images: str,
        size: tuple[int, int],
        *,
        max_masks: int,
        min_objectness: float,
        words: str | None = None,
    ) -> None:
        """Opens or makes this cache's folder, with `key.json` that says what it holds.

        Args:
            folder: of all caches.
            proposer: `weights_hash` of the proposer.
            images: says which, as data set and split do.
            size: (height, width) of the proposer's input, pixels.
            max_masks, min_objectness: of the classifier, which reads no others.
            words: `words_hash` of those that guide the proposer; None if none do.

        Raises:
            DatasetError: the folder holds something else.
        """
        key: dict[str, Any] = {
            "proposer": proposer,
            "dataset": images,
            "size": list(size),
            "max_masks": max_masks,
            "min_objectness": min_objectness,
            "packing": _PACKING,
        }
        if words is not None:
            key["words"] = words
        self.folder = folder / f"{digest_of(list(key.values()), 16)}-{size[0]}x{size[1]}"
        path = self.folder / "key.json"
        if not path.exists():
            write_json(path, key)
        found = read_json(path, "delete its folder")
        if found != key:
            raise DatasetError(f"{self.folder} holds the proposals of {found}, not of {key}; delete it")

    def fill(
        self,
        dataset: PanopticDataset,
        indices: Sequence[int],
        propose: Callable[[np.ndarray], Tensor],
        *,
        threads: int = 1,
        skip_damaged: bool = True,
        quiet: bool = False,
    ) -> int:
        """Compute the proposals of those images that have none yet, or whose file is torn.

        Args:
            propose: gives the mask logits (M, h, w) that are read of an image, uint8 RGB; called by this thread alone.
            threads: that read images and write proposals meanwhile.

        Returns:
            How many of the images cannot be trained on, damaged or without any label, and have no proposals.

        Raises:
            DatasetError: a damaged image, unless such are skipped.
            TrainingError: proposals cannot be written.
        """

        def read(index: int) -> PanopticSample | None:
            try:
                sample = dataset[index]
            except DatasetError:
                if not skip_damaged:
                    raise
                return None
            return None if sample.is_void else sample

        missing = [index for index in indices if dataset.name_of(index) not in self]
        unusable, ahead = 0, _IMAGES_AHEAD * threads
        if missing and not quiet:
            todo = f"{len(missing)} of {len(indices)} images go through the mask generator first"
            print(f"proposals: {todo}; kept in {self.folder}, 0.3 MB each or less as a rule", flush=True)
            self._warn_of_old()
        reads: deque[Future[PanopticSample | None]] = deque()
        writes: deque[Future[None]] = deque()
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(missing), desc="proposals", unit="image", mininterval=5, disable=quiet) as bar,
        ):
            try:
                for turn in range(len(missing) + ahead):
                    if turn < len(missing):
                        reads.append(pool.submit(read, missing[turn]))
                    if turn < ahead or not reads:
                        continue
                    sample = reads.popleft().result()
                    if sample is None:
                        unusable += 1
                    else:
                        writes.append(pool.submit(self.write, sample.name, propose(sample.image)))
                    bar.update()
                    if len(writes) > ahead:
                        writes.popleft().result()
                for write in writes:
                    write.result()
            except BaseException:
                for waiting in reads:
                    waiting.cancel()
                raise
        return unusable

    def write(self, name: str, masks: Tensor) -> None:
        """Keep mask logits (M, h, w) of the image `name`; TrainingError if that fails."""
        try:
            write_bytes(self._path(name), _pack(masks))
        except OSError as error:
            raise TrainingError(
                f"cannot keep the proposals of {name} in {self.folder}: {error}; free some space and run the same "
                "command again, which goes on from what is there"
            ) from error

    def read(self, name: str) -> Tensor:
        """The masks of the image `name`, (M, h, w) int8 on the CPU, for `to_logits`; DatasetError if damaged."""
        path = self._path(name)
        try:
            return _unpack(path.read_bytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zstd.ZstdError) as error:
            raise DatasetError(
                f"cannot read the proposals of {name} ({error}); delete {path} and run the same command again, which "
                "computes them"
            ) from error

    def _warn_of_old(self) -> None:
        """Say which folders beside this one hold what an older version kept, and nothing reads any more."""
        keys = [path for path in self.folder.parent.glob("*/key.json") if path.parent != self.folder]
        old = [path.parent.name for path in keys if read_json(path, "delete its folder").get("packing") != _PACKING]
        if old:
            logger.warning(
                "an older version kept proposals in %s, below %s; this one computes them anew, much smaller, and does "
                "not read those; delete them",
                ", ".join(sorted(old)),
                self.folder.parent,
            )

    def __contains__(self, name: str) -> bool:
        """Whether the proposals of an image are there and whole."""
        path = self._path(name)
        is_whole = zipfile.is_zipfile(path)
        if not is_whole and path.exists():
            logger.warning("the proposals of %s are computed again: %s is torn", name, path)
        return is_whole

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()  # names may hold slashes, dots and anything else
        return self.folder / digest[:2] / f"{digest[2:34]}.npz"


def to_levels(masks: Tensor) -> Tensor:
    """Logits of any shape as the nearest levels, int8 on their device; their sign is kept, that of 0 included."""
    logits = masks.detach().float()
    levels = (torch.asinh(logits / _FINE) * _DENSITY).round().clamp(-_LEVELS, _LEVELS)
    return torch.where(levels == 0, logits.sign(), levels).to(torch.int8)


def to_logits(levels: Tensor) -> Tensor:
    """Float32 logits of levels of any shape, on their device."""
    return torch.sinh(levels.float() / _DENSITY) * _FINE


def _pack(masks: Tensor) -> bytes:
    levels = to_levels(masks).cpu().numpy()
    packed = np.frombuffer(zstd.compress(levels.tobytes(), _EFFORT), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, masks=packed, shape=levels.shape)  # an archive, whose sums and end tell what is torn
    return buffer.getvalue()


def _unpack(content: bytes) -> Tensor:
    with np.load(io.BytesIO(content)) as arrays:
        levels = zstd.decompress(arrays["masks"])
        return torch.from_numpy(np.frombuffer(bytearray(levels), np.int8).reshape(arrays["shape"]))
