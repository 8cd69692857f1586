"""What an OMTSeg is made of."""

from typing import Annotated

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ovseg_ros.core.backbones.beit3 import Beit3Config, Width
from ovseg_ros.core.config import STRICT

STRIDE = 32
"""Of the coarsest features: the sides of images are multiples of it, pixels."""
MASK_STRIDE = 4
"""Pixels of the image along a pixel of the masks."""
STAGES = 4
"""Groups of layers, as many as there are features of one scale; an adapter stands around each."""


@dataclass(frozen=True, slots=True, config=STRICT)
class AdapterConfig:
    """The ViT-Adapter, which gives a plain transformer spatial detail.

    Attributes:
        prior_width: channels of the convolutions' first stage; the later ones have 2, 4 and 4 times as many.
        heads, points: of the deformable attention; points are on each level.
        value_share: width of the attention's values, of D.
        feed_forward_share: width of the hidden layer of the extractors' feed-forward networks, of D.
    """

    prior_width: Width = 64
    heads: PositiveInt = 16
    points: Annotated[int, Field(ge=1, le=64)] = 4
    value_share: Annotated[float, Field(gt=0, le=4)] = 0.5
    feed_forward_share: Annotated[float, Field(gt=0, le=4)] = 0.25

    def value_width(self, width: int) -> int:
        """Of the attention's values, for tokens of so many channels."""
        return int(width * self.value_share)

    def feed_forward_width(self, width: int) -> int:
        """Of the extractors' hidden layer, for tokens of so many channels."""
        return max(1, int(width * self.feed_forward_share))


@dataclass(frozen=True, slots=True, config=STRICT)
class DecoderConfig:
    """Mask2Former's pixel decoder and masked decoder, with attention to words.

    Attributes:
        width: channels of features, queries and masks.
        heads: of every attention.
        pixel_layers, pixel_feed_forward_width: of the pixel decoder.
        queries: most masks in an image.
        layers, feed_forward_width: of the masked decoder.
    """

    width: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 256
    heads: PositiveInt = 8
    pixel_layers: Annotated[int, Field(ge=1, le=64)] = 6
    pixel_feed_forward_width: Annotated[int, Field(ge=1, le=65_536)] = 1024
    queries: Annotated[int, Field(ge=1, le=10_000)] = 100
    layers: Annotated[int, Field(ge=1, le=64)] = 9
    feed_forward_width: Annotated[int, Field(ge=1, le=65_536)] = 2048


@dataclass(frozen=True, slots=True, config=STRICT)
class OMTSegConfig:
    """Architecture of an OMTSeg.

    Attributes:
        encoder: the BEiT-3.
        adapter: None for features of one scale alone, as an ablation has it.
        decoder: what makes masks of features.
        trained_words: tokens of the longest text that it was trained with; positions of longer ones are interpolated.
        fused: whether image and text see each other in the encoder.
    """

    encoder: Beit3Config
    adapter: AdapterConfig | None = Field(default_factory=AdapterConfig)
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    trained_words: Annotated[int, Field(ge=3, le=65_536)] = 640
    fused: bool = True

    def __post_init__(self) -> None:
        if self.encoder.patch_size * 2 != STRIDE:
            raise ValueError(f"encoder.patch_size is {self.encoder.patch_size}; expected {STRIDE // 2}")
        if any(side % STRIDE for side in self.encoder.image_size):
            raise ValueError(f"encoder.image_size is {list(self.encoder.image_size)}; expected multiples of {STRIDE}")
        if self.trained_words > (rows := self.encoder.text_length):
            raise ValueError(f"trained_words {self.trained_words} is more than encoder.text_length {rows}")
        if self.encoder.layers % STAGES:
            raise ValueError(f"encoder.layers is {self.encoder.layers}; expected a multiple of {STAGES}")
        adapter, decoder = self.adapter, self.decoder
        if adapter is not None:
            values = adapter.value_width(self.encoder.width)
            if values == 0 or values % adapter.heads:
                raise ValueError(f"adapter.heads {adapter.heads} does not divide {values}, the width of its values")
        if decoder.width % decoder.heads:
            raise ValueError(f"decoder.width {decoder.width} is no multiple of decoder.heads {decoder.heads}")
