"""The layouts in which EoMT's weights are published, and the architecture that tensors of one imply.

"tue-mps" is that of the authors' training code (a Lightning module around timm's ViT, or around transformers' DINOv3);
"transformers" is that of `EomtForUniversalSegmentation` and `EomtDinov3ForUniversalSegmentation`. They differ in names,
and on DINOv2 in queries, keys and values being one matrix or three.
"""

import math
import re
from collections.abc import Iterable, Mapping
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
        renames: (pattern, replacement) that make of our keys the file's, one after the other; "{q,k,v}" in a
            replacement stands for a matrix each of queries, keys and values, which are one here.
        mask_probabilities: name of the masking probability of each joint block, (L2,); 0 once annealing has ended.
        ignored: keys that may be there and are no weights of the network at inference.
        settings: what a config.json has to say where it says anything of it; another value is another network.
        dinov3: whether the ViT is a DINOv3.
    """

    name: str
    marker: str
    renames: tuple[tuple[str, str], ...]
    mask_probabilities: str
    ignored: frozenset[str]
    settings: Mapping[str, object]
    dinov3: bool = False

    def keys(self, ours: Iterable[str]) -> KeyMap:
        """The file's names of our keys."""
        return {key: _renamed(key, self.renames) for key in ours}


def _renamed(key: str, renames: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    parts = re.search(r"\{(.+)\}", key)
    return tuple(key.replace(parts[0], part) for part in parts[1].split(",")) if parts else (key,)


def _dinov3_renames(embeddings: str, blocks: str, norm: str) -> tuple[tuple[str, str], ...]:
    """A DINOv3 as transformers' modules name it, under the names that its three parts have in a file."""
    return (
        (r"^encoder\.cls_token", f"{embeddings}.cls_token"),
        (r"^encoder\.reg_token", f"{embeddings}.register_tokens"),
        (r"^encoder\.patch_embed\.proj", f"{embeddings}.patch_embeddings"),
        (r"^encoder\.norm", norm),
        (r"^encoder\.blocks", blocks),
        (r"\.attn\.([qkv])_proj", r".attention.\1_proj"),
        (r"\.attn\.proj", ".attention.o_proj"),
        (r"\.mlp\.fc1", ".mlp.up_proj"),
        (r"\.mlp\.fc2", ".mlp.down_proj"),
        (r"\.gamma_(\d)$", r".layer_scale\1.lambda1"),
    )


def dinov3_base_keys(ours: Iterable[str]) -> KeyMap:
    """Names that the ViT's weights have in Meta's own files, facebook/dinov3-vit*16-pretrain-lvd1689m."""
    renames = _dinov3_renames("embeddings", "layer", "norm")
    return {key: _renamed(key, renames) for key in ours if key.startswith("encoder.")}


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

_TUE_MPS_HEADS = (
    (r"^queries\.", "network.q."),
    (r"^(class_head|mask_head|upscale)\.", r"network.\1."),
    (r"^(network\.upscale\.\d+)\.upsample", r"\1.conv1"),
    (r"^(network\.upscale\.\d+)\.depthwise", r"\1.conv2"),
)
_TRANSFORMERS_HEADS = (
    (r"^queries\.", "query."),
    (r"^class_head\.", "class_predictor."),
    (r"^mask_head\.0", "mask_head.fc1"),
    (r"^mask_head\.2", "mask_head.fc2"),
    (r"^mask_head\.4", "mask_head.fc3"),
    (r"^upscale\.(\d+)\.upsample", r"upscale_block.block.\1.conv1"),
    (r"^upscale\.(\d+)\.depthwise", r"upscale_block.block.\1.conv2"),
    (r"^upscale\.(\d+)\.norm", r"upscale_block.block.\1.layernorm2d"),
)

TUE_MPS = EoMTLayout(
    name="tue-mps",
    marker="network.encoder.backbone.cls_token",
    renames=((r"^encoder\.", "network.encoder.backbone."), *_TUE_MPS_HEADS),
    mask_probabilities="network.attn_mask_probs",
    ignored=frozenset(
        {"network.attn_mask_probs", "network.encoder.pixel_mean", "network.encoder.pixel_std", "criterion.empty_weight"}
    ),
    settings=_DINOV2_SETTINGS,
)

TRANSFORMERS = EoMTLayout(
    name="transformers",
    marker="embeddings.position_embeddings.weight",
    renames=(
        (r"^encoder\.cls_token", "embeddings.cls_token"),
        (r"^encoder\.reg_token", "embeddings.register_tokens"),
        (r"^encoder\.pos_embed", "embeddings.position_embeddings.weight"),
        (r"^encoder\.patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^encoder\.norm", "layernorm"),
        (r"^encoder\.blocks", "layers"),
        (r"\.attn\.qkv", ".attention.{q,k,v}_proj"),
        (r"\.attn\.proj", ".attention.out_proj"),
        (r"\.ls(\d)\.gamma", r".layer_scale\1.lambda1"),
        *_TRANSFORMERS_HEADS,
    ),
    mask_probabilities="attn_mask_probs",
    ignored=frozenset({"attn_mask_probs", "criterion.empty_weight"}),
    settings=_DINOV2_SETTINGS,
)

TRANSFORMERS_SWIGLU = replace(
    TRANSFORMERS,
    marker="layers.0.mlp.weights_in.weight",
    renames=(*TRANSFORMERS.renames, (r"\.mlp\.fc1", ".mlp.weights_in"), (r"\.mlp\.fc2", ".mlp.weights_out")),
)
TRANSFORMERS_5_SWIGLU = replace(
    TRANSFORMERS,
    marker="layers.0.mlp.gate_proj.weight",
    renames=(*TRANSFORMERS.renames, (r"\.mlp\.fc1", ".mlp.{gate,up}_proj"), (r"\.mlp\.fc2", ".mlp.down_proj")),
)
"""As TRANSFORMERS_SWIGLU, which is how they are published; transformers 5 writes its two halves apart."""

_BACKBONE = "network.encoder.backbone"
TUE_MPS_DINOV3 = replace(
    TUE_MPS,
    marker=f"{_BACKBONE}.patch_embed.cls_token",
    renames=(
        *_dinov3_renames(f"{_BACKBONE}.patch_embed", f"{_BACKBONE}.blocks", f"{_BACKBONE}.norm"),
        *_TUE_MPS_HEADS,
    ),
    settings={},  # its ViT is described by the config.json of the base weights
    dinov3=True,
)

TRANSFORMERS_DINOV3 = replace(
    TRANSFORMERS,
    marker="layers.0.attention.o_proj.weight",
    renames=(*_dinov3_renames("embeddings", "layers", "layernorm"), *_TRANSFORMERS_HEADS),
    settings={"model_type": "eomt_dinov3", **_DINOV3_SETTINGS},
    dinov3=True,
)


def detect_layout(state: Mapping[str, Tensor], where: str) -> EoMTLayout:
    """Which layout a file has, by its keys; CheckpointError if it has none of them."""
    for layout in (
        TUE_MPS,
        TRANSFORMERS_SWIGLU,
        TRANSFORMERS_5_SWIGLU,
        TRANSFORMERS,
        TUE_MPS_DINOV3,
        TRANSFORMERS_DINOV3,
    ):
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
    640 x 640), and the number of joint blocks where the file does not hold their masking probabilities. CheckpointError
    if a tensor that is needed for it is missing or has too few axes.
    """

    def name_of(key: str) -> str:
        return _renamed(key, layout.renames)[0]

    def shape(key: str, axes: tuple[int, ...]) -> tuple[int, ...]:
        name = name_of(key)
        if name not in state:
            raise CheckpointError(f"{where} ({layout.name} layout) lacks {name}; it is not a whole EoMT checkpoint")
        found = tuple(state[name].shape)
        if len(found) not in axes or 0 in found:
            raise CheckpointError(
                f"{where}: {name} should have {axes[0]} axes, but its shape is {found}; it is not an EoMT checkpoint"
            )
        return found

    def count(key: str) -> int:
        before, after = name_of(key).split(".0.", maxsplit=1)
        pattern = re.compile(rf"{re.escape(before)}\.(\d+)\.{re.escape(after)}")
        highest = max((int(match[1]) for match in map(pattern.fullmatch, state) if match), default=-1)
        return min(highest + 1, len(state))  # however high a damaged file counts

    width = shape("encoder.cls_token", (3,))[2]
    patch_size = shape("encoder.patch_embed.proj.weight", (4,))[3]
    if layout.dinov3:
        image_size = _stated_size(settings.get("image_size", _DINOV3_SIDE), where)
    else:
        image_size = _image_size(shape("encoder.pos_embed", (3, 2))[-2], patch_size, settings, where)
    has_registers = layout.dinov3 or name_of("encoder.reg_token") in state
    gate, value = "encoder.blocks.0.mlp.fc1.weight", "encoder.blocks.0.mlp.fc2.weight"
    gates = len(_renamed(gate, layout.renames))
    may_be_gated = not layout.dinov3 and name_of(gate) in state and name_of(value) in state
    return EoMTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=count("encoder.blocks.0.norm1.weight"),
        heads=_heads(width, settings, where),
        register_tokens=shape("encoder.reg_token", (3,))[1] if has_registers else 0,
        layer_scale=1.0 if layout.dinov3 or name_of("encoder.blocks.0.ls1.gamma") in state else None,
        dinov3=layout.dinov3,
        swiglu=may_be_gated and gates * shape(gate, (2,))[0] == 2 * shape(value, (2,))[1],
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
