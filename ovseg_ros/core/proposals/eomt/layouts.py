"""The layouts in which EoMT's weights are published, and the architecture that tensors of one imply.

"tue-mps" is that of the authors' training code (a Lightning module around timm's ViT, or around transformers' DINOv3);
"transformers" is that of `EomtForUniversalSegmentation` and `EomtDinov3ForUniversalSegmentation`. They differ in names,
and on DINOv2 in queries, keys and values being one matrix or three.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.eomt.network import EoMTConfig

_HEAD_WIDTH = 64  # of every DINOv2 and of DINOv3's S, B and L, for files that come without a config.json

_DINOV3_SIDE = 640  # pixels, of most published EoMTs on DINOv3; their files do not say it

KeyMap = dict[str, tuple[str, ...]]
"""Our key -> the file's keys, to be concatenated along the first axis where there are several."""


@dataclass(frozen=True, slots=True)
class EoMTLayout:
    """How one publisher names EoMT's weights on one kind of ViT.

    Attributes:
        name: the publisher, for people.
        marker: a key that only this layout has.
        keys: names of all weights of an architecture.
        mask_probabilities: name of the masking probability of each joint block, (L2,); 0 once annealing has ended.
        ignored: keys that may be there and are no weights of the network at inference.
        settings: what a config.json has to say where it says anything of it; another value is another network.
        dinov3: whether the ViT is a DINOv3.
    """

    name: str
    marker: str
    keys: Callable[[EoMTConfig], KeyMap]
    mask_probabilities: str
    ignored: frozenset[str]
    settings: Mapping[str, object]
    dinov3: bool = False


def _with_modules(keys: KeyMap, modules: Mapping[str, str]) -> KeyMap:
    """Adds weight and bias of every module; `modules`: our name -> the file's."""
    for mine, theirs in modules.items():
        keys |= {f"{mine}.{kind}": (f"{theirs}.{kind}",) for kind in ("weight", "bias")}
    return keys


def _head_keys(config: EoMTConfig, modules: dict[str, str], queries: str, upscale: str, norm: str) -> KeyMap:
    keys: KeyMap = {"queries.weight": (f"{queries}.weight",)}
    for index in range(config.upscale_blocks):
        mine, theirs = f"upscale.{index}", f"{upscale}.{index}"
        modules = modules | {f"{mine}.upsample": f"{theirs}.conv1", f"{mine}.norm": f"{theirs}.{norm}"}
        keys[f"{mine}.depthwise.weight"] = (f"{theirs}.conv2.weight",)
    return _with_modules(keys, modules)


def _tue_mps_heads(config: EoMTConfig) -> KeyMap:
    modules = {name: f"network.{name}" for name in ("class_head", "mask_head.0", "mask_head.2", "mask_head.4")}
    return _head_keys(config, modules, queries="network.q", upscale="network.upscale", norm="norm")


def _transformers_heads(config: EoMTConfig) -> KeyMap:
    modules = {"class_head": "class_predictor"} | {f"mask_head.{2 * i}": f"mask_head.fc{i + 1}" for i in range(3)}
    return _head_keys(config, modules, queries="query", upscale="upscale_block.block", norm="layernorm2d")


def _tue_mps_dinov2_keys(config: EoMTConfig) -> KeyMap:
    backbone = "network.encoder.backbone"
    names = ["cls_token", "pos_embed"] + (["reg_token"] if config.register_tokens else [])
    modules = ["patch_embed.proj", "norm"]
    for index in range(config.depth):
        modules += [
            f"blocks.{index}.{name}" for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        ]
        if config.layer_scale is not None:
            names += [f"blocks.{index}.{scale}.gamma" for scale in ("ls1", "ls2")]
    keys: KeyMap = {f"encoder.{name}": (f"{backbone}.{name}",) for name in names}
    return _with_modules(keys, {f"encoder.{name}": f"{backbone}.{name}" for name in modules}) | _tue_mps_heads(config)


def _transformers_dinov2_keys(config: EoMTConfig) -> KeyMap:
    keys: KeyMap = {
        "encoder.cls_token": ("embeddings.cls_token",),
        "encoder.pos_embed": ("embeddings.position_embeddings.weight",),
    }
    if config.register_tokens:
        keys["encoder.reg_token"] = ("embeddings.register_tokens",)
    modules = {"encoder.patch_embed.proj": "embeddings.patch_embeddings.projection", "encoder.norm": "layernorm"}
    mlp = ("weights_in", "weights_out") if config.swiglu else ("fc1", "fc2")
    for index in range(config.depth):
        mine, theirs = f"encoder.blocks.{index}", f"layers.{index}"
        modules |= {
            f"{mine}.norm1": f"{theirs}.norm1",
            f"{mine}.attn.proj": f"{theirs}.attention.out_proj",
            f"{mine}.norm2": f"{theirs}.norm2",
            f"{mine}.mlp.fc1": f"{theirs}.mlp.{mlp[0]}",
            f"{mine}.mlp.fc2": f"{theirs}.mlp.{mlp[1]}",
        }
        for kind in ("weight", "bias"):
            keys[f"{mine}.attn.qkv.{kind}"] = tuple(f"{theirs}.attention.{part}_proj.{kind}" for part in "qkv")
        if config.layer_scale is not None:
            keys |= {f"{mine}.ls{n}.gamma": (f"{theirs}.layer_scale{n}.lambda1",) for n in (1, 2)}
    return _with_modules(keys, modules) | _transformers_heads(config)


