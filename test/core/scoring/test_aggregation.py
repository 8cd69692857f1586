"""Attention over cells and over words, computed again by explicit loops."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from lmseg_support import lmseg_config
from torch import Tensor, nn

from ovseg_ros.core.scoring.lmseg.aggregation import WindowAttention, WordAttention

WIDTH, GUIDANCE, HEADS = 6, 3, 2


def stir(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    module.eval()


def window_attention(grid: tuple[int, int], window: int, *, shifted: bool) -> WindowAttention:
    config = lmseg_config(width=WIDTH, heads=HEADS, guidance_width=GUIDANCE, window=window)
    layer = WindowAttention(config, grid, shifted=shifted)
    stir(layer)
    return layer


def word_attention(padded: int = 5, pooling: int = 2) -> WordAttention:
    config = lmseg_config(width=WIDTH, heads=HEADS, guidance_width=GUIDANCE, padded_words=padded, pooling=pooling)
    layer = WordAttention(config)
    stir(layer)
    return layer


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def same_window(one: tuple[int, int], other: tuple[int, int], side: int, shift: int) -> bool:
    """Whether two cells see each other: in one window of a partition that begins `shift` cells inside the image.

    Windows that begin outside, at the left and at the top, see only what is inside: no cell of the far end.
    """
    return all((a + side - shift) // side == (b + side - shift) // side for a, b in zip(one, other, strict=True))


def spatial_by_loops(layer: WindowAttention, cells: Tensor, guidance: Tensor, side: int, shift: int) -> Tensor:
    images, words, *grid, _ = cells.shape
    places = list(itertools.product(*map(range, grid)))
    result = torch.empty_like(cells)
    for image, word in itertools.product(range(images), range(words)):
        normalised = layer.norm1(cells[image, word])
        beside = torch.cat([normalised, guidance[image]], dim=-1)
        queries, keys, values = layer.query(beside), layer.key(beside), layer.value(normalised)
        for place in places:
            seen = [other for other in places if same_window(place, other, side, shift)]
            read = []
            for head in range(HEADS):
                part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                likeness = torch.stack([queries[place][part] @ keys[other][part] for other in seen])
                weights = (likeness / (WIDTH // HEADS) ** 0.5).softmax(dim=0)
                read.append(sum(w * values[other][part] for w, other in zip(weights, seen, strict=True)))
            cell = cells[image, word][place] + layer.out(torch.cat(read))
            result[image, word][place] = cell + layer.mlp(layer.norm2(cell))
    return result


@pytest.mark.parametrize(
    ("grid", "window", "shifted", "side", "shift"),
    [
        ((4, 6), 2, False, 2, 0),
        ((4, 6), 2, True, 2, 1),
        ((6, 6), 3, True, 3, 1),
        ((4, 4), 7, True, 4, 0),  # larger than the grid: one window
        ((3, 6), 5, True, 3, 0),  # than one of its sides: windows of that side, not shifted
    ],
)
def test_attention_over_cells_by_loops(
    grid: tuple[int, int], window: int, shifted: bool, side: int, shift: int
) -> None:
    layer = window_attention(grid, window, shifted=shifted)
    cells, guidance = random(2, 2, *grid, WIDTH), random(2, *grid, GUIDANCE)
    expected = spatial_by_loops(layer, cells, guidance, side, shift)
    torch.testing.assert_close(layer(cells, guidance), expected, atol=1e-5, rtol=1e-5)


def words_by_loops(layer: WordAttention, cells: Tensor, guidance: Tensor) -> Tensor:
    """At every cell of every image, all words by linear attention; without padding."""
    result = torch.empty_like(cells)
    for image, row, column in itertools.product(*(range(cells.shape[axis]) for axis in (0, 2, 3))):
        here = cells[image, :, row, column]  # (K, C)
        normalised, read = layer.norm1(here), []
        beside = torch.cat([normalised, guidance[image]], dim=-1)
        queries, keys = F.elu(layer.query(beside)) + 1, F.elu(layer.key(beside)) + 1
        values = layer.value(normalised)
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            weights = queries[:, part] @ keys[:, part].T  # (K, K)
            read.append(weights @ values[:, part] / (weights.sum(dim=1, keepdim=True) + 1e-6))
        attended = here + torch.cat(read, dim=-1)
        result[image, :, row, column] = here + attended + layer.mlp(layer.norm2(attended))
    return result


@pytest.mark.parametrize("count", [1, 2, 5])
def test_attention_over_words_by_loops(count: int) -> None:
    layer = word_attention(padded=0)
    cells, guidance = random(2, count, 2, 3, WIDTH), random(2, count, GUIDANCE)
    expected = words_by_loops(layer, cells, guidance)
    torch.testing.assert_close(layer(cells, guidance), expected, atol=1e-5, rtol=1e-5)
    shared = layer(cells, guidance[:1])  # one guidance for all images
    torch.testing.assert_close(shared[0], expected[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 5, 6])
def test_padding_is_so_many_learned_words(count: int) -> None:
    """Folded into the sums over words, it is what explicit words at every cell would be; and it is not neutral."""
    layer = word_attention(padded=5)
    cells, guidance = random(2, count, 2, 3, WIDTH), random(2, count, GUIDANCE)
    missing = max(0, 5 - count)
    padding = layer.padding.expand(2, missing, 2, 3, WIDTH)
    beside = layer.padding_guidance.expand(2, missing, GUIDANCE)
    expected = words_by_loops(layer, torch.cat([cells, padding], dim=1), torch.cat([guidance, beside], dim=1))
    found = layer(cells, guidance)
    torch.testing.assert_close(found, expected[:, :count], atol=1e-5, rtol=1e-5)
    alone = words_by_loops(layer, cells, guidance)
    assert torch.allclose(found, alone, atol=1e-4) == (missing == 0)


def test_in_training_words_attend_to_words_at_pooled_cells() -> None:
    layer = word_attention()
    cells, guidance = random(2, 3, 4, 6, WIDTH), random(1, 3, GUIDANCE)
    pooled = cells.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))  # (B, K, 2, 3, C)
    added = (layer(pooled, guidance) - pooled).flatten(0, 1).permute(0, 3, 1, 2)
    added = F.interpolate(added, (4, 6), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    found = layer.train()(cells, guidance)
    torch.testing.assert_close(found, cells + added.unflatten(0, (2, 3)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, layer.eval()(cells, guidance), atol=1e-3)
    layer = word_attention(pooling=1).train()
    assert layer(cells, guidance).equal(layer.eval()(cells, guidance))


def test_what_is_shared_by_all_learns() -> None:
    layer = word_attention()
    layer(random(1, 2, 2, 2, WIDTH), random(1, 2, GUIDANCE)).square().sum().backward()
    for parameter in (layer.padding, layer.padding_guidance):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
