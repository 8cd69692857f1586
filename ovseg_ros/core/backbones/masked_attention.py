"""open_clip's blocks as engines run them, where their attention is masked, or what it reads is wanted too.

Up to rounding, they are open_clip's own, which trainings run.
"""

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from ovseg_ros.core.text_attention import in_heads, joined_heads

_ALIGNED = 8  # numbers; where a GPU's attention may begin to read


def attention_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., T) bool -> what is added to likenesses: 0 where True, -inf where False.

    Rows begin at multiples of 8 numbers, as a GPU's attention reads them; others it would copy, in every layer.
    """
    length = allowed.shape[-1]
    allowed = F.pad(allowed, (0, -length % _ALIGNED), value=True)
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, float("-inf"))[..., :length]


def queries_keys_values(
    block: ResidualAttentionBlock, tokens: Tensor, first: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of tokens (N, T, C) that enter a block, each (N, heads, T, C / heads); queries of the `first` alone, if given."""
    attention, normalised = block.attn, block.ln_1(tokens)
    width, weights, biases = attention.embed_dim, attention.in_proj_weight, attention.in_proj_bias
    if first is None:
        queries, keys, values = F.linear(normalised, weights, biases).chunk(3, dim=-1)
    else:
        queries = F.linear(normalised[:, :first], weights[:width], biases[:width])
        keys, values = F.linear(normalised, weights[width:], biases[width:]).chunk(2, dim=-1)
    heads = attention.num_heads
    return in_heads(queries, heads), in_heads(keys, heads), in_heads(values, heads)


def attended(
    block: ResidualAttentionBlock,
    tokens: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """The tokens (N, T, C) after a block, whose queries are given (see `queries_keys_values`), and what they read.

    `bias` is added to likenesses, (N or 1, 1, T, tokens read), the same for all heads.
    """
    read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    tokens = tokens + block.ls_1(block.attn.out_proj(joined_heads(read)))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
