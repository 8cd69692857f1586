"""Tokens of an image attend the words of a vocabulary: FISA's SEVE (Eqs 3 and 4), and whatever else reads words."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class KeyValues(NamedTuple):
    """What attention reads: keys and values (..., heads, T, d / heads) of T tokens."""

    keys: Tensor
    values: Tensor


class TextAttention(nn.Module):
    """Multi-head cross-attention from tokens of an image to text tokens through a bottleneck of width d.

    Both sides are normalised first, without trained parameters: unit text vectors of D numbers have entries near
    1 / sqrt(D), far from what freshly initialised projections expect. The output projection starts at zero, so that an
    untrained one changes nothing.
    """

    def __init__(self, token_width: int, text_width: int, width: int, heads: int) -> None:
        """`token_width` C of the image's tokens, `text_width` D of text vectors, `width` d, a multiple of `heads`."""
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(token_width, width)  # g_q
        self.key = nn.Linear(text_width, width)  # g_k
        self.value = nn.Linear(text_width, width)  # g_v
        self.out = nn.Linear(width, token_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def key_values(self, vectors: Tensor) -> KeyValues:
        """Keys and values (heads, P, d / heads) of text vectors (P, D), FISA Eq. 4; they do not depend on the image."""
        normalised = F.layer_norm(vectors.to(self.key.weight.dtype), vectors.shape[-1:])
        keys, values = (
            projection(normalised).unflatten(-1, (self._heads, -1)).transpose(0, 1)  # (heads, P, d / heads)
            for projection in (self.key, self.value)
        )
        return KeyValues(keys, values)

    def forward(self, tokens: Tensor, text: KeyValues) -> Tensor:
        """What to add to tokens (N, M, C), same shape: FISA Eq. 3, whose softmax is scaled by 1 / sqrt(d / heads).

        No text token at all adds nothing.
        """
        if text.keys.shape[1] == 0:
            return tokens.new_zeros(tokens.shape)
        count, masks = tokens.shape[:2]
        queries = self.query(F.layer_norm(tokens, tokens.shape[-1:])).flatten(0, 1)  # (N * M, d)
        queries = queries.unflatten(-1, (self._heads, -1)).transpose(0, 1)  # (heads, N * M, d / heads)
        read = F.scaled_dot_product_attention(queries, text.keys, text.values)
        return self.out(read.transpose(0, 1).flatten(1)).unflatten(0, (count, masks))
