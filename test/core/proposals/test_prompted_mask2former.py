"""Words in Mask2Former's decoder: equal to its nine layers written out, with the words where the paper has them."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from guidance_support import LITERAL, D, guided, images, plain, prepared, stir, vectors
from torch import Tensor, nn

from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.proposals.mask2former import Mask2Former
from ovseg_ros.core.proposals.prompt_guidance import PromptConfig, PromptGuidance
from ovseg_ros.core.text_attention import TextAttention, TextKeyValues
from ovseg_ros.core.weights.strict import load_strict, save_state_half

LAYERS = 9


def attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int, blocked: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d / heads)) V head by head, (B, Q, d); `blocked` (B, Q, T) bool."""
    width, read = queries.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        likeness = queries[..., part] @ keys[..., part].transpose(-1, -2) / width**0.5
        if blocked is not None:
            likeness = likeness.masked_fill(blocked, -torch.inf)
        read.append(likeness.softmax(dim=-1) @ values[..., part])
    return torch.cat(read, dim=-1)


def decoder_inputs(network: Mask2Former, pixels: Tensor) -> dict[str, Any]:
    """What the pixel decoder hands to the layers."""
    seen: dict[str, Any] = {}
    decoder = network.network.model.transformer_module.decoder
    with decoder.register_forward_pre_hook(lambda module, args, inputs: seen.update(inputs), with_kwargs=True):
        network.network.model(pixel_values=pixels)
    return seen


def by_hand(network: Mask2Former, pixels: Tensor, rows: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """Normalised queries (B, Q, C) and masks (B, Q, h, w) of X0 and after each layer; words (P, D) or none."""
    seen, decoder = decoder_inputs(network, pixels), network.network.model.transformer_module.decoder
    positions = seen["query_position_embeddings"].transpose(0, 1)  # (B, Q, C)
    tokens = seen["inputs_embeds"].transpose(0, 1)
    sizes, heads = seen["feature_size_list"], network.network.config.num_attention_heads
    states, masks = [], []

    def look() -> None:
        states.append(decoder.layernorm(tokens))
        embedded = decoder.mask_predictor.mask_embedder(states[-1])
        masks.append(torch.einsum("bqc,bchw->bqhw", embedded, seen["pixel_embeddings"]))

    look()
    for index, layer in enumerate(decoder.layers):
        level = index % 3
        inside = F.interpolate(masks[-1], sizes[level], mode="bilinear", align_corners=False).sigmoid() >= 0.5
        blocked = ~inside.flatten(2)
        blocked = blocked & ~blocked.all(dim=-1, keepdim=True)  # who sees nothing sees all
        values = seen["encoder_hidden_states"][level].transpose(0, 1)
        keys = values + seen["multi_stage_positional_embeddings"][level].transpose(0, 1)
        queries = tokens + positions
        prompt = None if rows is None else network.guidance.prompts[index]
        if prompt is not None:
            text = F.layer_norm(rows, (D,))
        if isinstance(prompt, TextAttention):  # X + pos + A(X + pos, t)
            normalised = F.layer_norm(queries, queries.shape[-1:])
            read = attention(prompt.query(normalised), prompt.key(text), prompt.value(text), prompt.heads)
            queries = queries + prompt.out(read)
        cross = layer.cross_attn
        weights, biases = cross.in_proj_weight.chunk(3), cross.in_proj_bias.chunk(3)
        queries = F.linear(queries, weights[0], biases[0])
        if isinstance(prompt, TextKeyValues):  # Q' = softmax(Q Kt^T) Vt
            queries = attention(queries, prompt.key(text), prompt.value(text), prompt.heads)
        keys, values = F.linear(keys, weights[1], biases[1]), F.linear(values, weights[2], biases[2])
        read = cross.out_proj(attention(queries, keys, values, heads, blocked))
        tokens = layer.cross_attn_layer_norm(tokens + read)  # the residual is X of the layer before
        own = layer.self_attn
        turned = tokens + positions
        read = attention(own.q_proj(turned), own.k_proj(turned), own.v_proj(tokens), heads)
        tokens = layer.self_attn_layer_norm(tokens + own.out_proj(read))
        tokens = layer.final_layer_norm(tokens + layer.fc2(F.relu(layer.fc1(tokens))))
        look()
    return states, masks


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mask2former", "literal"])
def test_each_layer_is_the_papers_written_out(kind: str) -> None:
    network, pixels, rows = guided(kind), images(), vectors(4)
    words = prepared(network, rows)
    layers, proposals = network.forward_layers(pixels, words), network(pixels, words)
    states, masks = by_hand(network, pixels, rows)
    assert len(layers) == len(states) == LAYERS + 1
    for layer, state, mask in zip(layers, states, masks, strict=True):
        torch.testing.assert_close(layer.mask_logits, mask, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.class_logits, network.network.class_predictor(state), atol=1e-5, rtol=1e-5)
        expected = network.guidance.word_logits(state, words)
        torch.testing.assert_close(layer.word_logits, expected, atol=1e-4, rtol=1e-5)  # cosines to 1e-5, times 14
    for name in ("mask_logits", "class_logits", "word_logits"):
        assert torch.equal(getattr(proposals, name), getattr(layers[-1], name))
    # Nor would it be so without words.
    without = by_hand(network, pixels, None)[1]
    torch.testing.assert_close(layers[0].mask_logits, without[0], atol=1e-5, rtol=1e-5)  # X0 has read nothing yet
    assert all(
        (layer.mask_logits - mask).abs().max() > 1e-2 for layer, mask in zip(layers[1:], without[1:], strict=True)
    )


@torch.no_grad()
def test_layers_and_their_width_are_the_networks_own() -> None:
    network = plain("mask2former")
    assert network.guided_layers == (LAYERS, 32)
    assert network.patch_size == 4 and network.mask_size(64, 96) == (16, 24)
    layers = network.forward_layers(images(1, 60, 84))
    assert [tuple(layer.mask_logits.shape) for layer in layers] == [(1, 7, 15, 21)] * (LAYERS + 1)
    assert all(layer.word_logits is None for layer in layers)


@torch.no_grad()
@pytest.mark.parametrize("rows", [vectors(0), vectors(3)])
def test_eq_5_to_the_letter_without_words_is_the_plain_layer(rows: Tensor) -> None:
    """To the bit, also of an image without words beside one with words."""
    network, pixels = guided("literal"), images()
    network.guidance, guidance = None, network.guidance
    without = network(pixels)
    network.guidance = guidance
    none = torch.zeros(len(rows), dtype=torch.bool)
    assert torch.equal(network(pixels, prepared(network, rows, none)).mask_logits, without.mask_logits)
    if len(rows):
        one = torch.stack([none, ~none])
        masks = network(pixels, prepared(network, rows.expand(2, -1, -1), one)).mask_logits
        assert torch.equal(masks[0], without.mask_logits[0])
        assert (masks[1] - without.mask_logits[1]).abs().max() > 1e-2


def test_eq_5_to_the_letter_needs_the_queries_width() -> None:
    with pytest.raises(ConfigError, match=r"residual: false needs prompt.width 32, .* got 8"):
        PromptGuidance(9, 32, D, PromptConfig(width=8, heads=2, residual=False))


@torch.no_grad()
def test_with_one_word_eq_5_to_the_letter_gives_all_queries_one_look() -> None:
    """Why it is not the default: what a query was is gone."""
    network = guided("literal")
    replaced = network.guidance.replace(0, torch.randn(2, 5, 32), prepared(network, vectors(1)))
    torch.testing.assert_close(replaced, replaced[:1, :1].expand(2, 5, 32))


def hooks_of(network: Mask2Former) -> int:
    modules: list[nn.Module] = [network, *network.modules()]
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules)


