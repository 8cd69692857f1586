"""Published EoMT checkpoints: from a hub name, a folder or a file to a network, with every key accounted for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD
from ovseg_ros.core.proposals.closed_set import class_names
from ovseg_ros.core.proposals.eomt.layouts import (
    DINOV3_BASE_SETTINGS,
    TUE_MPS_DINOV3,
    EoMTLayout,
    KeyMap,
    detect_layout,
    dinov3_base_keys,
    infer_config,
)
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.published import DINOV3_BASES, published_eomt
from ovseg_ros.core.weights.files import (
    TRANSFORMERS_NAMES,
    WeightFiles,
    cached_file,
    find_weights,
    read_weights,
    repository_of,
)
from ovseg_ros.core.weights.strict import fit_faults, require_finite


class LoadedEoMT(NamedTuple):
    """A published checkpoint in evaluation mode on the CPU, and what its class logits mean."""

    model: EoMT
    class_names: tuple[str, ...]


def load_eomt(
    source: str,
    *,
    image_size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    base: str | None = None,
    differences: bool | None = None,
) -> LoadedEoMT:
    """Load a published EoMT (panoptic, instance or semantic), in the authors' or in transformers' layout.

    Parameters stay mapped from the file where they are used as they are (docs/checkpoints.md); it must not change while
    the model lives. Nothing is downloaded.

    On DINOv3 the authors publish the ViT as differences to Meta's weights, which are gated. Their rule is followed:
    every tensor under `network.encoder.backbone` is added to the base's tensor of that name, all others are whole.
    Files in transformers' layout are whole.

    Args:
        source: a hub name in the local cache, a folder or a file; see `find_weights`.
        image_size: (height, width) to interpolate the position embeddings to once, multiples of the patch size; None
            for the checkpoint's own. At any other size the model interpolates them for every image. On DINOv3 it only
            sets `model.config.image_size`.
        dtype: type of the parameters; None keeps the file's.
        base: the DINOv3 weights to which the differences are added, like `source`; None takes the repository that the
            published ones were trained from.
        differences: whether a file on DINOv3 in the authors' layout holds differences, as the published ones do, or
            whole weights, as the authors' training writes (their setting `delta_weights`). None takes the published
            names for differences, and any other file unless it brings ImageNet's constants, as whole ones do.

    Raises:
        CheckpointError: nothing is there, the file is damaged, or naming the keys that are missing, unexpected or of
            another shape; the base weights are not there, do not fit, or are given and not needed; or the file may hold
            whole weights or differences.
    """
    published = published_eomt(source)
    if published is not None and published.base is not None and not _is_here(source):
        _find_base(base, published.base, source)  # before anyone downloads what cannot be used without it
    files = find_weights(source)
    where = files.where
    state = read_weights(files)
    layout = detect_layout(state, where)
    require_finite(state, where)
    _check_settings(files.settings, layout.settings, where)
    settings = files.settings
    if published is not None and layout.dinov3:
        settings = {"image_size": published.config.image_size, **settings}
    config = infer_config(layout, state, settings, where)
    names = class_names(config.num_classes, files.settings, where)
    try:
        with torch.device("meta"):
            model = EoMT(config)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}; the file or its config.json is not an EoMT's") from error
    parts = _parts(model, layout, state, where)
    may_add = layout is TUE_MPS_DINOV3 and differences is not False
    _check_normalisation(state, where, may_be_zero=may_add)
    adds = may_add and (differences or published is not None or _holds_differences(state, where))
    weights = {key: torch.cat(tensors) for key, tensors in parts.items() if len(tensors) > 1}
    if adds:
        base_files = _find_base(base, DINOV3_BASES.get(config.width), where)
        weights |= {key: whole + parts[key][0] for key, whole in _base_weights(model, base_files, where).items()}
    elif base is not None:
        raise CheckpointError(
            f"{where} holds whole weights (layout of {layout.name}{' on DINOv3' if layout.dinov3 else ''}), to which "
            f"no base is added, but {base} was given as one; leave it out"
        )
    if weights:
        # What was read to be joined or added stays in memory as long as its mapping: the rest comes from a fresh one.
        del state, parts
        parts = _parts(model, layout, read_weights(files), where)
    weights |= {key: tensors[0] for key, tensors in parts.items() if key not in weights}
    if image_size is not None:
        model = _resized(model, weights, image_size)
    model.load_state_dict({key: value.to(dtype or value.dtype) for key, value in weights.items()}, assign=True)
    return LoadedEoMT(model.eval(), names)


def _is_here(source: str) -> bool:
    return Path(source).exists() or cached_file(repository_of(source) or "", TRANSFORMERS_NAMES) is not None


def _find_base(base: str | None, repository: str | None, where: str) -> WeightFiles:
    """The files of the DINOv3 weights that were given, else of those in `repository`."""
    if base is not None:
        return find_weights(base)
    if repository is None:
        known = ", ".join(f"{name} ({width})" for width, name in DINOV3_BASES.items())
        raise CheckpointError(
            f"{where} holds differences to a DINOv3 of a width that is not among those published ({known}); give the "
            f"weights it was trained from as base, or differences=False if its weights are whole"
        )
    if not _is_here(repository):
        raise CheckpointError(
            f"{where} is an EoMT on DINOv3, published as differences to Meta's weights {repository}, which are not on "
            f"this machine: there is no folder {repository}, and the hub cache {constants.HF_HUB_CACHE} has none; they "
            f"are gated, so accept their licence on the page of {repository} on the hub, log in with 'hf auth login' "
            f"and fetch them with 'hf download {repository}', or give their folder or file as base; or use the "
            f"checkpoint on DINOv2, whose weights are open: the same name without '_dinov3' (for small and base with "
            f"'_2x' instead)"
        )
    return find_weights(repository)


def _holds_differences(state: Mapping[str, Tensor], where: str) -> bool:
    """True, unless the file may as well be whole; its weights do not say it."""
    mean = state.get("network.encoder.pixel_mean")
    if mean is not None and mean.any():
        raise CheckpointError(
            f"{where} may hold whole weights, as the authors' training writes, or differences to Meta's DINOv3, as "
            f"the published files do: its keys are the same, and its normalisation constants are ImageNet's, not 0; "
            f"say which, by differences=False or differences=True"
        )
    return True


def _base_weights(model: EoMT, files: WeightFiles, where: str) -> dict[str, Tensor]:
    """The tensors of a DINOv3 by the model's keys, all of them accounted for."""
    base = files.where
    _check_settings(files.settings, DINOV3_BASE_SETTINGS, base)
    heads = files.settings.get("num_attention_heads", model.config.heads)
    if heads != model.config.heads:
        raise CheckpointError(
            f"{base} has {heads} attention heads, but {where} {model.config.heads}; give the weights it was trained "
            f"from, or correct num_attention_heads in its config.json"
        )
    ignored = frozenset({"embeddings.mask_token"})  # of the pretraining
    found, faults = _fit(dinov3_base_keys(model.state_dict()), ignored, model, read_weights(files))
    if faults:
        raise CheckpointError(
            f"{base} is not the DINOv3 to which {where} holds differences (ViT {model.config.depth} x "
            f"{model.config.width}, Meta's weights in transformers' format): {faults}; give the weights it was trained "
            f"from as base"
        )
    return {key: tensors[0] for key, tensors in found.items()}


