"""Attention to words: PyTorch's own under the same weights, a case by hand, and what must not matter."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.text_attention import KeyValues, TextAttention, TextKeyValues, in_heads, joined_heads, read_text

C, D, WIDTH, HEADS = 12, 10, 8, 2


def trained(token_width: int = C, text_width: int = D, heads: int = HEADS) -> TextAttention:
    """As if trained: no weight is zero."""
    torch.manual_seed(0)
    attention = TextAttention(token_width, text_width, WIDTH, heads)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return attention


def tokens(batch: int = 3, count: int = 5, width: int = C) -> Tensor:
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(1))


def words(*shape: int, width: int = D) -> Tensor:
    return F.normalize(torch.randn(*shape, width, generator=torch.Generator().manual_seed(2)), dim=-1)


@torch.no_grad()
def read(attention: TextAttention, seen: Tensor, vectors: Tensor, present: Tensor | None = None) -> Tensor:
    return attention(seen, attention.key_values(vectors), present)


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("each_its_own", [False, True])
def test_it_is_pytorchs_multi_head_attention(heads: int, each_its_own: bool) -> None:
    """Of normalised tokens and vectors, where all widths are one, which PyTorch's needs."""
    attention, seen = trained(WIDTH, WIDTH, heads), tokens(width=WIDTH)
    vectors = words(3, 4, width=WIDTH) if each_its_own else words(4, width=WIDTH)
    text = F.layer_norm(vectors.expand(3, 4, WIDTH), (WIDTH,)).transpose(0, 1)
    projections = (attention.query, attention.key, attention.value)
    expected, _ = F.multi_head_attention_forward(
        F.layer_norm(seen, (WIDTH,)).transpose(0, 1),
        text,
        text,
        WIDTH,
        heads,
        torch.cat([layer.weight for layer in projections]),
        torch.cat([layer.bias for layer in projections]),
        None,
        None,
        False,
        0.0,
        attention.out.weight,
        attention.out.bias,
        need_weights=False,
    )
    torch.testing.assert_close(read(attention, seen, vectors), expected.transpose(0, 1), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_two_opposite_words_by_hand() -> None:
    """One head, identities, words e1 and -e1; a token whose first channel is the larger one prefers e1.

    Normalised, it is (1, -1), and so is e1: likeness 2, over sqrt(2). It reads (1, -1) times p - (1 - p), with
    p = sigmoid(2 sqrt(2)), which is tanh(sqrt(2)).
    """
    attention = TextAttention(2, 2, 2, 1)
    for layer in (attention.query, attention.key, attention.value, attention.out):
        layer.weight.copy_(torch.eye(2))
        layer.bias.zero_()
    added = read(attention, torch.tensor([[[0.7, 0.2], [-3.0, 5.0]]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    first = math.tanh(math.sqrt(2)) * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(added, torch.stack([first, -first])[None], atol=1e-4, rtol=0)


def test_order_and_copies_of_all_words_do_not_matter_but_a_copy_of_one_does() -> None:
    attention, seen, vectors = trained(), tokens(), words(6)
    plain = read(attention, seen, vectors)
    torch.testing.assert_close(read(attention, seen, vectors.flip(0)), plain, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(read(attention, seen, vectors.repeat(2, 1)), plain, atol=1e-6, rtol=1e-6)
    once_more = torch.cat([vectors, vectors[:1]])
    assert (read(attention, seen, once_more) - plain).abs().max() > 1e-3


def test_a_padded_batch_is_its_images_one_by_one() -> None:
    """Padding may be anything; an image without any word adds nothing."""
    attention, seen = trained(), tokens(4)
    counts = [3, 1, 0, 5]
    vectors = words(4, 5)
    present = torch.arange(5) < torch.tensor(counts)[:, None]
    vectors[~present] = 100.0 * torch.randn(int((~present).sum()), D)
    together = read(attention, seen, vectors, present)
    for image, count in enumerate(counts):
        alone = read(attention, seen[image : image + 1], vectors[image, :count])
        torch.testing.assert_close(together[image : image + 1], alone, atol=1e-6, rtol=1e-6)
    assert torch.equal(together[2], torch.zeros(5, C))


def test_words_that_are_not_present_are_not_read() -> None:
    attention, seen, vectors = trained(), tokens(), words(6)
    present = torch.tensor([True, False, True, True, False, True])
    torch.testing.assert_close(
        read(attention, seen, vectors, present), read(attention, seen, vectors[present]), atol=1e-6, rtol=1e-6
    )
    nothing = read(attention, seen, vectors, torch.zeros(6, dtype=torch.bool))
    assert torch.equal(nothing, torch.zeros_like(seen))


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize(("batch", "count", "phrases"), [(0, 5, 4), (3, 0, 4), (3, 5, 0), (0, 0, 0)])
def test_none_of_anything(batch: int, count: int, phrases: int, present: bool) -> None:
    mask = torch.ones(phrases, dtype=torch.bool) if present else None
    added = read(trained(), tokens(batch, count), words(phrases), mask)
    assert torch.equal(added, torch.zeros(batch, count, C))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_around_it_changes_nothing(dtype: torch.dtype) -> None:
    """A thousand words that hardly differ, whose softmax is flat in 8 bits of mantissa."""
    attention, seen = trained(), tokens()
    vectors = F.normalize(words(1) + 0.02 * torch.randn(1000, D), dim=-1)
    full = read(attention, seen, vectors)
    with torch.autocast("cpu", dtype):
        assert attention.key_values(vectors).keys.dtype == torch.float32
        assert torch.equal(read(attention, seen, vectors), full)
        low = read(attention, seen.to(dtype), vectors)
    assert low.dtype == dtype
    assert torch.equal(low, read(attention, seen.to(dtype).float(), vectors).to(dtype))
    # Weights that are stored so lose what they lose, and no more.
    stored = trained().to(dtype)
    text = stored.key_values(vectors.to(dtype))
    widened = stored.float()
    exact = widened(seen.to(dtype).float(), widened.key_values(vectors.to(dtype).float()))
    assert text.values.dtype == torch.float32
    torch.testing.assert_close(stored.to(dtype)(seen.to(dtype), text), exact.to(dtype))


def test_shapes_alone_on_the_meta_device() -> None:
    with torch.device("meta"):
        attention = TextAttention(C, D, WIDTH, HEADS)
        added = attention(torch.empty(2, 5, C), attention.key_values(torch.empty(7, D)))
        present = torch.ones(2, 7, dtype=torch.bool)
        padded = attention(torch.empty(2, 5, C), attention.key_values(torch.empty(2, 7, D)), present)
    assert added.shape == padded.shape == (2, 5, C)


@torch.no_grad()
def test_an_untrained_one_adds_nothing() -> None:
    attention = TextAttention(C, D, WIDTH, HEADS)
    assert torch.equal(read(attention, tokens(), words(4)), torch.zeros(3, 5, C))


def test_gradients_reach_all_its_weights_and_are_numbers_without_words() -> None:
    attention = trained()
    present = torch.tensor([[True, False], [False, False], [True, True]])
    attention(tokens(), attention.key_values(words(3, 2)), present).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # A bias of all keys moves all likenesses alike.
        assert name == "key.bias" or parameter.grad.abs().sum() > 0, name


def test_keys_and_values_of_one_text_or_of_many() -> None:
    torch.manual_seed(0)
    text, vectors = TextKeyValues(D, WIDTH, HEADS), words(3, 4)
    many = text.key_values(vectors)
    assert many.keys.shape == many.values.shape == (3, HEADS, 4, WIDTH // HEADS)
    one = text.key_values(vectors[1])
    torch.testing.assert_close(one, KeyValues(many.keys[1], many.values[1]))
    queries = in_heads(tokens(3, 5, WIDTH), HEADS)
    assert torch.equal(joined_heads(queries), tokens(3, 5, WIDTH))
    torch.testing.assert_close(read_text(queries, many)[1:2], read_text(queries[1:2], one))


def test_weights_are_drawn_and_listed_in_one_order() -> None:
    """Trainings of FISA begin and go on as ever, whatever else comes to share its attention."""
    torch.manual_seed(0)
    attention = TextAttention(C, D, WIDTH, HEADS)
    torch.manual_seed(0)
    drawn = [nn.Linear(C, WIDTH), nn.Linear(D, WIDTH), nn.Linear(D, WIDTH)]
    layers = [attention.query, attention.key, attention.value]
    for layer, expected in zip(layers, drawn, strict=True):
        assert torch.equal(layer.weight, expected.weight) and torch.equal(layer.bias, expected.bias)
    names = [name for name, _ in attention.named_parameters()]
    assert names == [f"{part}.{kind}" for part in ("query", "key", "value", "out") for kind in ("weight", "bias")]
