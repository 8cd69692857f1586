"""SEVE's first half: mask tokens attend the text of the vocabulary (FISA Eqs 3 and 4)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class TextMemory(NamedTuple):
    """Keys and values (heads, P, d / heads) of P text tokens; they depend on the vocabulary and not on the image."""

    keys: Tensor
    values: Tensor


class SemanticExtraction(nn.Module):
    """Multi-head cross-attention from mask tokens to text tokens through a bottleneck of width d.

    Both sides are normalised first, without trained parameters: unit text vectors of D numbers have entries near
    1 / sqrt(D), far from what freshly initialised projections expect. The output projection starts at zero, so that an
    untrained SEVE changes nothing.
    """

    def __init__(self, token_width: int, text_width: int, width: int, heads: int) -> None:
        """`token_width` C of mask tokens, `text_width` D of text vectors, `width` d, a multiple of `heads`."""
        super().__init__()
        self._heads = heads
        self.query = nn.Linear(token_width, width)  # g_q
        self.key = nn.Linear(text_width, width)  # g_k
        self.value = nn.Linear(text_width, width)  # g_v
        self.out = nn.Linear(width, token_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def remember(self, vectors: Tensor) -> TextMemory:
        """Keys and values of text vectors (P, D), FISA Eq. 4."""
        normalised = F.layer_norm(vectors.to(self.key.weight.dtype), vectors.shape[-1:])
        keys, values = (
            projection(normalised).unflatten(-1, (self._heads, -1)).transpose(0, 1)  # (heads, P, d / heads)
            for projection in (self.key, self.value)
        )
        return TextMemory(keys, values)

    def forward(self, tokens: Tensor, text: TextMemory) -> Tensor:
        """What to add to mask tokens (N, M, C), same shape: FISA Eq. 3, whose softmax is scaled by 1 / sqrt(d / heads).

        No text token at all adds nothing.
        """
        if text.keys.shape[1] == 0:
            return tokens.new_zeros(tokens.shape)
        count, masks = tokens.shape[:2]
        queries = self.query(F.layer_norm(tokens, tokens.shape[-1:])).flatten(0, 1)  # (N * M, d)
        queries = queries.unflatten(-1, (self._heads, -1)).transpose(0, 1)  # (heads, N * M, d / heads)
        read = F.scaled_dot_product_attention(queries, text.keys, text.values)
        return self.out(read.transpose(0, 1).flatten(1)).unflatten(0, (count, masks))
