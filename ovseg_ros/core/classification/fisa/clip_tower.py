"""The image half of CLIP as FISA uses it: tokens of any image size, and what mask tokens may read of them.

The image path runs open_clip's own blocks on tokens that nobody added to, so it is CLIP's to the bit.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.text_attention import KeyValues


def check_tower(visual: nn.Module) -> VisionTransformer:
    """The tower, or a ConfigError saying what it has in place of what mask tokens need."""
    wanted = "FISA needs an open_clip VisionTransformer that pools by its class token, such as ViT-L-14-336 or ViT-B-16"
    if not isinstance(visual, VisionTransformer):
        raise ConfigError(
            f"{wanted}; got {type(visual).__name__}. SigLIP and timm towers pool by attention or averaging, "
            "where no class token exists that a mask token could start from: choose another architecture"
        )
    if visual.attn_pool is not None or visual.pool_type != "tok":
        pooling = "attentional pooling" if visual.attn_pool is not None else f"{visual.pool_type!r} pooling"
        raise ConfigError(f"{wanted}; this one has {pooling}: choose another architecture")
    for block in visual.transformer.resblocks:
        if type(block) is not ResidualAttentionBlock or not block.attn.batch_first:
            raise ConfigError(f"{wanted}, with plain residual attention blocks; this one has {type(block).__name__}")
    return visual


def class_token(visual: VisionTransformer) -> Tensor:
    """The class token (C,) that enters the first block, from which mask tokens start; the same for every image."""
    return visual.ln_pre(visual.class_embedding + visual.positional_embedding[0])


def position_embedding(visual: VisionTransformer, grid: tuple[int, int]) -> Tensor:
    """(1 + rows * columns, C): CLIP's own on its own grid, bilinearly interpolated on any other."""
    own: Tensor = visual.positional_embedding
    own_grid: tuple[int, int] = visual.grid_size
    if grid == tuple(own_grid):
        return own
    patches = own[1:].unflatten(0, own_grid).permute(2, 0, 1)[None]  # (1, C, rows, columns)
    patches = F.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([own[:1], patches[0].flatten(1).T])


def first_tokens(visual: VisionTransformer, images: Tensor) -> Tensor:
    """The tokens (N, 1 + P, C) that enter the first block, class token first, of images as of `image_tokens`."""
    features = visual.conv1(images)  # (N, C, rows, columns)
    rows, columns = features.shape[-2:]
    patches = features.flatten(2).transpose(1, 2)
    start: Tensor = visual.class_embedding
    tokens = torch.cat([start.to(patches.dtype).expand(len(patches), 1, -1), patches], dim=1)
    return visual.ln_pre(tokens + position_embedding(visual, (rows, columns)).to(patches.dtype))


def image_tokens(visual: VisionTransformer, images: Tensor) -> Iterator[Tensor]:
    """The tokens (N, 1 + P, C), class token first, that enter each block, one block after the other.

    The last block itself is not run: no mask token reads what comes out of it.

    Args:
        images: (N, 3, H, W), normalised; H and W multiples of the patch size.
    """
    tokens = first_tokens(visual, images)
    blocks = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        yield tokens
        if index + 1 < len(blocks):
            tokens = block(tokens)


def image_key_values(visual: VisionTransformer, images: Tensor) -> Iterator[KeyValues]:
    """f_k and f_v (N, heads, 1 + P, C / heads), class token first, of the tokens that enter each block (FISA Eq. 2).

    Layer by layer, for images (N, 3, H, W), and nothing is kept beyond the layer in hand: at 896 x 896, all layers of a
    ViT-L would be hundreds of megabytes.
    """
    blocks = visual.transformer.resblocks
    for block, tokens in zip(blocks, image_tokens(visual, images), strict=True):
        attention = block.attn
        width, heads = attention.embed_dim, attention.num_heads
        weight, bias = attention.in_proj_weight[width:], attention.in_proj_bias[width:]
        both = F.linear(block.ln_1(tokens), weight, bias)  # (N, 1 + P, 2 * C)
        both = both.unflatten(-1, (2, heads, -1))  # (N, 1 + P, 2, heads, C / heads)
        yield KeyValues(both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2))