def _dinov3_vit_keys(config: EoMTConfig, embeddings: str, blocks: str, norm: str) -> KeyMap:
    """A DINOv3 as transformers' modules name it, under the names that its three parts have in a file."""
    keys: KeyMap = {
        "encoder.cls_token": (f"{embeddings}.cls_token",),
        "encoder.reg_token": (f"{embeddings}.register_tokens",),
    }
    modules = {"encoder.patch_embed.proj": f"{embeddings}.patch_embeddings", "encoder.norm": norm}
    for index in range(config.depth):
        mine, theirs = f"encoder.blocks.{index}", f"{blocks}.{index}"
        modules |= {
            f"{mine}.norm1": f"{theirs}.norm1",
            f"{mine}.attn.q_proj": f"{theirs}.attention.q_proj",
            f"{mine}.attn.v_proj": f"{theirs}.attention.v_proj",
            f"{mine}.attn.proj": f"{theirs}.attention.o_proj",
            f"{mine}.norm2": f"{theirs}.norm2",
            f"{mine}.mlp.fc1": f"{theirs}.mlp.up_proj",
            f"{mine}.mlp.fc2": f"{theirs}.mlp.down_proj",
        }
        keys |= {
            f"{mine}.attn.k_proj.weight": (f"{theirs}.attention.k_proj.weight",),
            f"{mine}.gamma_1": (f"{theirs}.layer_scale1.lambda1",),
            f"{mine}.gamma_2": (f"{theirs}.layer_scale2.lambda1",),
        }
    return _with_modules(keys, modules)


def dinov3_base_keys(config: EoMTConfig) -> KeyMap:
    """Names that the ViT's weights have in Meta's own files, facebook/dinov3-vit*16-pretrain-lvd1689m."""
    return _dinov3_vit_keys(config, "embeddings", "layer", "norm")


def _tue_mps_dinov3_keys(config: EoMTConfig) -> KeyMap:
    backbone = "network.encoder.backbone"
    vit = _dinov3_vit_keys(config, f"{backbone}.patch_embed", f"{backbone}.blocks", f"{backbone}.norm")
    return vit | _tue_mps_heads(config)


def _transformers_dinov3_keys(config: EoMTConfig) -> KeyMap:
    return _dinov3_vit_keys(config, "embeddings", "layers", "layernorm") | _transformers_heads(config)


_DINOV2_SETTINGS = {"model_type": "eomt", "hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3}
_DINOV3_SETTINGS = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
    "rope_theta": 100.0,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
}

DINOV3_BASE_SETTINGS = {"model_type": "dinov3_vit", **_DINOV3_SETTINGS}
"""What the config.json of Meta's own weights has to say."""

TUE_MPS = EoMTLayout(
    name="tue-mps",
    marker="network.encoder.backbone.cls_token",
    keys=_tue_mps_dinov2_keys,
    mask_probabilities="network.attn_mask_probs",
    ignored=frozenset(
        {"network.attn_mask_probs", "network.encoder.pixel_mean", "network.encoder.pixel_std", "criterion.empty_weight"}
    ),
    settings=_DINOV2_SETTINGS,
)

TRANSFORMERS = EoMTLayout(
    name="transformers",
    marker="embeddings.position_embeddings.weight",
    keys=_transformers_dinov2_keys,
    mask_probabilities="attn_mask_probs",
    ignored=frozenset({"attn_mask_probs", "criterion.empty_weight"}),
    settings=_DINOV2_SETTINGS,
)

TUE_MPS_DINOV3 = replace(
    TUE_MPS,
    marker="network.encoder.backbone.patch_embed.cls_token",
    keys=_tue_mps_dinov3_keys,
    dinov3=True,
    settings={},  # its ViT is described by the config.json of the base weights
)

TRANSFORMERS_DINOV3 = replace(
    TRANSFORMERS,
    marker="layers.0.attention.o_proj.weight",
    keys=_transformers_dinov3_keys,
    dinov3=True,
    settings={"model_type": "eomt_dinov3", **_DINOV3_SETTINGS},
)


def detect_layout(state: Mapping[str, Tensor], where: str) -> EoMTLayout:
    """Which layout a file has, by its keys.

    Raises:
        CheckpointError: it has none of them.
    """
    for layout in (TUE_MPS, TRANSFORMERS, TUE_MPS_DINOV3, TRANSFORMERS_DINOV3):
        if layout.marker in state:
            return layout
    some = ", ".join(sorted(state)[:5]) if state else "none"
    raise CheckpointError(
        f"{where} is no EoMT that this package knows: expected the keys of the authors' code ({TUE_MPS.marker}, ...; "
        f"on DINOv3 {TUE_MPS_DINOV3.marker}, ...) or of transformers' EomtForUniversalSegmentation "
        f"({TRANSFORMERS.marker}, ...) or EomtDinov3ForUniversalSegmentation ({TRANSFORMERS_DINOV3.marker}, ...); its "
        f"{len(state)} keys begin with {some}"
    )


