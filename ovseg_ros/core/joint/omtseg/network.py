"""OMTSeg's network: encoder, adapter, decoders and heads, for the model and for training."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.backbones.beit3 import Beit3
from ovseg_ros.core.engine.precision import Float32Island
from ovseg_ros.core.joint.omtseg.adapter import AdaptedEncoder, PlainEncoder
from ovseg_ros.core.joint.omtseg.config import MASK_STRIDE, STRIDE, OMTSegConfig
from ovseg_ros.core.joint.omtseg.decoder import MaskedDecoder, build_pixel_decoder
from ovseg_ros.core.joint.omtseg.tokens import PLACEHOLDER
from ovseg_ros.core.text_attention import in_float32
from ovseg_ros.core.types import QueryPrediction

OBJECT, NOTHING = 0, 1
"""Classes of the objectness logits."""
_INITIAL_SCALE = 1 / 0.07
_ENCODER, _POSITIONS = "encoder.", "encoder.encoder.embed_positions."


class _Float32Linear(Float32Island, nn.Linear):
    """A linear layer that no half precision rounds."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values.float())


class _Float32Sequential(Float32Island, nn.Sequential):
    """Layers that no half precision rounds."""

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = super().forward(values.float())
        return result


class Read(NamedTuple):
    """What is known of each query before it is named.

    Attributes:
        states: (B, Q, C) before the decoder's first layer and after each, normalised.
        masks: (B, Q, H / 4, W / 4) logits of these.
        meanings: (B, P, D), the words' last states.
    """

    states: list[Tensor]
    masks: list[Tensor]
    meanings: Tensor


class OMTSegNetwork(nn.Module):
    """Reads images and one text, and says of each query its mask, whether it is anything, and what.

    Attributes:
        config: its architecture.
        encoder: the BEiT-3.
        name_mark: (1, D), the trained vector that stands before every name, `<wls>`: where a name's meaning is read.
    """

    def __init__(self, config: OMTSegConfig, encoder: Beit3) -> None:
        """With random weights around those of `encoder`, which is of `config.encoder`."""
        super().__init__()
        self.config = config
        width, inner = config.encoder.width, config.decoder.width
        self.encoder = encoder
        self.name_mark = nn.Parameter(self.encoder.text_embed.weight[:1].detach().clone())
        self.adapter = PlainEncoder(width) if config.adapter is None else AdaptedEncoder(width, config.adapter)
        self.pixel_decoder = build_pixel_decoder(width, config.decoder)
        self.decoder = MaskedDecoder(config.decoder)
        self.words = nn.Linear(width, inner)  # read by the decoder
        self.names = _Float32Linear(width, inner)  # compared with the queries
        self.name_head = _Float32Sequential(
            nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, inner), nn.GELU(), nn.Linear(inner, inner)
        )
        self.objectness = nn.Linear(inner, 2)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_INITIAL_SCALE)))

    def trained_state(self, *, encoder_is_public: bool) -> dict[str, Tensor]:
        """What a training changes: everything, or of a public encoder its positions alone."""
        state: dict[str, Tensor] = self.state_dict()
        if not encoder_is_public:
            return state
        return {
            key: value for key, value in state.items() if not key.startswith(_ENCODER) or key.startswith(_POSITIONS)
        }

    def freeze_encoder(self) -> None:
        """Of the encoder, leave its positions to training alone."""
        self.encoder.requires_grad_(False)
        self.encoder.encoder.embed_positions.requires_grad_(True)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with, a float32 number on the device."""
        return self.log_scale.float().exp()

    def mask_size(self, height: int, width: int) -> tuple[int, int]:
        """A quarter."""
        return height // MASK_STRIDE, width // MASK_STRIDE

    def embed(self, ids: Tensor) -> Tensor:
        """Embedded text (L, D) of token ids (L,), in which `PLACEHOLDER` is the trained vector before a name."""
        is_mark = ids == PLACEHOLDER
        words = self.encoder.text_embed(ids.masked_fill(is_mark, 0))
        words = torch.where(is_mark[:, None], self.name_mark, words)
        return self.encoder.embed_text(words, self.config.trained_words)

    def forward(self, images: Tensor, text: Tensor, places: Tensor) -> tuple[list[QueryPrediction], Tensor]:
        """What the heads say before the decoder's first layer and after each, and the last queries (B, Q, C).

        Arguments and errors as of `read`.
        """
        states, masks, meanings = self.read(images, text, places)
        names = self.unit_names(meanings)
        predictions = [
            QueryPrediction(mask, self.objectness(state), self.word_logits(state, names))
            for state, mask in zip(states, masks, strict=True)
        ]
        return predictions, states[-1]

    def read(
        self,
        images: Tensor,
        text: Tensor,
        places: Tensor,
        present: Tensor | None = None,
        named: Tensor | None = None,
    ) -> Read:
        """Reads images and text.

        Args:
            images: (B, 3, H, W), normalised by ImageNet's statistics; sides are multiples of 32.
            text: (L, D), from `embed`, for all images.
            places: (P,) int64, where in the text the marks before names are; their word logits are in this order.
            present: (L,) bool, False for tokens behind the text's end, which nothing reads; None = all are of the text.
            named: (P,) bool, False for places that are none of a name; None = all are.

        Raises:
            ValueError: sides are no multiples of 32.
        """
        height, width = images.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"OMTSeg takes images of multiples of {STRIDE} pixels, got {height} x {width}")
        count, dtype = len(images), self.name_mark.dtype
        tokens = text.expand(count, -1, -1)
        if present is not None:
            present = present.expand(count, -1)
        features = self.adapter(self.encoder, images, tokens, present, fused=self.config.fused)
        pixels = self.pixel_decoder([one.to(dtype) for one in features.maps])
        meanings = features.text[:, places]  # (B, P, D)
        levels = list(pixels.multi_scale_features)
        states, masks = self.decoder(levels, pixels.mask_features, self.words(meanings), named)
        return Read(states, masks, meanings)

    def unit_names(self, meanings: Tensor) -> Tensor:
        """Unit vectors (B, C, P) of words' meanings (B, P, D), float32."""
        return F.normalize(self.names(meanings).float(), dim=-1).transpose(1, 2)

    def word_logits(self, states: Tensor, names: Tensor) -> Tensor:
        """Word logits (B, Q, P): scaled cosines of queries (B, Q, C) and unit names (B, C, P), float32."""
        queries = F.normalize(self.name_head(states).float(), dim=-1)
        with in_float32(states.device):
            return self.scale * queries @ names