@pytest.mark.parametrize("kind", ["mask2former", "literal"])
def test_words_are_held_for_the_call_only(kind: str) -> None:
    network = guided(kind)
    before = hooks_of(network)
    words = prepared(network, vectors(4))
    with torch.no_grad():
        network(images(), words)
        assert hooks_of(network) == before
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 4, 64, 64), words)  # four colours
        assert hooks_of(network) == before
    held = weakref.ref(words.layers.keys)
    del words
    gc.collect()
    assert held() is None


@torch.no_grad()
def test_names_of_tensors_are_the_public_ones_with_the_guidances_beside_them() -> None:
    network = plain("mask2former")
    public = {f"network.{name}" for name in network.network.state_dict()}
    assert set(network.state_dict()) == public
    network.guidance = PromptGuidance(*network.guided_layers, D, PromptConfig(width=8, heads=2))
    network(images(), prepared(network, vectors(2)))
    parts = ("query", "key", "value", "out")
    added = {f"prompts.{i}.{part}.{kind}" for i in range(9) for part in parts for kind in ("weight", "bias")}
    added |= {f"word_head.{part}.{kind}" for part in ("hidden", "embed") for kind in ("weight", "bias")}
    added |= {"word_head.no_object", "word_head.logit_scale"}
    assert set(network.state_dict()) == public | {f"guidance.{name}" for name in added}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mask2former", "literal"])
def test_the_whole_network_travels_in_one_strict_file(kind: str, tmp_path: Path) -> None:
    """After the public weights were loaded, as `build_proposer` does."""
    trained, file = guided(kind), tmp_path / "trained.safetensors"
    for parameter in trained.parameters():  # what half precision can hold
        parameter.copy_(parameter.half())
    save_state_half(trained.state_dict(), file)
    network = guided(kind, is_trained=False)
    stir(network, 0.1)
    load_strict(network, file)
    words, rows = prepared(network, vectors(3)), vectors(3)
    assert torch.equal(network(images(), words).mask_logits, trained(images(), prepared(trained, rows)).mask_logits)
    with pytest.raises(CheckpointError, match="unexpected: guidance.prompts.0"):
        load_strict(plain(kind), file)
    if kind == "literal":
        assert network.guidance is not None and network.guidance.config == LITERAL