def infer_config(
    layout: EoMTLayout, state: Mapping[str, Tensor], settings: Mapping[str, Any], where: str
) -> EoMTConfig:
    """The architecture that a file's tensors imply.

    Only what shapes cannot say is taken from `settings` (config.json): the attention heads (without it 64 channels
    each), the input size where the patches form no square or there is no position embedding (DINOv3: without it
    640 x 640), and the number of joint blocks where the file does not hold their masking probabilities.

    Raises:
        CheckpointError: a tensor that is needed for it is missing or has too few axes.
    """
    small = EoMTConfig(image_size=(16, 16), depth=1, joint_blocks=1, upscale_blocks=1, dinov3=layout.dinov3)
    probe = layout.keys(replace(small, swiglu=not layout.dinov3))

    def shape(key: str, axes: tuple[int, ...]) -> tuple[int, ...]:
        name = probe[key][0]
        if name not in state:
            raise CheckpointError(f"{where} ({layout.name} layout) lacks {name}; it is not a whole EoMT checkpoint")
        found = tuple(state[name].shape)
        if len(found) not in axes or 0 in found:
            raise CheckpointError(
                f"{where}: {name} should have {axes[0]} axes, but its shape is {found}; it is not an EoMT checkpoint"
            )
        return found

    def count(key: str) -> int:
        before, after = probe[key][0].split(".0.", maxsplit=1)
        pattern = re.compile(rf"{re.escape(before)}\.(\d+)\.{re.escape(after)}")
        highest = max((int(match[1]) for match in map(pattern.fullmatch, state) if match), default=-1)
        return min(highest + 1, len(state))  # however high a damaged file counts

    width = shape("encoder.cls_token", (3,))[2]
    patch_size = shape("encoder.patch_embed.proj.weight", (4,))[3]
    if layout.dinov3:
        image_size = _stated_size(settings.get("image_size", _DINOV3_SIDE), where)
    else:
        image_size = _image_size(shape("encoder.pos_embed", (3, 2))[-2], patch_size, settings, where)
    has_registers = layout.dinov3 or probe["encoder.reg_token"][0] in state
    gate, value = "encoder.blocks.0.mlp.fc1.weight", "encoder.blocks.0.mlp.fc2.weight"
    may_be_gated = not layout.dinov3 and probe[gate][0] in state and probe[value][0] in state
    return EoMTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=count("encoder.blocks.0.norm1.weight"),
        heads=_heads(width, settings, where),
        register_tokens=shape("encoder.reg_token", (3,))[1] if has_registers else 0,
        layer_scale=1.0 if layout.dinov3 or probe["encoder.blocks.0.ls1.gamma"][0] in state else None,
        dinov3=layout.dinov3,
        swiglu=may_be_gated and shape(gate, (2,))[0] == 2 * shape(value, (2,))[1],
        num_queries=shape("queries.weight", (2,))[0],
        num_classes=shape("class_head.weight", (2,))[0] - 1,
        joint_blocks=_joint_blocks(layout, state, settings, where),
        upscale_blocks=count("upscale.0.depthwise.weight"),
    )


def _image_size(patches: int, patch_size: int, settings: Mapping[str, Any], where: str) -> tuple[int, int]:
    size = _stated_size(settings.get("image_size", math.isqrt(patches) * patch_size), where)
    if (size[0] // patch_size) * (size[1] // patch_size) != patches:
        raise CheckpointError(
            f"{where} has position embeddings for {patches} patches of {patch_size} pixels, which do not make an image "
            f"of {size} pixels; correct image_size in its config.json"
        )
    return size


def _stated_size(stated: object, where: str) -> tuple[int, int]:
    sides = stated if isinstance(stated, list | tuple) else (stated, stated)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise CheckpointError(
            f"{where}: {stated!r} pixels do not make an image; correct image_size in its config.json to a number or to "
            f"[height, width]"
        )
    return sides[0], sides[1]


def _heads(width: int, settings: Mapping[str, Any], where: str) -> int:
    heads = settings.get("num_attention_heads", max(1, width // _HEAD_WIDTH))
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise CheckpointError(
            f"{where} is {width} wide, which {heads!r} attention heads do not divide; "
            f"correct num_attention_heads in its config.json"
        )
    return heads


def _joint_blocks(layout: EoMTLayout, state: Mapping[str, Tensor], settings: Mapping[str, Any], where: str) -> int:
    if layout.mask_probabilities in state:
        return state[layout.mask_probabilities].numel()
    blocks = settings.get("num_blocks")
    if not isinstance(blocks, int):
        raise CheckpointError(
            f"{where} does not say how many blocks its queries pass through: neither {layout.mask_probabilities} nor "
            f"num_blocks in a config.json beside it; download its config.json too"
        )
    return blocks
