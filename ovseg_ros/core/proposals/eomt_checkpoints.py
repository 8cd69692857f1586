"""Published EoMT checkpoints: from a hub name, a folder or a file to a network, with every key accounted for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD
from ovseg_ros.core.proposals.closed_set import ClosedSet, closed_set
from ovseg_ros.core.proposals.eomt import EoMT, EoMTConfig
from ovseg_ros.core.proposals.eomt_layouts import EoMTLayout, detect_layout, dinov3_error, infer_config
from ovseg_ros.core.proposals.weight_files import find_weights, read_weights

_KEYS_SHOWN = 8

# What this implementation does; a config.json that says otherwise describes another network.
_ASSUMED = {"model_type": "eomt", "hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3}


@dataclass(frozen=True, slots=True)
class LoadedEoMT:
    """A published checkpoint, ready to run.

    Attributes:
        model: in evaluation mode, on the CPU; its architecture is `model.config`.
        closed_set: what its class logits mean.
        layout: "tue-mps" or "transformers".
        summary: one line on what was loaded and from where.
    """

    model: EoMT
    closed_set: ClosedSet
    layout: str
    summary: str


def load_eomt(
    source: str, *, image_size: tuple[int, int] | None = None, dtype: torch.dtype | None = None
) -> LoadedEoMT:
    """Load a published EoMT on DINOv2 (panoptic, instance or semantic), in the authors' or in transformers' layout.

    Parameters stay mapped from the file where they are used as they are, so loading takes little more memory than the
    weights have (measured in docs/checkpoints.md); the file must not change while the model lives. Nothing is
    downloaded.

    Args:
        source: a hub name in the local cache, a folder or a file; see `weight_files.find_weights`.
        image_size: (height, width) to interpolate the position embeddings to once, multiples of the patch size; None
            for the checkpoint's own. At any other size the model interpolates them for every image.
        dtype: type of the parameters; None keeps the file's.

    Raises:
        CheckpointError: nothing is there, the file is damaged, or naming the keys that are missing, unexpected or of
            another shape; or it is an EoMT on DINOv3.
    """
    if source.endswith("_dinov3") and not Path(source).expanduser().exists():
        raise dinov3_error(source)  # before anyone downloads it
    files = find_weights(source)
    where = source if source.endswith(files.shards[0].name) else f"{source} ({files.shards[0].name})"
    state = read_weights(files)
    layout = detect_layout(state, where)
    _check_settings(files.settings, where)
    config = infer_config(layout, state, files.settings, where)
    names = closed_set(config.num_classes, files.settings, where)
    try:
        with torch.device("meta"):
            model = EoMT(config)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}; the file or its config.json is not an EoMT's") from error
    parts = _parts(model, layout, state, where)
    weights = {key: torch.cat(tensors) for key, tensors in parts.items() if len(tensors) > 1}
    if weights:
        # What was read to be joined stays in memory as long as its mapping does: the rest comes from a fresh one.
        del state, parts
        parts = _parts(model, layout, read_weights(files), where)
    weights |= {key: tensors[0] for key, tensors in parts.items() if len(tensors) == 1}
    if image_size is not None:
        config, model, weights = _resized(config, weights, image_size)
    model.load_state_dict({key: value.to(dtype or value.dtype) for key, value in weights.items()}, assign=True)
    summary = (
        f"EoMT, ViT {config.depth} x {config.width}{' with SwiGLU' if config.swiglu else ''}, {config.heads} heads, "
        f"{config.num_queries} queries in the last {config.joint_blocks} blocks, {config.num_classes} classes "
        f"({names.origin}), {config.image_size[0]} x {config.image_size[1]} pixels; {where}, layout of {layout.name}"
    )
    return LoadedEoMT(model.eval(), names, layout.name, summary)


def _check_settings(settings: Mapping[str, object], where: str) -> None:
    for key, assumed in _ASSUMED.items():
        if settings.get(key, assumed) != assumed:
            raise CheckpointError(
                f"{where}: config.json says {key} = {settings[key]!r}; this package runs EoMT with {assumed!r} only"
            )


def _parts(model: EoMT, layout: EoMTLayout, state: Mapping[str, Tensor], where: str) -> dict[str, list[Tensor]]:
    """The file's tensors by the model's keys, several where they are to be joined; all of both sides accounted for."""
    keys = layout.keys(model.config)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    in_file = {name for names in keys.values() for name in names}
    faults = {
        "missing": [name for names in keys.values() for name in names if name not in state],
        "unexpected": [name for name in state if name not in in_file and name not in layout.ignored],
        "of another shape": [],
    }
    _check_normalisation(state, where)
    found = {}
    for key, names in keys.items():
        if not all(name in state for name in names):
            continue
        parts = [state[name] for name in names]
        if key == "encoder.pos_embed" and parts[0].ndim == 2:
            parts = [parts[0][None]]  # (P, C) of transformers -> (1, P, C)
        # As many rows each, checked before they are joined.
        rows = wanted[key][0] // len(parts)
        expected = (rows, *wanted[key][1:])
        wrong = [
            f"{name} (file {tuple(part.shape)}, architecture {expected})"
            for name, part in zip(names, parts, strict=True)
            if tuple(part.shape) != expected
        ]
        faults["of another shape"] += wrong
        if not wrong:
            found[key] = parts
    if any(faults.values()):
        listed = "; ".join(f"{len(names)} {fault}: {_shorten(names)}" for fault, names in faults.items() if names)
        raise CheckpointError(
            f"{where} does not fit the EoMT that its tensors imply (ViT {model.config.depth} x {model.config.width}, "
            f"layout of {layout.name}): {listed}; download it again"
        )
    return found


def _check_normalisation(state: Mapping[str, Tensor], where: str) -> None:
    for name, expected in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        value = state.get(f"network.encoder.pixel_{name}")
        if value is not None and not (
            value.numel() == 3 and torch.allclose(value.flatten().float(), torch.tensor(expected), atol=1e-3)
        ):
            raise CheckpointError(
                f"{where} was trained on images normalised by a {name} of {value.flatten().tolist()[:3]}; "
                f"this package normalises by ImageNet's {expected}"
            )


def _resized(
    config: EoMTConfig, weights: dict[str, Tensor], image_size: tuple[int, int]
) -> tuple[EoMTConfig, EoMT, dict[str, Tensor]]:
    """The same weights for another input size."""
    patch = config.patch_size
    if any(side < patch or side % patch for side in image_size):
        raise CheckpointError(f"the input size must be multiples of {patch} pixels, got {image_size}")
    old, new = ([height // patch, width // patch] for height, width in (config.image_size, image_size))
    positions = weights["encoder.pos_embed"]
    if old != new:
        positions = resample_abs_pos_embed(positions, new_size=new, old_size=old, num_prefix_tokens=0)
    config = replace(config, image_size=image_size)
    with torch.device("meta"):
        model = EoMT(config)
    return config, model, weights | {"encoder.pos_embed": positions}


def _shorten(keys: list[str]) -> str:
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return ", ".join(keys[:_KEYS_SHOWN]) + more
