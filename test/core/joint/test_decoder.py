"""The decoders: transformers' own where no words are read, and by hand where they are."""

import math

import pytest
import torch
from tiny_omtseg import stir
from torch import Tensor
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerTransformerModule

from ovseg_ros.core.joint.omtseg.config import DecoderConfig
from ovseg_ros.core.joint.omtseg.decoder import DecoderLayer, MaskedDecoder, _inside, build_pixel_decoder

CONFIG = DecoderConfig(32, heads=4, pixel_layers=1, queries=7, layers=5, feed_forward_width=48)


def decoder(amount: float = 0.2) -> MaskedDecoder:
    torch.manual_seed(0)
    module = MaskedDecoder(CONFIG)
    stir(module, amount)
    return module.eval()


def features(height: int = 4, width: int = 6, batch: int = 2) -> tuple[list[Tensor], Tensor]:
    """Of three levels, the coarsest of this size, and of pixels."""
    torch.manual_seed(1)
    levels = [torch.randn(batch, 32, height * scale, width * scale) for scale in (1, 2, 4)]
    return levels, torch.randn(batch, 32, height * 8, width * 8)


def published(module: MaskedDecoder) -> Mask2FormerTransformerModule:
    """transformers' decoder with the weights of ours; it has no text attention."""
    config = Mask2FormerConfig(
        feature_size=32, mask_feature_size=32, hidden_dim=32, dim_feedforward=48, decoder_layers=6,
        num_attention_heads=4, num_queries=7, dropout=0.0,
    )  # fmt: skip
    theirs = Mask2FormerTransformerModule(32, config)
    state = {
        "queries_features.weight": module.queries.weight,
        "queries_embedder.weight": module.places.weight,
        "level_embed.weight": module.level_embed.weight,
    }

    def put(name: str, part: torch.nn.Module) -> None:
        state.update({f"decoder.{name}.{key}": value for key, value in part.state_dict().items()})

    put("layernorm", module.norm)
    for index in range(3):
        put(f"mask_predictor.mask_embedder.{index}.0", module.mask_head[2 * index])
    for index, layer in enumerate(module.layers):
        for name, part in (("cross_attn", layer.image_norm), ("self_attn", layer.self_norm)):
            put(f"layers.{index}.{name}_layer_norm", part)
        for name, part in (("final_layer_norm", layer.final_norm), ("fc1", layer.fc1), ("fc2", layer.fc2)):
            put(f"layers.{index}.{name}", part)
        image, itself = layer.image_attention, layer.self_attention
        for name, part in (("q", itself.query), ("k", itself.key), ("v", itself.value), ("out", itself.out)):
            put(f"layers.{index}.self_attn.{name}_proj", part)
        put(f"layers.{index}.cross_attn.out_proj", image.out)
        packed = [image.query, image.key, image.value]
        state[f"decoder.layers.{index}.cross_attn.in_proj_weight"] = torch.cat([part.weight for part in packed])
        state[f"decoder.layers.{index}.cross_attn.in_proj_bias"] = torch.cat([part.bias for part in packed])
    theirs.load_state_dict(state)
    return theirs.eval()


def silence(module: MaskedDecoder) -> None:
    """Nothing is read of words; the norm behind it is fresh, and what comes is normalised already."""
    for layer in module.layers:
        for part in (layer.text_attention.out.weight, layer.text_attention.out.bias, layer.text_norm.bias):
            torch.nn.init.zeros_(part)
        for norm in (layer.image_norm, layer.text_norm):
            torch.nn.init.ones_(norm.weight)
            torch.nn.init.zeros_(norm.bias)


@pytest.mark.parametrize(("height", "width", "batch"), [(4, 6, 2), (1, 1, 1), (3, 2, 3)])
@torch.no_grad()
def test_with_words_silenced_it_is_transformers_decoder(height: int, width: int, batch: int) -> None:
    ours = decoder()
    silence(ours)
    levels, pixels = features(height, width, batch)
    wanted = published(ours)(levels, pixels)
    for count in (0, 3):
        states, masks = ours(levels, pixels, torch.randn(batch, count, 32))
        assert len(states) == len(masks) == CONFIG.layers + 1
        for state, one in zip(states, wanted.intermediate_hidden_states, strict=True):
            torch.testing.assert_close(state, one.transpose(0, 1), atol=1e-4, rtol=0)
        for mask, one in zip(masks, wanted.masks_queries_logits, strict=True):
            torch.testing.assert_close(mask, one, atol=1e-4, rtol=1e-5)


