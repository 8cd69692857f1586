"""The ViT-Adapter (Chen et al., ICLR 2023) around a BEiT-3: detail goes in, features of four scales come out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ovseg_ros.core.backbones.beit3 import Beit3, Beit3Layer, Tokens
from ovseg_ros.core.backbones.deformable import DeformableAttention, Grid, Layout, layout_of
from ovseg_ros.core.joint.omtseg.config import STAGES, AdapterConfig

_EPS, _EPS_2D = 1e-5, 1e-6
"""Of norms over tokens and over maps."""
_GATE = 1e-6
"""With which an injector begins: next to nothing goes in."""
_LAST_EXTRACTORS = 2
"""After the last stage, beside its own."""


class Features(NamedTuple):
    """What an encoder makes of images and words.

    Attributes:
        maps: (B, D, h, w) at strides 4, 8, 16, 32.
        text: (B, L, D), the words' last states, normalised.
    """

    maps: list[Tensor]
    text: Tensor


class _SpatialPrior(nn.Module):
    """Convolutions of the image: (B, D, h, w) at strides 4, 8, 16, 32."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_convolution(3, inner, stride=2), *_convolution(inner, inner), *_convolution(inner, inner),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        widths = (inner, 2 * inner, 4 * inner, 4 * inner)
        self.deeper = nn.ModuleList(nn.Sequential(*_convolution(widths[i], widths[i + 1], stride=2)) for i in range(3))
        self.out = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for convolution in self.deeper:
            maps.append(convolution(maps[-1]))
        return [out(one) for out, one in zip(self.out, maps, strict=True)]


def _convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return convolution, LayerNorm2d(outputs, eps=_EPS_2D), nn.ReLU(inplace=True)


class _Injector(nn.Module):
    """Patches read the pyramid."""

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        self.query_norm, self.feature_norm = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attention = _attention(width, config, levels=3)
        self.gate = nn.Parameter(torch.full((width,), _GATE))

    def forward(self, patches: Tensor, patch_layout: Layout, pyramid: Tensor, layout: Layout) -> Tensor:
        read = self.attention(self.query_norm(patches), patch_layout.places, self.feature_norm(pyramid), layout)
        return patches + self.gate * read


class _Extractor(nn.Module):
    """The pyramid reads the patches."""

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        hidden = config.feed_forward_width(width)
        self.query_norm, self.feature_norm = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attention = _attention(width, config, levels=1)
        self.feed_forward_norm = nn.LayerNorm(width, eps=_EPS)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, pyramid: Tensor, layout: Layout, patches: Tensor, patch_layout: Layout) -> Tensor:
        read = self.attention(self.query_norm(pyramid), layout.places, self.feature_norm(patches), patch_layout)
        pyramid = pyramid + read
        hidden = self.fc1(self.feed_forward_norm(pyramid))
        maps = [self.depthwise(one).flatten(2).transpose(1, 2) for one in as_maps(hidden, layout.grids)]
        return pyramid + self.fc2(F.gelu(torch.cat(maps, dim=1)))


def _attention(width: int, config: AdapterConfig, levels: int) -> DeformableAttention:
    values = config.value_width(width)
    return DeformableAttention(width, heads=config.heads, levels=levels, points=config.points, value_width=values)


def _initialise(convolutions: nn.Module) -> None:
    """Weights as wide as rectifiers want them, going out; no bias."""
    for layer in convolutions.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            reached = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / reached))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def as_maps(tokens: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """(B, sum of h * w, C) -> (B, C, h, w) of each grid."""
    levels = tokens.transpose(1, 2).split([rows * columns for rows, columns in grids], dim=2)
    return [level.unflatten(2, grid) for level, grid in zip(levels, grids, strict=True)]


class AdaptedEncoder(nn.Module):
    """The adapter's own weights; the BEiT-3 that it stands around is given with each call."""

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        self.prior = _SpatialPrior(width, config.prior_width)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.injectors = nn.ModuleList(_Injector(width, config) for _ in range(STAGES))
        self.extractors = nn.ModuleList(_Extractor(width, config) for _ in range(STAGES + _LAST_EXTRACTORS))
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.norms = nn.ModuleList(LayerNorm2d(width, eps=_EPS_2D) for _ in range(4))
        _initialise(self)

    def forward(
        self, encoder: Beit3, images: Tensor, text: Tensor, present: Tensor | None = None, *, fused: bool
    ) -> Features:
        """Features of images (B, 3, H, W), normalised, whose sides are multiples of 32, and of embedded text (B, L, D).

        `present`, `fused`: as of `Beit3Layer`.
        """
        first, *deeper = self.prior(images)
        grids = [(one.shape[2], one.shape[3]) for one in deeper]
        layout, patch_layout = layout_of(grids, images.device), layout_of(grids[1:2], images.device)
        levels = [one.flatten(2).transpose(1, 2) + self.level_embed[i] for i, one in enumerate(deeper)]
        pyramid = torch.cat(levels, dim=1)  # (B, 21/4 h * w, D)
        tokens = Tokens(encoder.embed_images(images), text)
        states = []
        for stage, injector in enumerate(self.injectors):
            assert tokens.image is not None
            injected = injector(tokens.image[:, 1:], patch_layout, pyramid, layout)
            tokens = tokens._replace(image=torch.cat([tokens.image[:, :1], injected], dim=1))
            for layer in _stage(encoder.layers, stage):
                tokens = layer(tokens, present, fused=fused)
            assert tokens.image is not None
            patches = tokens.image[:, 1:]
            last = STAGES + _LAST_EXTRACTORS if stage == STAGES - 1 else stage + 1
            for extractor in self.extractors[stage:last]:
                pyramid = extractor(pyramid, layout, patches, patch_layout)
            states += as_maps(patches, patch_layout.grids)
        maps = as_maps(pyramid, grids)
        maps = [first + self.up(maps[0]), *maps]
        maps = [one + _resized(state, one.shape[2:]) for one, state in zip(maps, states, strict=True)]
        return Features([norm(one) for norm, one in zip(self.norms, maps, strict=True)], _text_of(encoder, tokens))


class PlainEncoder(nn.Module):
    """Without an adapter: the patches' states after a quarter, half, three quarters and all of the layers, resized."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm2d(width, eps=_EPS_2D) for _ in range(4))

    def forward(
        self, encoder: Beit3, images: Tensor, text: Tensor, present: Tensor | None = None, *, fused: bool
    ) -> Features:
        """As of `AdaptedEncoder`."""
        tokens = Tokens(encoder.embed_images(images), text)
        patch = encoder.config.patch_size
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        maps = []
        for stage, norm in enumerate(self.norms):
            for layer in _stage(encoder.layers, stage):
                tokens = layer(tokens, present, fused=fused)
            assert tokens.image is not None
            state = as_maps(tokens.image[:, 1:], [grid])[0]
            maps.append(norm(_resized(state, [side // (4 * 2**stage) for side in images.shape[2:]])))
        return Features(maps, _text_of(encoder, tokens))


def _stage(layers: Sequence[Beit3Layer], stage: int) -> Sequence[Beit3Layer]:
    """The layers of a stage, as many as of every other."""
    return layers[len(layers) * stage // STAGES : len(layers) * (stage + 1) // STAGES]


def _text_of(encoder: Beit3, tokens: Tokens) -> Tensor:
    text = encoder.normalised(Tokens(None, tokens.text)).text
    assert text is not None
    return text


def _resized(states: Tensor, size: Sequence[int]) -> Tensor:
    """(B, D, h, w) in another height and width."""
    return F.interpolate(states, size=tuple(size), mode="bilinear", align_corners=False)
