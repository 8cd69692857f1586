"""Proposals of a frozen mask generator on disk, so that every image goes through it once, before a training begins.

A file holds one image's mask logits, in 8 bits each and compressed, and its class and word logits in half precision.
Folders are named by what the proposals depend on: the proposer's weights, the data set, the input size, and the words
that guide the proposer, if any do.
"""

import hashlib
import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ovseg_ros.core.errors import DatasetError, TrainingError
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.files import digest_of, read_json, write_bytes, write_json
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample

_LIMIT = 12.0
"""Logits beyond this are cut: the sigmoid differs from 0 or 1 by 6e-6 there."""
_STEP = 2 * _LIMIT / 254
_IMAGES_AHEAD = 2
"""For each thread, images that wait for the proposer or to be written."""

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
    """Proposals by image name; safe to use from several threads and processes at once."""

    def __init__(
        self, folder: Path, proposer: str, images: str, size: tuple[int, int], words: str | None = None
    ) -> None:
        """Opens or makes this cache's folder, with `key.json` that says what it holds.

        Args:
            folder: of all caches.
            proposer: `weights_hash` of the proposer.
            images: says which, as data set and split do.
            size: (height, width) of the proposer's input, pixels.
            words: `words_hash` of those that guide the proposer; None if none do.

        Raises:
            DatasetError: the folder holds something else.
        """
        key: dict[str, Any] = {"proposer": proposer, "dataset": images, "size": list(size)}
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
        propose: Callable[[np.ndarray], MaskProposals],
        *,
        threads: int = 1,
        skip_damaged: bool = True,
        quiet: bool = False,
    ) -> int:
        """Compute the proposals of those images that have none yet, or whose file is torn.

        Args:
            propose: gives (1, Q, h, w) mask logits and the rest for an image, uint8 RGB; called by this thread alone.
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
            print(f"proposals: {todo}; kept in {self.folder}, up to 3 MB each", flush=True)
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=len(missing), desc="proposals", unit="image", mininterval=5, disable=quiet) as bar,
        ):
            for start in range(0, len(missing), ahead):
                writes = []
                for sample in pool.map(read, missing[start : start + ahead]):
                    if sample is None:
                        unusable += 1
                    else:
                        writes.append(pool.submit(self.write, sample.name, propose(sample.image)))
                    bar.update()
                for write in writes:
                    write.result()
        return unusable

    def write(self, name: str, proposals: MaskProposals) -> None:
        """Keep the proposals of the image `name`, but for query embeddings; TrainingError if that fails."""
        try:
            write_bytes(self._path(name), _pack(proposals))
        except OSError as error:
            raise TrainingError(
                f"cannot keep the proposals of {name} in {self.folder}: {error}; free some space and run the same "
                "command again, which goes on from what is there"
            ) from error

    def read(self, name: str) -> MaskProposals:
        """The proposals of the image `name` on the CPU, float32, without query embeddings; DatasetError if damaged."""
        path = self._path(name)
        try:
            return _unpack(path.read_bytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DatasetError(
                f"cannot read the proposals of {name} ({error}); delete {path} and run the same command again, which "
                "computes them"
            ) from error

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


def _pack(proposals: MaskProposals) -> bytes:
    if len(proposals.mask_logits) != 1:
        raise ValueError(f"one image's proposals are kept at a time, got {len(proposals.mask_logits)}")
    logits = proposals.mask_logits[0].detach().float().cpu().clamp(-_LIMIT, _LIMIT)
    levels = (logits / _STEP).round().to(torch.int8)  # -127 to 127; the sign, so the mask, is kept
    levels = torch.where((levels == 0) & (logits > 0), torch.ones_like(levels), levels)
    arrays: dict[str, Any] = {"masks": levels.numpy()}
    for name, scores in (("classes", proposals.class_logits), ("words", proposals.word_logits)):
        if scores is not None:
            arrays[name] = scores[0].detach().cpu().half().numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpack(content: bytes) -> MaskProposals:
    with np.load(io.BytesIO(content)) as arrays:
        masks = torch.from_numpy(arrays["masks"])[None].float() * _STEP
        classes, words = (
            torch.from_numpy(arrays[name]).float()[None] if name in arrays else None for name in ("classes", "words")
        )
    return MaskProposals(masks, masks.new_zeros(*masks.shape[:2], 0), classes, words)
