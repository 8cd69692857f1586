"""Mask2Former's pixel decoder as transformers has it, but that the host never waits for the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    Mask2FormerPixelDecoderEncoderOnly,
    Mask2FormerPixelDecoderOutput,
    Mask2FormerSinePositionEmbedding,
    multi_scale_deformable_attention,
)

from ovseg_ros.core.backbones.deformable import Grid, layout_of
from ovseg_ros.core.engine.precision import Float32Island
from ovseg_ros.core.text_attention import in_float32


class PixelDecoder(Float32Island):
    """The library's layers under their names, and its numbers to the bit.

    The library copies the sizes of the levels to the device, once for the image and once for each layer; a copy from
    the host waits, and cannot be captured in a graph. Here they are made on the device.

    In float32 whatever is around it, as its authors run it: in bfloat16, places would be some cells apart.
    """

    level_embed: nn.Parameter
    position_embedding: Mask2FormerSinePositionEmbedding
    input_projections: nn.ModuleList
    encoder: Mask2FormerPixelDecoderEncoderOnly
    mask_projection: nn.Conv2d

    def __init__(self, decoder: Mask2FormerPixelDecoder) -> None:
        """Takes over the parts of `decoder`."""
        super().__init__()
        self.level_embed = decoder.level_embed
        for name, part in decoder.named_children():
            self.add_module(name, part)
        for layer in self.encoder.layers:
            layer.self_attn = _Attention(layer.self_attn)
        self._laterals, self._outputs = tuple(decoder.lateral_convolutions), tuple(decoder.output_convolutions)

    def forward(
        self, features: Sequence[Tensor], output_hidden_states: bool | None = None
    ) -> Mask2FormerPixelDecoderOutput:
        """What masks are made of, `mask_features`, and `multi_scale_features` for the queries, coarsest first.

        Args:
            features: (B, C, h, w) of strides 4, 8, 16 and 32; outputs are of their type.
            output_hidden_states: not asked for, though the library says it.
        """
        dtype = features[0].dtype
        with in_float32(features[0].device):
            outputs = self._decoded([level.float() for level in features])
            masks = self.mask_projection(outputs[-1])
        return Mask2FormerPixelDecoderOutput(
            mask_features=masks.to(dtype),
            multi_scale_features=tuple(level.to(dtype) for level in outputs[: len(self.level_embed)]),
        )

    def _decoded(self, features: list[Tensor]) -> list[Tensor]:
        """Features of all levels, coarsest first."""
        coarsest = features[: -len(self.input_projections) - 1 : -1]
        levels = [layer(level) for layer, level in zip(self.input_projections, coarsest, strict=True)]
        grids: list[Grid] = [(level.shape[2], level.shape[3]) for level in levels]
        sines = [self.position_embedding(level.shape, level.device, level.dtype) for level in levels]
        places = [
            sine.flatten(2).transpose(1, 2) + offset for sine, offset in zip(sines, self.level_embed, strict=True)
        ]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)  # (B, N, C)
        reference = _reference(grids, tokens.device)
        positions = torch.cat(places, dim=1)
        for layer in self.encoder.layers:
            tokens = layer(
                tokens,
                None,
                position_embeddings=positions,
                reference_points=reference,
                spatial_shapes_list=grids,
            )[0]
        counts = [rows * columns for rows, columns in grids]
        outputs = [
            part.transpose(1, 2).unflatten(2, grid) for part, grid in zip(tokens.split(counts, 1), grids, strict=True)
        ]
        finer = features[: len(self._laterals)][::-1]
        for lateral, output, level in zip(self._laterals, self._outputs, finer, strict=True):
            coarser = nn.functional.interpolate(
                outputs[-1], size=level.shape[-2:], mode="bilinear", align_corners=False
            )
            outputs.append(output(lateral(level) + coarser))
        return outputs


class _Attention(nn.Module):
    """The library's deformable attention, for references that say the sizes of the levels."""

    def __init__(self, attention: Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention) -> None:
        """Takes over its layers."""
        super().__init__()
        self._shape = (attention.n_heads, attention.n_levels, attention.n_points)
        self.sampling_offsets, self.attention_weights = attention.sampling_offsets, attention.attention_weights
        self.value_proj, self.output_proj = attention.value_proj, attention.output_proj

    def forward(
        self,
        *,
        hidden_states: Tensor,
        position_embeddings: Tensor,
        reference_points: Tensor,
        spatial_shapes_list: list[Grid],
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) and weights, called as the library's layer does.

        Args:
            hidden_states: (B, N, C), the cells of all levels.
            position_embeddings: (B, N, C).
            reference_points: (N, levels, 4), each cell's (x, y) in [0, 1] and a level's width and height in cells.
            spatial_shapes_list: the levels' grids.
            _: what it says of the same things once more.
        """
        queries = hidden_states + position_embeddings
        values = self.value_proj(hidden_states).unflatten(-1, (self._shape[0], -1))
        offsets = self.sampling_offsets(queries).unflatten(-1, (*self._shape, 2))  # (B, N, heads, levels, points, 2)
        weights = self.attention_weights(queries).unflatten(-1, (self._shape[0], -1)).softmax(dim=-1)
        weights = weights.unflatten(-1, self._shape[1:])
        places, sizes = reference_points[:, None, :, None].split(2, dim=-1)
        read = multi_scale_deformable_attention(values, spatial_shapes_list, places + offsets / sizes, weights)
        return self.output_proj(read), weights


def _reference(grids: list[Grid], device: torch.device) -> Tensor:
    """As of `_Attention`; numbers go to the device with what fills a tensor, which is no copy."""
    places = layout_of(grids, device).places  # (N, 2)
    sides = [float(side) for rows, columns in grids for side in (columns, rows)]
    sizes = torch.cat([torch.full((len(places), 1), side, device=device) for side in sides], dim=1)
    sizes = sizes.unflatten(1, (-1, 2))  # (N, levels, 2)
    return torch.cat([places[:, None].expand(sizes.shape), sizes], dim=-1)
