"""What of the scorer an engine runs: two encoders, their fusion, the refinement under words, and the decoder.

Cosines and which words are looked at lie between the encoders and the rest, outside, in float32.
"""

from typing import NamedTuple

import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.backbones.dense_clip import DenseClip
from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.scoring.lmseg.aggregation import ABSENT
from ovseg_ros.core.scoring.lmseg.config import LMSegConfig
from ovseg_ros.core.scoring.lmseg.decoder import Decoder
from ovseg_ros.core.scoring.lmseg.fusion import Fusion

_IMAGES, _WORDS = {0: "images"}, {0: "images", 1: "words"}


class _Second(nn.Module):
    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (self.encoder.features(pixels),)


class _Fuse(nn.Module):
    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, clip: Tensor, second: Tensor) -> tuple[Tensor]:
        return (self.fusion(clip, second),)


class Refinement(nn.Module):
    """Cosines of words, refined over cells and over words; and what the decoder takes from CLIP."""

    def __init__(self, embed: nn.Conv2d, image_guidance: nn.Conv2d, layers: nn.ModuleList, decoder: Decoder) -> None:
        super().__init__()
        self.embed, self.image_guidance, self.layers, self.decoder = embed, image_guidance, layers, decoder

    def forward(
        self,
        features: Tensor,
        early: Tensor,
        late: Tensor,
        cosines: Tensor,
        guidance: Tensor,
        absence: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Cells (B, K, h, w, C), and of the skips what each of the decoder's steps reads.

        Args:
            features: (B, D, h, w).
            early, late: the skips, (B, C', h, w).
            cosines: (B, K, h, w).
            guidance: (B or 1, K, G).
            absence: (K,), as `WordAttention` has it.
        """
        cells = self.embed(cosines.flatten(0, 1)[:, None]).movedim(1, -1).unflatten(0, cosines.shape[:2])
        image = F.relu(self.image_guidance(features)).movedim(1, -1)  # (B, h, w, G)
        for layer in self.layers:
            cells = layer(cells, image, guidance, absence)
        return (cells, *self.decoder.guides((early, late)))


class _Decode(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, cells: Tensor, coarse: Tensor, fine: Tensor) -> tuple[Tensor]:
        return (self.decoder(cells, (coarse, fine)),)


class ScorerParts(NamedTuple):
    """In the order in which they run; None where there is no second encoder."""

    clip: Part
    second: Part | None
    fuse: Part | None
    refine: Part
    decode: Part

    @property
    def present(self) -> tuple[Part, ...]:
        """Those that there are."""
        return tuple(part for part in self if part is not None)


def scorer_parts(
    visual: VisionTransformer,
    sam: ImageEncoder | None,
    fusion: Fusion | None,
    refinement: Refinement,
    config: LMSegConfig,
) -> ScorerParts:
    """The parts of a scorer that is made of these."""
    clip, second, features = (Port(name, _IMAGES) for name in ("clip", "second", "features"))
    skips = [Port(name, _IMAGES) for name in ("early", "late")]
    cells, guides = Port("cells", _WORDS), [Port(name, _IMAGES) for name in ("coarse", "fine")]
    words = [Port("cosines", _WORDS), Port("guidance", _WORDS), Port("absence", {0: "words"}, fill=ABSENT)]
    pixels = [Port("pixels", _IMAGES)]
    return ScorerParts(
        Part("clip", DenseClip(visual, config.skip_layers), pixels, [clip, *skips]),
        None if sam is None else Part("second", _Second(sam), pixels, [second]),
        None if fusion is None else Part("fuse", _Fuse(fusion), [clip, second], [features]),
        Part("refine", refinement, [features, *skips, *words], [cells, *guides]),
        Part("decode", _Decode(refinement.decoder), [cells, *guides], [Port("logits", _WORDS)]),
    )