def test_both_have_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        whole = MaskedDecoder(DecoderConfig())
        pixel_decoder = build_pixel_decoder(1024, DecoderConfig())
    of_text = [layer.get_submodule(name) for layer in whole.layers for name in ("text_attention", "text_norm")]
    assert sum(count(part) for part in of_text) == 2_373_120
    assert count(whole) - 2_373_120 == 14_458_624
    assert count(pixel_decoder) == 6_101_440


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def test_queries_read_the_words_after_the_image_and_before_each_other() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(CONFIG)
    stir(layer, 0.2)
    queries, places = torch.randn(2, 7, 32), torch.randn(7, 32)
    image, image_places, words = torch.randn(2, 24, 32), torch.randn(24, 32), torch.randn(2, 5, 32)
    allowed = torch.rand(2, 7, 24) > 0.5
    wanted = layer.image_norm(
        queries + _attention(layer.image_attention, queries + places, image + image_places, image, allowed)
    )
    wanted = layer.text_norm(wanted + _attention(layer.text_attention, wanted + places, words, words))
    wanted = layer.self_norm(wanted + _attention(layer.self_attention, wanted + places, wanted + places, wanted))
    wanted = layer.final_norm(wanted + layer.fc2(layer.fc1(wanted).relu()))
    result = layer(queries, places, image, image_places, allowed, words)
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)
    # Another order of the words is the same set of words, and one twice counts twice.
    turned = layer(queries, places, image, image_places, allowed, words.flip(1))
    torch.testing.assert_close(result, turned, atol=1e-5, rtol=1e-5)
    twice = layer(queries, places, image, image_places, allowed, torch.cat([words, words], dim=1))
    torch.testing.assert_close(result, twice, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(result, layer(queries, places, image, image_places, allowed, words[:, :1]), atol=1e-3)


def _attention(module, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:  # type: ignore[no-untyped-def]
    """Query by query, head by head."""
    q, k, v = module.query(queries), module.key(keys), module.value(values)
    read = torch.zeros_like(q)
    for b in range(len(q)):
        for n in range(q.shape[1]):
            for head in range(CONFIG.heads):
                at = slice(head * 8, head * 8 + 8)
                scores = k[b, :, at] @ q[b, n, at] / math.sqrt(8)
                if allowed is not None:
                    scores = scores.where(allowed[b, n], -math.inf)
                read[b, n, at] = scores.softmax(dim=0) @ v[b, :, at]
    return module.out(read)


@torch.no_grad()
def test_one_word_is_read_by_all_queries_alike() -> None:
    torch.manual_seed(0)
    attention = DecoderLayer(CONFIG).text_attention
    word = torch.randn(1, 1, 32)
    read = attention(torch.randn(1, 7, 32), word, word)
    torch.testing.assert_close(read, attention.out(attention.value(word)).expand(1, 7, 32))


def test_queries_look_inside_their_masks_or_everywhere_where_these_are_empty() -> None:
    masks = torch.full((1, 4, 4, 4), -1.0)
    masks[0, 0, :2, :2] = 3.0  # one cell of four
    masks[0, 1] = 0.0  # as likely in as out counts as in
    masks[0, 3, 0, 0] = 2.0  # too little of any cell
    inside = _inside(masks, torch.Size((2, 2)))
    assert inside[0].tolist() == [[True, False, False, False], [True] * 4, [True] * 4, [True] * 4]


@torch.no_grad()
def test_an_image_does_not_see_its_neighbours_in_a_batch() -> None:
    module = decoder()
    (levels, pixels), words = features(batch=3), torch.randn(3, 4, 32)
    states, masks = module(levels, pixels, words)
    for b in range(3):
        at = slice(b, b + 1)
        one_states, one_masks = module([level[at] for level in levels], pixels[at], words[at])
        torch.testing.assert_close(one_states[-1], states[-1][at], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one_masks[-1], masks[-1][at], atol=1e-3, rtol=1e-4)
