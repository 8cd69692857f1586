"""Tokens of an image attend the words of a vocabulary: FISA's SEVE (Eqs 3 and 4), PMP's text-query attention (Eq. 5).

Computed in float32 whatever the precision around it: a softmax over a thousand words that hardly differ is flat in 8
bits of mantissa.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.engine.precision import Float32Island

_UNREAD = -1e30
"""Added to the likeness of a word that is not read: finite, so that a softmax over such words alone is a number."""


class KeyValues(NamedTuple):
    """What attention reads: keys and values (..., heads, T, d / heads) of T tokens."""

    keys: Tensor
    values: Tensor


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """A block that autocast leaves alone."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def linear_float32(layer: nn.Linear, values: Tensor) -> Tensor:
    """A layer in float32, whatever its weights are stored in; inside `in_float32`."""
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(values.float(), layer.weight.float(), bias)


def normalised_float32(values: Tensor) -> Tensor:
    """Layer normalisation without trained parameters, over the last axis."""
    return F.layer_norm(values.float(), values.shape[-1:])


def in_heads(values: Tensor, heads: int) -> Tensor:
    """(..., T, d) -> (..., heads, T, d / heads)."""
    return values.unflatten(-1, (heads, -1)).transpose(-3, -2)


def joined_heads(values: Tensor) -> Tensor:
    """(..., heads, T, d / heads) -> (..., T, d)."""
    return values.transpose(-3, -2).flatten(-2)


class TextProjections(Float32Island):
    """What makes the keys and values, d wide, of text vectors D wide; which layers there are, subclasses say.

    Vectors are normalised first, without trained parameters: unit vectors of D numbers have entries near 1 / sqrt(D),
    far from what freshly initialised projections expect.
    """

    heads: int
    key: nn.Linear  # g_k, f_K^t
    value: nn.Linear  # g_v, f_V^t

    def key_values(self, vectors: Tensor) -> KeyValues:
        """Keys and values (..., heads, P, d / heads) of text vectors (..., P, D), FISA Eq. 4, float32.

        They do not depend on the image.
        """
        with in_float32(vectors.device):
            normalised = normalised_float32(vectors)
            keys, values = (in_heads(linear_float32(layer, normalised), self.heads) for layer in (self.key, self.value))
        return KeyValues(keys, values)


class TextKeyValues(TextProjections):
    """The projections alone, for queries that come from elsewhere."""

    def __init__(self, text_width: int, width: int, heads: int) -> None:
        """`text_width` D of text vectors, `width` d, a multiple of `heads`."""
        super().__init__()
        self.heads = heads
        self.key = nn.Linear(text_width, width)
        self.value = nn.Linear(text_width, width)


class TextAttention(TextProjections):
    """Multi-head cross-attention from tokens of an image to text tokens through a bottleneck of width d.

    Both sides are normalised first, without trained parameters. The output projection starts at zero, so that an
    untrained one changes nothing.
    """

    def __init__(self, token_width: int, text_width: int, width: int, heads: int) -> None:
        """`token_width` C of the image's tokens, `text_width` D of text vectors, `width` d, a multiple of `heads`."""
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(token_width, width)  # g_q
        self.key = nn.Linear(text_width, width)
        self.value = nn.Linear(text_width, width)
        self.out = nn.Linear(width, token_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, tokens: Tensor, text: KeyValues, present: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """What to add to tokens (N, M, C), same shape and type: FISA Eq. 3, its softmax scaled by 1 / sqrt(d / heads).

        No text token at all adds nothing.

        Args:
            text: of all images, (heads, T, d / heads), or of each its own, (N, heads, T, d / heads).
            present: (T,) or (N, T) bool, False for text tokens that are not read, such as padding; None reads all.
            bias: (T,) in place of it, 0 for text tokens of all images and -inf for those that only fill up. If there
                is no other, what is added is a number, but means nothing.
        """
        if text.keys.shape[-2] == 0:
            return tokens.new_zeros(tokens.shape)
        with in_float32(tokens.device):
            queries = linear_float32(self.query, normalised_float32(tokens))  # (N, M, d)
            read = read_text(in_heads(queries, self.heads), text, present, bias)  # (N, heads, M, d / heads)
            added = linear_float32(self.out, joined_heads(read))
            if present is not None:  # without any text, not even the bias
                added = added * present.any(dim=-1)[..., None, None]
        return added.to(tokens.dtype)


def read_text(queries: Tensor, text: KeyValues, present: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Attention of queries (N, heads, M, d / heads) to text, of the same shape; arguments as of `TextAttention`."""
    if text.keys.ndim == 3 and present is None:  # one text for all: one long row of queries
        flat = queries.transpose(0, 1).flatten(1, 2)  # (heads, N * M, d / heads)
        if bias is None:
            read = F.scaled_dot_product_attention(flat, text.keys, text.values)
        else:  # four axes, which every engine knows
            unread = bias.clamp(min=_UNREAD)[None, None, None]
            read = F.scaled_dot_product_attention(flat[None], text.keys[None], text.values[None], unread)[0]
        return read.unflatten(1, (queries.shape[0], queries.shape[2])).transpose(0, 1)
    allowed = None
    if present is not None:
        allowed = present | ~present.any(dim=-1, keepdim=True)  # a row of nothing would be no number
        allowed = allowed[..., None, None, :]  # (N or none, 1, 1, T)
    keys, values = (part.expand(len(queries), -1, -1, -1) for part in text)
    return F.scaled_dot_product_attention(queries, keys, values, allowed)
