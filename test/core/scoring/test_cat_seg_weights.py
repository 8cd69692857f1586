"""CAT-Seg's files, made up of our own weights by the names that they have there."""

import re
from pathlib import Path

import pytest
import torch
from lmseg_support import Edges, make, photos, some_words, text_tower
from torch import Tensor

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.scoring.lmseg.cat_seg_weights import load_cat_seg
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer

HEAD = "sem_seg_head.predictor."
TRANSFORMER = f"{HEAD}transformer."
NAMES = (
    (r"visual\.(.*)", rf"{HEAD}clip_model.visual.\1"),
    (r"text\.(.*)", rf"{HEAD}clip_model.\1"),
    (r"embed\.(.*)", rf"{TRANSFORMER}conv1.\1"),
    (r"image_guidance\.(.*)", rf"{TRANSFORMER}guidance_projection.0.\1"),
    (r"word_guidance\.(.*)", rf"{TRANSFORMER}text_guidance_projection.0.\1"),
    (r"layers\.(\d)\.guidance_norm\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.guidance_norm.\2"),
    (r"layers\.(\d)\.spatial\.0\.(norm.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_1.\2"),
    (r"layers\.(\d)\.spatial\.1\.(norm.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_2.\2"),
    (r"layers\.(\d)\.spatial\.0\.mlp\.0\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_1.mlp.fc1.\2"),
    (r"layers\.(\d)\.spatial\.0\.mlp\.2\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_1.mlp.fc2.\2"),
    (r"layers\.(\d)\.spatial\.1\.mlp\.0\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_2.mlp.fc1.\2"),
    (r"layers\.(\d)\.spatial\.1\.mlp\.2\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_2.mlp.fc2.\2"),
    (r"layers\.(\d)\.spatial\.0\.out\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_1.attn.proj.\2"),
    (r"layers\.(\d)\.spatial\.1\.out\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_2.attn.proj.\2"),
    (r"layers\.(\d)\.spatial\.0\.([qkv])[a-z]+\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_1.attn.\2.\3"),
    (r"layers\.(\d)\.spatial\.1\.([qkv])[a-z]+\.(.*)", rf"{TRANSFORMER}layers.\1.swin_block.block_2.attn.\2.\3"),
    (r"layers\.(\d)\.by_word\.([qkv])[a-z]+\.(.*)", rf"{TRANSFORMER}layers.\1.attention.attention.\2.\3"),
    (r"layers\.(\d)\.by_word\.mlp\.(.*)", rf"{TRANSFORMER}layers.\1.attention.MLP.\2"),
    (r"layers\.(\d)\.by_word\.padding", rf"{TRANSFORMER}layers.\1.attention.padding_tokens"),
    (r"layers\.(\d)\.by_word\.(.*)", rf"{TRANSFORMER}layers.\1.attention.\2"),
    (r"decoder\.guidance\.(\d)\.(.*)", rf"{TRANSFORMER}decoder_guidance_projection.\1.0.\2"),
    (r"decoder\.steps\.0\.up\.(.*)", rf"{TRANSFORMER}decoder1.up.\1"),
    (r"decoder\.steps\.1\.up\.(.*)", rf"{TRANSFORMER}decoder2.up.\1"),
    (r"decoder\.steps\.0\.conv1\.(.*)", rf"{TRANSFORMER}decoder1.conv.double_conv.0.\1"),
    (r"decoder\.steps\.0\.norm1\.(.*)", rf"{TRANSFORMER}decoder1.conv.double_conv.1.\1"),
    (r"decoder\.steps\.0\.conv2\.(.*)", rf"{TRANSFORMER}decoder1.conv.double_conv.3.\1"),
    (r"decoder\.steps\.0\.norm2\.(.*)", rf"{TRANSFORMER}decoder1.conv.double_conv.4.\1"),
    (r"decoder\.steps\.1\.conv1\.(.*)", rf"{TRANSFORMER}decoder2.conv.double_conv.0.\1"),
    (r"decoder\.steps\.1\.norm1\.(.*)", rf"{TRANSFORMER}decoder2.conv.double_conv.1.\1"),
    (r"decoder\.steps\.1\.conv2\.(.*)", rf"{TRANSFORMER}decoder2.conv.double_conv.3.\1"),
    (r"decoder\.steps\.1\.norm2\.(.*)", rf"{TRANSFORMER}decoder2.conv.double_conv.4.\1"),
    (r"decoder\.head\.(.*)", rf"{TRANSFORMER}head.\1"),
    (r"decoder\.skips\.(\d)\.(.*)", r"upsample\1.\2"),
)
"""Of each of our tensors, its name in CAT-Seg's files; the first that fits."""


