"""Words in EoMT's joint blocks: equal to the blocks one by one, with the words read before each."""

import pytest
import torch
import torch.nn.functional as F
from guidance_support import D, guided, images, prepared, vectors
from torch import Tensor

from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.types import QueryPrediction


def by_hand(network: EoMT, pixels: Tensor, rows: Tensor, is_masked: bool) -> list[QueryPrediction]:
    """A prediction before each joint block and after the last: predict, read the words, then the block."""
    encoder, count = network.encoder, network.config.num_queries
    words, blocks = prepared(network, rows), network.config.joint_blocks
    tokens, (grid, _) = network._embed(pixels)
    for block in encoder.blocks[:-blocks]:
        tokens = block(tokens)
    tokens = torch.cat([network.queries.weight.expand(len(pixels), -1, -1), tokens], dim=1)
    predictions = []

    def predict() -> None:
        normalised = encoder.norm(tokens)
        queries, patches = normalised[:, :count], normalised[:, -grid[0] * grid[1] :]
        features = network.upscale(patches.transpose(1, 2).unflatten(2, grid))
        masks = torch.einsum("bqc,bchw->bqhw", network.mask_head(queries), features)
        word_logits = network.guidance.word_logits(queries, words)
        predictions.append(QueryPrediction(masks, network.class_head(queries), word_logits))

    for prompt, block in zip(network.guidance.prompts, encoder.blocks[-blocks:], strict=True):
        predict()
        allowed = torch.ones(len(pixels), 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool)
        if is_masked:
            inside = F.interpolate(predictions[-1].mask_logits, grid, mode="bilinear") > 0
            allowed[:, 0, :count, -grid[0] * grid[1] :] = inside.flatten(2)
        queries = tokens[:, :count]
        asked = prompt.query(F.layer_norm(queries, queries.shape[-1:]))
        text = F.layer_norm(rows, (D,))
        keys, values = prompt.key(text), prompt.value(text)
        heads = [part.chunk(prompt.heads, -1) for part in (asked, keys, values)]
        read = [(q @ k.T / q.shape[-1] ** 0.5).softmax(dim=-1) @ v for q, k, v in zip(*heads, strict=True)]
        queries = queries + prompt.out(torch.cat(read, dim=-1))
        tokens = block(torch.cat([queries, tokens[:, count:]], dim=1), attn_mask=allowed)
    predict()
    return predictions


@torch.no_grad()
@pytest.mark.parametrize("is_masked", [False, True])
def test_each_block_is_the_decision_written_out(is_masked: bool) -> None:
    network, pixels, rows = guided("eomt"), images(), vectors(4)
    words = prepared(network, rows)
    layers = network.forward_masked(pixels, torch.full((3,), float(is_masked)), words=words)
    expected = by_hand(network, pixels, rows, is_masked)
    assert len(layers) == len(expected) == network.config.joint_blocks + 1
    for layer, wanted in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.mask_logits, wanted.mask_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.class_logits, wanted.class_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.word_logits, wanted.word_logits, atol=1e-4, rtol=1e-5)  # cosines, times 14
    if not is_masked:
        proposals, plainly = network(pixels, words), network.forward_layers(pixels, words)
        assert torch.equal(plainly[0].mask_logits, layers[0].mask_logits)
        for name in ("mask_logits", "class_logits", "word_logits"):
            assert torch.equal(getattr(proposals, name), getattr(plainly[-1], name))
    network.guidance = None
    without = network.forward_masked(pixels, torch.full((3,), float(is_masked)))
    assert torch.equal(layers[0].mask_logits, without[0].mask_logits)  # nothing has been read yet
    for layer, other in zip(layers[1:], without[1:], strict=True):
        assert (layer.mask_logits - other.mask_logits).abs().max() > 1e-2


def test_layers_and_their_width_are_the_joint_blocks() -> None:
    network = guided("eomt")
    assert network.guided_layers == (3, 48)
    assert len(network.guidance.prompts) == 3


@torch.no_grad()
def test_an_empty_batch() -> None:
    network = guided("eomt")
    proposals = network(images(0), prepared(network, vectors(4)))
    assert proposals.mask_logits.shape == (0, 7, 16, 16)
    assert proposals.word_logits.shape == (0, 7, 5)
