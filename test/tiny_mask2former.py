"""A Mask2Former as transformers has it, in small."""

from collections.abc import Sequence
from typing import Any

from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, PretrainedConfig, SwinConfig

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def tiny_swin(**changes: Any) -> SwinConfig:
    """Four stages of one block each, but for `changes`."""
    plain = {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
    return SwinConfig(**{**plain, **changes}, out_features=STAGES)


def tiny_mask2former(
    names: Sequence[str] = ("cup", "floor", "wall"),
    *,
    layers: int,
    heads: int = 4,
    queries: int = 7,
    backbone: PretrainedConfig | None = None,
) -> Mask2FormerForUniversalSegmentation:
    """Queries of width 32 through so many decoder layers, X0 counted as transformers does, on a tiny Swin."""
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone or tiny_swin(),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=32,
            dim_feedforward=32,
            encoder_layers=1,
            decoder_layers=layers,
            num_attention_heads=heads,
            num_queries=queries,
            id2label=dict(enumerate(names)),
        )
    )
