"""CLIP's features of every patch, as CAT-Seg and LMSeg read them; projections of which only some are trained."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.backbones.masked_attention import attended, queries_keys_values
from ovseg_ros.core.errors import ConfigError


class DenseFeatures(NamedTuple):
    """What a ViT CLIP makes of B images of h x w patches.

    Attributes:
        projected: (B, D, h, w) in the space shared with text, not normalised.
        skips: (B, C, h, w) after some of the blocks.
    """

    projected: Tensor
    skips: tuple[Tensor, ...]


class SplitAttention(nn.Module):
    """The attention of a block of open_clip with a layer for each projection, so that some of them can train alone."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        """Takes over the weights of `attention`."""
        super().__init__()
        self.heads = attention.num_heads
        width = attention.embed_dim
        with attention.in_proj_weight.device:
            self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = attention.out_proj
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        for layer, weight, bias in zip((self.query, self.key, self.value), weights, biases, strict=True):
            layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
            layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None
    ) -> tuple[Tensor, None]:
        """As `nn.MultiheadAttention` of (N, L, C), batch first, without its weights; `attn_mask` is added."""
        projected = (self.query(queries), self.key(keys), self.value(values))
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected)
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)
        return self.out_proj(read.transpose(1, 2).flatten(2)), None


def train_queries_and_values(tower: VisionTransformer | TextTransformer) -> None:
    """Freezes a tower but for the weights, not the biases, that make queries and values (CAT-Seg, LMSeg)."""
    tower.requires_grad_(False)
    for block in tower.transformer.resblocks:
        if isinstance(block.attn, nn.MultiheadAttention):
            block.attn = SplitAttention(block.attn)
        for layer in (block.attn.query, block.attn.value):
            layer.weight.requires_grad_(True)


def check_dense_tower(visual: nn.Module, skip_layers: tuple[int, ...]) -> VisionTransformer:
    """The tower, or a ConfigError saying what it has in place of what dense features need."""
    wanted = "dense features need an open_clip VisionTransformer with a class token, such as ViT-B-16 or ViT-L-14-336"
    if not isinstance(visual, VisionTransformer):
        raise ConfigError(f"{wanted}; got {type(visual).__name__}: choose another architecture")
    blocks = visual.transformer.resblocks
    if visual.attn_pool is not None or any(type(block) is not ResidualAttentionBlock for block in blocks):
        raise ConfigError(f"{wanted} and plain residual attention blocks; choose another architecture")
    if any(not 0 <= layer < len(blocks) - 1 for layer in skip_layers):
        raise ConfigError(f"skip_layers must be 0 to {len(blocks) - 2} of this CLIP, got {list(skip_layers)}")
    return visual


class DenseClip(nn.Module):
    """`dense_features` of a tower, tensors in and tensors out."""

    def __init__(self, visual: VisionTransformer, skip_layers: tuple[int, ...]) -> None:
        super().__init__()
        self.visual = visual
        self._skip_layers = skip_layers

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The projected features of images, and the skips in their order."""
        found = dense_features(self.visual, images, self._skip_layers)
        return (found.projected, *found.skips)


def dense_features(visual: VisionTransformer, images: Tensor, skip_layers: tuple[int, ...]) -> DenseFeatures:
    """Features of patches that stay where they are: the last block mixes no patches, but adds its values.

    To the values of a patch, the class token's input is added in place of its own, as CAT-Seg does.

    Args:
        images: (B, 3, H, W), normalised; sides multiples of the patch's. Positions are interpolated.
        skip_layers: blocks, from 0, whose outputs are wanted, too, in the order of `skips`.
    """
    features = visual.conv1(images)  # (B, C, rows, columns)
    rows, columns = features.shape[-2:]
    start: Tensor = visual.class_embedding
    tokens = torch.cat([start.expand(len(images), 1, -1), features.flatten(2).transpose(1, 2)], dim=1)
    tokens = visual.ln_pre(tokens + _positions(visual, (rows, columns)))  # (B, 1 + rows * columns, C)
    *blocks, last = visual.transformer.resblocks
    skips = {}
    for index, block in enumerate(blocks):
        if torch.compiler.is_compiling() and isinstance(
            block.attn, nn.MultiheadAttention
        ):  # which takes a way of its own
            tokens = attended(block, tokens, *queries_keys_values(block, tokens))
        else:
            tokens = block(tokens)
        if index in skip_layers:
            skips[index] = _as_map(tokens[:, 1:], rows)
    values = tokens[:, :1] + last.ls_1(_values(last.attn, last.ln_1(tokens[:, 1:])))
    values = values + last.ls_2(last.mlp(last.ln_2(values)))
    projected = _as_map(visual.ln_post(values) @ visual.proj, rows)
    return DenseFeatures(projected, tuple(skips[layer] for layer in skip_layers))


def _values(attention: SplitAttention | nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """What every token would read of itself alone, (B, L, C)."""
    if isinstance(attention, SplitAttention):
        return attention.out_proj(attention.value(tokens))
    width = attention.embed_dim
    values = F.linear(tokens, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    return attention.out_proj(values)


def _positions(visual: VisionTransformer, grid: tuple[int, int]) -> Tensor:
    """(1 + rows * columns, C): CLIP's own on its own grid, interpolated bicubically, in float32, on any other."""
    own: Tensor = visual.positional_embedding
    if grid == tuple(visual.grid_size):
        return own
    patches = own[1:].unflatten(0, tuple(visual.grid_size)).permute(2, 0, 1)[None]  # (1, C, rows, columns)
    patches = F.interpolate(patches.float(), size=grid, mode="bicubic", align_corners=False)
    return torch.cat([own[:1], patches[0].flatten(1).T.to(own.dtype)])


def _as_map(tokens: Tensor, rows: int) -> Tensor:
    """(B, rows * columns, C) -> (B, C, rows, columns)."""
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))
