"""Proposals of a frozen mask generator on disk, so that every image goes through it once.

A file holds one image's mask logits, in 8 bits each and compressed, and its class logits in half precision. Folders are
named by what the proposals depend on: the generator's weights, the data set and the input size.
"""

import hashlib
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovseg_ros.core.errors import DatasetError, TrainingError
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.offline.data.files import write_bytes, write_json

_LIMIT = 12.0
"""Logits beyond this are cut: the sigmoid differs from 0 or 1 by 6e-6 there."""
_STEP = 2 * _LIMIT / 254

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What proposals depend on.

    Attributes:
        generator: SHA-256 of the generator's weights.
        dataset: name and split, or anything else that says which images.
        size: (height, width) of the generator's input, pixels.
    """

    generator: str
    dataset: str
    size: tuple[int, int]

    def folder_name(self) -> str:
        """Short, the same for the same key, and readable at its end."""
        facts = json.dumps([self.generator, self.dataset, list(self.size)])
        return f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}-{self.size[0]}x{self.size[1]}"


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over a module's state, names and values, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class ProposalCache:
    """Proposals by image name; safe to use from several processes at once.

    Args:
        folder: of all caches; this one's folder in it is made, with `key.json` that says what it holds.

    Raises:
        DatasetError: the folder belongs to another key.
    """

    def __init__(self, folder: Path, key: CacheKey) -> None:
        self.folder = folder / key.folder_name()
        path = self.folder / "key.json"
        facts = {"generator": key.generator, "dataset": key.dataset, "size": list(key.size)}
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                found = None
            if found != facts:
                raise DatasetError(f"{self.folder} holds the proposals of {found}, not of {facts}; delete it")
        else:
            write_json(path, facts)

    def get(self, name: str, compute: Callable[[], MaskProposals]) -> MaskProposals:
        """Proposals of the image `name`: read if they are there and whole, otherwise computed and kept.

        Args:
            compute: gives (1, Q, h, w) mask logits and the rest; called at most once. Query embeddings are not kept.

        Returns:
            On the CPU, float32, without query embeddings; the same whether it was read or computed.

        Raises:
            TrainingError: they cannot be written.
        """
        path = self._path(name)
        if path.exists():
            try:
                return _unpack(path.read_bytes())
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                logger.warning("computing the proposals of %s again: %s is torn (%s)", name, path, error)
        content = _pack(compute())
        try:
            write_bytes(path, content)
        except OSError as error:
            raise TrainingError(
                f"cannot keep the proposals of {name} in {self.folder}: {error}; free some space and run the same "
                "command again, which goes on from what is there"
            ) from error
        return _unpack(content)

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()  # names may hold slashes, dots and anything else
        return self.folder / digest[:2] / f"{digest[2:34]}.npz"


def _pack(proposals: MaskProposals) -> bytes:
    if len(proposals.mask_logits) != 1:
        raise ValueError(f"one image's proposals are kept at a time, got {len(proposals.mask_logits)}")
    logits = proposals.mask_logits[0].detach().float().cpu().clamp(-_LIMIT, _LIMIT)
    levels = (logits / _STEP).round().to(torch.int8)  # -127 to 127; the sign, so the mask, is kept
    zero = levels == 0
    levels = torch.where(zero & (logits > 0), torch.ones_like(levels), levels)
    arrays: dict[str, Any] = {"masks": levels.numpy()}
    if proposals.class_logits is not None:
        arrays["classes"] = proposals.class_logits[0].detach().cpu().half().numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _unpack(content: bytes) -> MaskProposals:
    with np.load(io.BytesIO(content)) as arrays:
        masks = torch.from_numpy(arrays["masks"]).float() * _STEP
        classes = torch.from_numpy(arrays["classes"]).float()[None] if "classes" in arrays else None
    return MaskProposals(masks[None], _no_embeddings(masks), classes)


def _no_embeddings(masks: Tensor) -> Tensor:
    return masks.new_zeros(1, len(masks), 0)
