"""The published files of BEiT-3: https://github.com/microsoft/unilm/tree/master/beit3."""

import logging
import zipfile
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ovseg_ros.core.backbones.beit3 import UNUSED_ROWS, Beit3, Beit3Config, resized_positions
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.weights.files import WeightFiles, find_weights, read_weights
from ovseg_ros.core.weights.strict import check_fit

_PREFIX = "beit3."
_IMAGE_POSITIONS = "encoder.embed_positions.A.weight"
_LAST_NORM = "encoder.layer_norm."
_KEYS_AT_ONCE = 32
_HEADS_SHOWN = 8

logger = logging.getLogger(__name__)


def load_beit3(source: str, config: Beit3Config) -> Beit3:
    """A BEiT-3 in float32 with published weights; the image's positions are resized to the configured grid.

    Every tensor of the encoder is used; what else is in the file (heads of pretraining or of other tasks) is named in
    the log. Loading takes little more memory than the weights: the file is open for some tensors at a time.

    Args:
        source: file, or name of one in the cache; see `find_weights`.

    Raises:
        CheckpointError: the file is missing or damaged, holds no BEiT-3, one without its last norm (fine-tuned for
            ImageNet or VQA), or one of another size.
    """
    files = find_weights(source)
    shapes, others = _shapes(files)
    with torch.device("meta"):
        model = Beit3(config)
    grid = _published_grid(shapes, files)
    wanted = dict(model.state_dict())
    wanted[_IMAGE_POSITIONS] = torch.empty(UNUSED_ROWS + 1 + grid[0] * grid[1], config.width, device="meta")
    check_fit(wanted, shapes, files.where)
    for key, tensor in _tensors(files, list(shapes)):
        if key == _IMAGE_POSITIONS:
            rows = resized_positions(tensor[UNUSED_ROWS:].float(), grid, config.grid)
            tensor = torch.cat([tensor[:UNUSED_ROWS].float(), rows])
        _assign(model, key, tensor)
    if others:
        logger.info("%s: not used, as they are no part of the encoder: %s", files.where, ", ".join(others))
    return model


def _shapes(files: WeightFiles) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors without their content, by the names of `Beit3`, and the names of all others."""
    state = read_weights(files)
    own = {key.removeprefix(_PREFIX): value.to("meta") for key, value in state.items() if key.startswith(_PREFIX)}
    if not own:
        raise CheckpointError(
            f"{files.where} holds no BEiT-3: no tensor's name begins with {_PREFIX!r}, but there are "
            f"{', '.join(sorted(state)[:_HEADS_SHOWN]) or 'none at all'}"
        )
    if not any(key.startswith(_LAST_NORM) for key in own):
        raise CheckpointError(
            f"{files.where} has no {_PREFIX}{_LAST_NORM}*, as BEiT-3's files for ImageNet and VQA have none; take a "
            "pretrained one, such as beit3_large_patch16_224.pth"
        )
    return own, sorted(key for key in state if not key.startswith(_PREFIX))


def _published_grid(shapes: dict[str, Tensor], files: WeightFiles) -> tuple[int, int]:
    """Rows and columns of patches that the file's positions are for: a square."""
    rows = sum(shapes[_IMAGE_POSITIONS].shape[:1]) if _IMAGE_POSITIONS in shapes else 0
    side = round(max(0, rows - UNUSED_ROWS - 1) ** 0.5)
    if not side or side * side + UNUSED_ROWS + 1 != rows:
        raise CheckpointError(
            f"{files.where}: {_PREFIX}{_IMAGE_POSITIONS} has {rows} rows; expected a square number and 3 more"
        )
    return side, side


def _tensors(files: WeightFiles, keys: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor once, and as few as possible in memory: of a mapped file all pages that were read stay there until it
    is closed; PyTorch's old format, which is no zip file, is not mapped but read whole.
    """
    is_mapped = all(shard.suffix == ".safetensors" or zipfile.is_zipfile(shard) for shard in files.shards)
    step = _KEYS_AT_ONCE if is_mapped else len(keys)
    for start in range(0, len(keys), step):
        state = read_weights(files)
        for key in keys[start : start + step]:
            yield key, state.pop(_PREFIX + key)
        del state  # before the next one is there


def _assign(model: Beit3, key: str, tensor: Tensor) -> None:
    """Put a copy in float32 in a parameter's place."""
    owner, _, name = key.rpartition(".")
    module = model.get_submodule(owner)
    needs_gradient = module.get_parameter(name).requires_grad
    setattr(module, name, nn.Parameter(tensor.detach().to(torch.float32, copy=True), needs_gradient))