def published(scorer: LMSegScorer) -> dict[str, Tensor]:
    """What CAT-Seg's training would have written of these weights."""
    state: dict[str, Tensor] = {}
    for name, value in scorer.state_dict().items():
        if name.startswith(("fusion.", "sam.")):
            continue
        (key, *_) = (match.expand(place) for ours, place in NAMES if (match := re.fullmatch(ours, name)))
        key = key.replace("upsample1.", "upsample2.").replace("upsample0.", "upsample1.")
        clip = re.fullmatch(r"(.*clip_model.*attn)\.(query|key|value)\.(weight|bias)", key)
        if clip and clip[3] == "weight":
            state[f"{clip[1]}.{clip[2][0]}_proj_weight"] = value
        elif clip:
            joined = f"{clip[1]}.in_proj_bias"
            state[joined] = torch.cat([state[joined], value]) if joined in state else value
        else:
            state[key] = value[None, None] if ".attention.padding" in key else value
    state[f"{HEAD}clip_model.logit_scale"] = torch.tensor(4.6)
    state[f"{HEAD}clip_model.attn_mask"] = torch.zeros(12, 12)
    state[f"{TRANSFORMER}layers.0.swin_block.block_2.attn_mask"] = torch.zeros(4, 16, 16)
    state["clip_pixel_mean"] = state["pixel_std"] = torch.zeros(3, 1, 1)
    return state


def file(tmp_path: Path, state: dict[str, Tensor]) -> str:
    path = tmp_path / "model_base.pth"
    torch.save({"model": state, "iteration": 1}, path)
    return str(path)


def stirred() -> LMSegScorer:
    """A CAT-Seg with other weights than those that the tests begin with."""
    scorer = make(text=text_tower(), seed=9)
    torch.manual_seed(6)
    with torch.no_grad():
        for value in scorer.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return scorer


def test_all_but_the_second_encoder_is_filled(tmp_path: Path) -> None:
    source, scorer = stirred(), make(second=Edges(), text=text_tower())
    kept = {name: value.clone() for name, value in scorer.state_dict().items() if name.startswith(("sam.", "fusion."))}
    assert len(kept) > 4
    load_cat_seg(file(tmp_path, published(source)), scorer)
    state = scorer.state_dict()
    for name, value in source.state_dict().items():
        assert state[name].equal(value), name
    for name, value in kept.items():
        assert state[name].equal(value), name
    with torch.no_grad():
        found = scorer(photos(), some_words(scorer, 3)).logits
        assert found.equal(source(photos(), some_words(source, 3)).logits)


@pytest.mark.parametrize(
    "strange", ["backbone.res2.conv1.weight", f"{TRANSFORMER}layers.0.attention2.weight", f"{HEAD}text_features"]
)
def test_a_file_of_something_else_is_refused_by_its_names(tmp_path: Path, strange: str) -> None:
    state = published(make(text=text_tower())) | {strange: torch.zeros(1)}
    with pytest.raises(CheckpointError) as caught:
        load_cat_seg(file(tmp_path, state), make(text=text_tower()))
    assert f"holds no CAT-Seg, as it has {strange}; expected model_base.pth or model_large.pth" in str(caught.value)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    state = published(make(text=text_tower()))
    state[f"{TRANSFORMER}conv1.weight"] = torch.zeros(3, 1, 7, 7)
    del state[f"{HEAD}clip_model.visual.transformer.resblocks.1.attn.q_proj_weight"]
    scorer = make(text=text_tower())
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_cat_seg(file(tmp_path, state), scorer)
    for told in (
        "model_base.pth does not fit",
        "1 missing: visual.transformer.resblocks.1.attn.query.weight",
        "1 of another shape: embed.weight (file (3, 1, 7, 7), model (16, 1, 7, 7))",
    ):
        assert told in str(caught.value)
    assert all(value.equal(before[name]) for name, value in scorer.state_dict().items())


def test_files_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="as it has nothing at all"):
        load_cat_seg(file(tmp_path, {"pixel_mean": torch.zeros(3)}), make(text=text_tower()))
    with pytest.raises(CheckpointError, match="is not there"):
        load_cat_seg(str(tmp_path / "gone.pth"), make(text=text_tower()))
