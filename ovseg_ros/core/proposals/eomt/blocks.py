"""Blocks: what timm's ViT needs to be told of its own, and what doubles the resolution of its patches."""

from functools import partial
from typing import Any

import torch.nn.functional as F
from timm.layers import LayerNorm, LayerNorm2d, SwiGLUPacked
from timm.models.eva import EvaBlock
from torch import Tensor, nn


class ScaleBlock(nn.Module):
    """Doubles the resolution: (B, C, h, w) -> (B, C, 2h, 2w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
        self.depthwise = nn.Conv2d(width, width, kernel_size=3, padding=1, groups=width, bias=False)
        self.norm = LayerNorm2d(width)

    def forward(self, features: Tensor, finer: Tensor | None = None) -> Tensor:
        """(B, C, h, w), and what else is known at twice the resolution (B, C, 2h, 2w) -> (B, C, 2h, 2w)."""
        features = self.upsample(features)
        if finer is not None:
            features = features + finer
        return self.norm(self.depthwise(F.gelu(features)))


def _gated_mlp_ratio(width: int) -> float:
    """What makes timm's packed SwiGLU as wide as DINOv2's: gate and value of 2/3 x 4 x width each, in eights."""
    hidden = (width * 4 * 2 // 3 + 7) // 8 * 8
    return (2 * hidden + 0.5) / width  # timm rounds the product down


def block_settings(width: int, *, swiglu: bool, dinov3: bool) -> dict[str, Any]:
    """What of timm's ViT differs from the plain one."""
    if swiglu:
        return {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": _gated_mlp_ratio(width)}
    if dinov3:
        # All tokens are turned alike: the table leaves queries, class and register tokens as they are.
        block = partial(EvaBlock, qkv_fused=False, rotate_half=True, num_prefix_tokens=0)
        return {"block_fn": block, "pos_embed": "none", "norm_layer": partial(LayerNorm, eps=1e-5)}
    return {}