def _check_settings(settings: Mapping[str, Any], expected: Mapping[str, object], where: str) -> None:
    rotary = settings.get("rope_parameters")  # where later versions of transformers write what was beside the others
    stated = {**settings, **rotary} if isinstance(rotary, dict) else settings
    for key, value in expected.items():
        if stated.get(key, value) != value:
            raise CheckpointError(
                f"{where}: config.json says {key} = {stated[key]!r}; this package runs EoMT with {value!r} only"
            )


def _parts(model: EoMT, layout: EoMTLayout, state: Mapping[str, Tensor], where: str) -> dict[str, list[Tensor]]:
    """The file's tensors by the model's keys, several where they are to be joined; all of both sides accounted for."""
    found, faults = _fit(layout.keys(model.state_dict()), layout.ignored, model, state)
    if faults:
        raise CheckpointError(
            f"{where} does not fit the EoMT that its tensors imply (ViT {model.config.depth} x {model.config.width}, "
            f"layout of {layout.name}): {faults}; download it again"
        )
    return found


def _fit(
    keys: KeyMap, ignored: frozenset[str], model: EoMT, state: Mapping[str, Tensor]
) -> tuple[dict[str, list[Tensor]], str]:
    """The tensors of a file by the model's keys, or in words what does not fit."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    # As many rows from each tensor that is to be joined, checked before it is.
    wanted = {name: (shapes[key][0] // len(names), *shapes[key][1:]) for key, names in keys.items() for name in names}
    positions = keys.get("encoder.pos_embed", ("",))[0]
    given = {
        name: value[None] if name == positions and value.ndim == 2 else value  # (P, C) of transformers -> (1, P, C)
        for name, value in state.items()
        if name not in ignored
    }
    faults = fit_faults(wanted, given)
    return {} if faults else {key: [given[name] for name in names] for key, names in keys.items()}, faults


def _check_normalisation(state: Mapping[str, Tensor], where: str, *, may_be_zero: bool) -> None:
    """`may_be_zero`: the file holds differences, and the authors add its constants to ImageNet's."""
    for name, expected in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        value = state.get(f"network.encoder.pixel_{name}")
        if value is None or (may_be_zero and not value.any()):
            continue
        if not (value.numel() == 3 and torch.allclose(value.flatten().float(), torch.tensor(expected), atol=1e-3)):
            raise CheckpointError(
                f"{where} was trained on images normalised by a {name} of {value.flatten().tolist()[:3]}; "
                f"this package normalises by ImageNet's {expected}"
            )


def _resized(model: EoMT, weights: dict[str, Tensor], image_size: tuple[int, int]) -> EoMT:
    """A model for another input size; the position embeddings in `weights` are resampled to it."""
    config = model.config
    patch = config.patch_size
    if any(side < patch or side % patch for side in image_size):
        raise CheckpointError(f"the input size must be multiples of {patch} pixels, got {image_size}")
    old, new = ([height // patch, width // patch] for height, width in (config.image_size, image_size))
    if old != new and not config.dinov3:
        positions = weights["encoder.pos_embed"]
        weights["encoder.pos_embed"] = resample_abs_pos_embed(
            positions, new_size=new, old_size=old, num_prefix_tokens=0
        )
    with torch.device("meta"):
        return EoMT(replace(config, image_size=image_size))
