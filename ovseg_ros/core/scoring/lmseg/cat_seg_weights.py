"""CAT-Seg's published weights (https://github.com/cvlab-kaist/CAT-Seg), with which a training of LMSeg begins.

CAT-Seg is an LMSeg without SAM.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer
from ovseg_ros.core.weights.files import find_weights, read_weights
from ovseg_ros.core.weights.strict import check_fit

_HEAD = "sem_seg_head.predictor."
_PLACES = (
    (r"clip_model\.visual\.(.*)", r"visual.\1"),
    (r"clip_model\.(logit_scale)", r"\1"),
    (r"clip_model\.(.*)", r"text.\1"),
    (r"transformer\.conv1\.(.*)", r"embed.\1"),
    (r"transformer\.guidance_projection\.0\.(.*)", r"image_guidance.\1"),
    (r"transformer\.text_guidance_projection\.0\.(.*)", r"word_guidance.\1"),
    (r"transformer\.decoder_guidance_projection\.(\d)\.0\.(.*)", r"decoder.guidance.\1.\2"),
    (r"transformer\.layers\.(\d+)\.swin_block\.guidance_norm\.(.*)", r"layers.\1.guidance_norm.\2"),
    (r"transformer\.layers\.(\d+)\.swin_block\.block_1\.(.*)", r"layers.\1.spatial.0.\2"),
    (r"transformer\.layers\.(\d+)\.swin_block\.block_2\.(.*)", r"layers.\1.spatial.1.\2"),
    (r"transformer\.layers\.(\d+)\.attention\.attention\.(.*)", r"layers.\1.by_word.attn.\2"),
    (r"transformer\.layers\.(\d+)\.attention\.padding_tokens", r"layers.\1.by_word.padding"),
    (r"transformer\.layers\.(\d+)\.attention\.(.*)", r"layers.\1.by_word.\2"),
    (r"transformer\.decoder1\.(.*)", r"decoder.steps.0.\1"),
    (r"transformer\.decoder2\.(.*)", r"decoder.steps.1.\1"),
    (r"transformer\.head\.(.*)", r"decoder.head.\1"),
    (r"upsample1\.(.*)", r"decoder.skips.0.\1"),
    (r"upsample2\.(.*)", r"decoder.skips.1.\1"),
)
"""What CAT-Seg calls a part, and where it is in `LMSegScorer`; the first that fits."""
_PARTS = {
    ".attn.q_proj_weight": ".attn.query.weight",
    ".attn.k_proj_weight": ".attn.key.weight",
    ".attn.v_proj_weight": ".attn.value.weight",
    ".attn.q.": ".query.",
    ".attn.k.": ".key.",
    ".attn.v.": ".value.",
    ".attn.proj.": ".out.",
    ".mlp.fc1.": ".mlp.0.",
    ".mlp.fc2.": ".mlp.2.",
    ".MLP.": ".mlp.",
    ".conv.double_conv.0.": ".conv1.",
    ".conv.double_conv.1.": ".norm1.",
    ".conv.double_conv.3.": ".conv2.",
    ".conv.double_conv.4.": ".norm2.",
}
_CONSTANT = ("attn_mask", "pixel_mean", "pixel_std")
_IN_PROJECTION = ".attn.in_proj_bias"
_KEYS_SHOWN = 8


def load_cat_seg(source: str, scorer: LMSegScorer) -> None:
    """Fill a scorer's CLIP, aggregation and decoder; what CAT-Seg has not, SAM and its fusion, stays as it is.

    Args:
        source: as of `find_weights`.

    Raises:
        CheckpointError: it is missing or damaged, or holds no CAT-Seg of this architecture.
    """
    files = find_weights(source)
    state = cat_seg_state(read_weights(files), files.where)
    wanted = {name: value for name, value in scorer.state_dict().items() if not name.startswith(("sam.", "fusion."))}
    state.pop("logit_scale", None)  # cosines are taken as they are
    check_fit(wanted, state, files.where)
    scorer.load_state_dict({name: value.to(wanted[name].dtype) for name, value in state.items()}, strict=False)


def cat_seg_state(published: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors by the names of an `LMSegScorer` whose CLIP is trained; CheckpointError for a name of something else."""
    state: dict[str, Tensor] = {}
    strange = []
    for key, value in published.items():
        if key.endswith(_CONSTANT):
            continue
        name = _own_name(key.removeprefix(_HEAD))
        if name is None:
            strange.append(key)
        elif name.endswith(_IN_PROJECTION):
            for part, bias in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[name.replace(_IN_PROJECTION, f".attn.{part}.bias")] = bias
        else:
            state[name] = value.reshape(-1) if ".padding" in name else value
    if strange or not state:
        shown = ", ".join(strange[:_KEYS_SHOWN]) or "nothing at all"
        raise CheckpointError(
            f"{where} holds no CAT-Seg, as it has {shown}; expected model_base.pth or model_large.pth"
        )
    return state


def _own_name(key: str) -> str | None:
    for pattern, place in _PLACES:
        if match := re.fullmatch(pattern, key):
            name = match.expand(place)
            in_clip = name.startswith(("visual.", "text."))
            for theirs, ours in _PARTS.items():
                if in_clip == theirs.endswith("_weight"):
                    name = name.replace(theirs, ours)
            return name
    return None
