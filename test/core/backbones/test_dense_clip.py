"""CLIP's dense features against computations by hand; projections apart are the attention that they were."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from fisa_support import tower
from lmseg_support import text_tower
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from ovseg_ros.core.backbones.dense_clip import (
    SplitAttention,
    check_dense_tower,
    dense_features,
    train_queries_and_values,
)
from ovseg_ros.core.backbones.open_clip_model import encode_prompts
from ovseg_ros.core.errors import ConfigError


def attention() -> nn.MultiheadAttention:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(24, 3, batch_first=True)
    nn.init.normal_(layer.in_proj_bias)
    nn.init.normal_(layer.out_proj.bias)
    return layer.eval()


@pytest.mark.parametrize("is_causal", [False, True])
def test_split_projections_attend_as_before(is_causal: bool) -> None:
    layer, tokens = attention(), torch.randn(2, 7, 24)
    mask = torch.full((7, 7), -torch.inf).triu(1) if is_causal else None
    expected = layer(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
    found, weights = SplitAttention(layer)(tokens, tokens, tokens, attn_mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert weights is None


def test_split_projections_are_copies() -> None:
    layer = attention()
    before, split = layer.in_proj_weight.clone(), SplitAttention(layer)
    with torch.no_grad():
        split.query.weight.zero_()
    assert layer.in_proj_weight.equal(before)


@pytest.mark.parametrize("which", [tower, text_tower])
def test_only_the_weights_of_queries_and_values_train(which) -> None:  # type: ignore[no-untyped-def]
    made = which()
    for _ in range(2):  # once more changes nothing
        train_queries_and_values(made)
        trained = {name for name, value in made.named_parameters() if value.requires_grad}
        blocks = range(len(made.transformer.resblocks))
        assert trained == {
            f"transformer.resblocks.{block}.attn.{part}.weight" for block in blocks for part in ("query", "value")
        }


def test_sentences_read_as_before() -> None:
    """Through the causal mask, of which only a part is needed."""
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    model = open_clip.CustomTextCLIP(16, vision_cfg=vision, text_cfg=text).eval()
    tokenizer, sentences = SimpleTokenizer(), ["a photo of a cup", "walls"]
    expected = encode_prompts(model, tokenizer, sentences)
    train_queries_and_values(model.text)
    torch.testing.assert_close(encode_prompts(model, tokenizer, sentences), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(F.normalize(model.text(tokenizer(sentences)), dim=-1), expected, atol=1e-6, rtol=1e-5)


def tokens_of(visual: nn.Module, images: Tensor, positions: Tensor) -> list[Tensor]:
    """What goes into each block and out of the last but one, (B, 1 + L, C) each, step by step."""
    patches = F.unfold(images, 8, stride=8).transpose(1, 2) @ visual.conv1.weight.flatten(1).T
    start = visual.class_embedding.expand(len(images), 1, -1)
    states = [visual.ln_pre(torch.cat([start, patches], dim=1) + positions)]
    for block in visual.transformer.resblocks[:-1]:
        states.append(block(states[-1]))
    return states


def by_hand(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """The last block, where a patch reads itself alone and is added to the class token's input."""
    rows = []
    for patch in range(1, tokens.shape[1]):
        alone = block.ln_1(tokens[:, patch : patch + 1])
        value = tokens[:, :1] + block.attn(alone, alone, alone)[0]  # attention over one token is its value
        rows.append(value + block.mlp(block.ln_2(value)))
    return torch.cat(rows, dim=1)


@pytest.mark.parametrize("is_split", [False, True])
def test_features_by_hand_on_the_towers_own_grid(is_split: bool) -> None:
    visual, images = tower(quick=True), torch.randn(2, 3, 32, 32)
    states = tokens_of(visual, images, visual.positional_embedding)
    last = visual.ln_post(by_hand(visual.transformer.resblocks[-1], states[-1])) @ visual.proj
    if is_split:
        train_queries_and_values(visual)
    found = dense_features(visual, images, (0, 1))
    torch.testing.assert_close(found.projected, last.transpose(1, 2).unflatten(2, (4, 4)), atol=1e-5, rtol=1e-4)
    for skip, state in zip(found.skips, states[1:], strict=True):
        torch.testing.assert_close(skip, state[:, 1:].transpose(1, 2).unflatten(2, (4, 4)), atol=1e-5, rtol=1e-4)


def test_positions_are_interpolated_bicubically_on_any_other_grid() -> None:
    visual, images = tower(), torch.randn(1, 3, 24, 48)
    own = visual.positional_embedding
    patches = F.interpolate(own[1:].T.reshape(1, 32, 4, 4), (3, 6), mode="bicubic", align_corners=False)
    states = tokens_of(visual, images, torch.cat([own[:1], patches[0].flatten(1).T]))
    found = dense_features(visual, images, (1,))
    assert found.projected.shape == (1, 16, 3, 6)
    torch.testing.assert_close(found.skips[0].flatten(2).transpose(1, 2), states[2][:, 1:], atol=1e-5, rtol=1e-4)


def test_skips_come_in_the_order_of_their_layers() -> None:
    visual, images = tower(), torch.randn(1, 3, 32, 32)
    first, second = dense_features(visual, images, (0, 1)).skips
    swapped = dense_features(visual, images, (1, 0)).skips
    assert swapped[0].equal(second)
    assert swapped[1].equal(first)
    assert dense_features(visual, images, (1, 1)).skips[1].equal(second)


@pytest.mark.parametrize("layer", [-1, 2])
def test_skips_beyond_the_last_block_but_one_are_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=rf"skip_layers must be 0 to 1 of this CLIP, got \[0, {layer}\]"):
        check_dense_tower(tower(), (0, layer))


def test_towers_without_dense_features_are_refused() -> None:
    visual = tower()
    assert check_dense_tower(visual, (0, 1)) is visual
    with pytest.raises(ConfigError, match="class token, such as ViT-B-16.*; got Linear: choose another"):
        check_dense_tower(nn.Linear(1, 1), (0, 1))
    with pytest.raises(ConfigError, match="plain residual attention blocks"):
        check_dense_tower(tower(attentional_pool=True, attn_pooler_queries=2), (0, 1))
    visual.transformer.resblocks[1] = nn.Identity()
    with pytest.raises(ConfigError, match="plain residual attention blocks"):
        check_dense_tower(visual, (0, 1))
