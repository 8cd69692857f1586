"""What may embed patches instead of one projection: convolutions, learned from scratch or pretrained."""

from itertools import pairwise
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_GROUPS = 5
"""Block groups of EfficientNet-Lite0 up to stride 16."""
_NORMS = {
    "EfficientNet": (("conv_stem", "bn1"),),
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}
"""timm's names of the convolutions and what normalises and activates their outputs."""

Grid = tuple[int, int]
"""Rows and columns of patches."""


class Encoded(NamedTuple):
    """Images as patches: their grid, and for each upscale block what a stem saw in its resolution; none without.

    `finer` has the stem's own channels, and the ViT's width once `EoMT._lead_in` has read it.
    """

    grid: Grid
    finer: list[Tensor]


def convolutional_stem(width: int, patch_size: int) -> nn.Sequential:
    """Halves the resolution until one pixel is one patch: (B, 3, H, W) -> (B, width, H / patch, W / patch)."""
    halvings = patch_size.bit_length() - 1
    channels = [3] + [width // 2 ** (halvings - step - 1) for step in range(halvings)]
    layers: list[nn.Module] = []
    for inside, outside in pairwise(channels):
        layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, width, kernel_size=1))


class PretrainedStem(nn.Module):
    """EfficientNet-Lite0 (Tan and Le, 2019) up to stride 16, and a projection to the ViT's width.

    Attributes:
        finer_channels: of the maps of stride 8 and 4 on the way, in that order.
    """

    finer_channels = (40, 24)

    def __init__(self, width: int) -> None:
        super().__init__()
        # Padded on both sides: TensorFlow pads on one alone, which shows the same on a grid shifted by 15 pixels.
        self.network = timm.create_model("efficientnet_lite0", bn_eps=1e-3, num_classes=0)
        del self.network.blocks[_GROUPS:], self.network.conv_head, self.network.bn2
        self.projection = nn.Sequential(nn.Conv2d(112, width, kernel_size=1, bias=False), nn.BatchNorm2d(width))
        self._lay_out()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, H / 16, W / 16)."""
        return self.pyramid(images)[0]

    def pyramid(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, and the maps of `finer_channels`: (B, 40, H / 8, W / 8) and (B, 24, H / 4, W / 4)."""
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.network.bn1(self.network.conv_stem(images))
        finer: list[Tensor] = []
        for number, group in enumerate(self.network.blocks):
            features = group(features)
            if number in (1, 2):
                finer.insert(0, features)
        return self.projection(features), finer

    def fold_norms(self) -> None:
        """Make the batch norms part of the convolutions before them, once, for inference: it can no longer learn.

        The same features up to rounding, in less time.
        """
        self.eval().requires_grad_(False)
        for module in list(self.modules()):
            for convolution, norm in _NORMS.get(type(module).__name__, ()):
                before, after = getattr(module, convolution), getattr(module, norm)
                setattr(module, convolution, fuse_conv_bn_eval(before, after))
                setattr(module, norm, after.act)
        self.projection = nn.Sequential(fuse_conv_bn_eval(*self.projection))
        self._lay_out()

    def _lay_out(self) -> None:
        """Colours side by side, which is twice as fast on a CPU."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
