"""Mask2Former's two decoders (Cheng et al., CVPR 2022), of which the second's queries read the words, too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerSinePositionEmbedding,
)

from ovseg_ros.core.backbones.deformable import initialise
from ovseg_ros.core.backbones.pixel_decoder import PixelDecoder
from ovseg_ros.core.joint.omtseg.config import DecoderConfig
from ovseg_ros.core.text_attention import in_heads, joined_heads

_LEVELS = 3
_POINTS = 4  # transformers' pixel decoder knows no other number


def build_pixel_decoder(width: int, config: DecoderConfig) -> PixelDecoder:
    """Mask2Former's pixel decoder, with random weights, for features of `width` channels at strides 4, 8, 16, 32."""
    described = Mask2FormerConfig(
        feature_size=config.width,
        mask_feature_size=config.width,
        encoder_layers=config.pixel_layers,
        encoder_feedforward_dim=config.pixel_feed_forward_width,
        num_attention_heads=config.heads,
        dropout=0.0,
    )
    decoder = Mask2FormerPixelDecoder(described, [width] * 4)
    nn.init.normal_(decoder.level_embed)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in decoder.encoder.layers:
        initialise(layer.self_attn, config.heads, _LEVELS, _POINTS)
    return PixelDecoder(decoder)


class _Attention(nn.Module):
    """Multi-head attention whose keys may differ from its values, by positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, Q, C) of queries (B, Q, C), keys and values (B, N, C); `allowed` (B, Q or 1, N) bool, None = all."""
        q, k, v = (
            in_heads(layer(part), self._heads)
            for layer, part in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        mask = None if allowed is None else allowed[:, None]
        return self.out(joined_heads(F.scaled_dot_product_attention(q, k, v, mask)))


class DecoderLayer(nn.Module):
    """Queries read the image inside their masks, then the words, then each other."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.feed_forward_width
        self.image_attention, self.image_norm = _Attention(width, config.heads), nn.LayerNorm(width)
        self.text_attention, self.text_norm = _Attention(width, config.heads), nn.LayerNorm(width)
        self.self_attention, self.self_norm = _Attention(width, config.heads), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.final_norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        queries: Tensor,
        places: Tensor,
        image: Tensor,
        image_places: Tensor,
        allowed: Tensor,
        words: Tensor,
        named: Tensor | None = None,
    ) -> Tensor:
        """Queries (B, Q, C) of the same shape.

        Args:
            places: (Q, C), the queries' learned positions.
            image: (B, N, C), one level's features.
            image_places: (N, C), their positions.
            allowed: (B, Q, N) bool, where each query may look.
            words: (B, P, C); of none, nothing is read.
            named: (P,) bool, False for words that nothing reads; None reads all.
        """
        read = self.image_attention(queries + places, image + image_places, image, allowed)
        queries = self.image_norm(queries + read)
        if words.shape[1]:
            queries = queries + self._read(queries + places, words, named)
        queries = self.text_norm(queries)
        read = self.self_attention(queries + places, queries + places, queries)
        queries = self.self_norm(queries + read)
        return self.final_norm(queries + self.fc2(F.relu(self.fc1(queries))))

    def _read(self, queries: Tensor, words: Tensor, named: Tensor | None) -> Tensor:
        if named is None:
            return self.text_attention(queries, words, words)
        # A row of nothing would be no number; without any word, not even the bias is read.
        any_named = named.any()
        return self.text_attention(queries, words, words, (named | ~any_named)[None, None]) * any_named


class MaskedDecoder(nn.Module):
    """Learned queries become masks, layer by layer.

    Attributes:
        layers: of `DecoderLayer`.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.queries, self.places = nn.Embedding(config.queries, width), nn.Embedding(config.queries, width)
        self.level_embed = nn.Embedding(_LEVELS, width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self._sines = Mask2FormerSinePositionEmbedding(width // 2, normalize=True)

    def forward(
        self, levels: list[Tensor], pixels: Tensor, words: Tensor, named: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised queries (B, Q, C) and mask logits (B, Q, H, W), before the first layer and after each.

        Args:
            levels: (B, C, h, w) of three levels, the coarsest first.
            pixels: (B, C, H, W) of the finest, which masks are made of.
            words: (B, P, C).
            named: as of `DecoderLayer`.
        """
        flat, places = [], []
        for level, offset in zip(levels, self.level_embed.weight, strict=True):
            places.append(self._places_of(level))  # (N, C)
            flat.append(level.flatten(2).transpose(1, 2) + offset)
        queries = self.queries.weight.expand(len(pixels), -1, -1)
        states = [self.norm(queries)]
        masks = [self._masks(states[-1], pixels)]
        for i, layer in enumerate(self.layers):
            at = i % _LEVELS
            allowed = _inside(masks[-1], levels[at].shape[2:])
            queries = layer(queries, self.places.weight, flat[at], places[at], allowed, words, named)
            states.append(self.norm(queries))
            masks.append(self._masks(states[-1], pixels))
        return states, masks

    def _places_of(self, level: Tensor) -> Tensor:
        one = torch.Size((1, *level.shape[1:]))  # all images have the same
        return self._sines(one, level.device, torch.float32)[0].flatten(1).T.to(level.dtype)

    def _masks(self, queries: Tensor, pixels: Tensor) -> Tensor:
        return torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), pixels)


def _inside(masks: Tensor, size: torch.Size) -> Tensor:
    """Where queries may look, (B, Q, h * w) bool: inside their masks, or everywhere where a mask is empty."""
    inside = F.interpolate(masks.detach(), size=size, mode="bilinear", align_corners=False).flatten(2) >= 0
    return inside | ~inside.any(dim=-1, keepdim=True)
