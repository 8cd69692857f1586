"""The pretrained ViT that a new EoMT begins with: timm's weights, made to fit another patch and image size."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.weights.hub import find_file
from ovseg_ros.core.weights.strict import check_fit


def load_pretrained_vit(encoder: VisionTransformer, source: str) -> None:
    """Fill `encoder` with timm's weights; patch and position embeddings are resampled to its sizes.

    Args:
        source: hub repository such as "timm/vit_large_patch14_reg4_dinov2.lvd142m" in the local cache, folder, or
            safetensors file in timm's format.

    Raises:
        CheckpointError: if the file is missing or unreadable, or naming the keys that do not fit.
    """
    if encoder.pos_embed is None:
        raise CheckpointError(
            f"{source} was to fill a ViT without position embeddings (dinov3), which takes no weights in timm's "
            f"format; leave dinov3 or the pretrained weights out"
        )
    path = find_file(source, ["model.safetensors"])
    state = _read(path)
    if {"patch_embed.proj.weight", "pos_embed"} - state.keys():
        raise CheckpointError(
            f"{path} is not a plain ViT of timm: it has no patch_embed.proj.weight or pos_embed, but "
            f"{', '.join(sorted(state)[:8])}"
        )
    with torch.no_grad():
        try:
            state = checkpoint_filter_fn(state, encoder)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the weights in {path} cannot be made to fit this ViT: {error}") from error
    wanted = encoder.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    check_fit(wanted, state, path)
    encoder.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()})


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
