"""What an LMSeg is made of."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, Share

Width = Annotated[int, Field(ge=1, le=65_536)]
GroupedWidth = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
"""Channels in groups of 16, which are normalised together."""
Side = Annotated[int, Field(ge=4, le=4096)]


@dataclass(frozen=True, slots=True, config=STRICT)
class FusionConfig:
    """How CLIP's and SAM's features become one, F = w F_clip + (1 - w) F_sam.

    Attributes:
        kind: what w is: "scalar", one trained number (the paper's); "channel", one for each channel; "pixel", predicted
            from both; "fixed", `clip_share`. "concat": a trained 1x1 convolution of both, CLIP's alone at first.
        clip_share: w before any training, in [0, 1].
    """

    kind: Literal["scalar", "channel", "pixel", "fixed", "concat"] = "scalar"
    clip_share: Share = 0.5

    def __post_init__(self) -> None:
        if self.kind in ("scalar", "channel", "pixel") and self.clip_share in (0, 1):
            raise ValueError(
                f"clip_share is {self.clip_share}, from where a sigmoid learns nothing; expected a value between 0 and "
                "1, or kind: fixed"
            )


@dataclass(frozen=True, slots=True, config=STRICT)
class UpsamplingConfig:
    """The decoder: two steps, each of twice the resolution and with features of one of CLIP's blocks beside it.

    Attributes:
        widths: channels after each step.
        skip_widths: of CLIP's features, once they have the step's resolution.
        guidance_widths: of these, as each step reads them.
    """

    widths: tuple[GroupedWidth, GroupedWidth] = (64, 32)
    skip_widths: tuple[Width, Width] = (256, 128)
    guidance_widths: tuple[Width, Width] = (32, 16)


@dataclass(frozen=True, slots=True, config=STRICT)
class LMSegConfig:
    """LMSeg (arXiv 2412.00364) on CAT-Seg's cost aggregation. Defaults are those of ViT-B/16.

    Attributes:
        image_size: (height, width) that images are scaled to for CLIP, whatever their aspect ratio, pixels.
        skip_layers: blocks of CLIP, from 0 and ascending, whose features the decoder reads.
        tunes_clip: whether queries and values of CLIP's two towers are trained; else CLIP stays as it is. A language
            model in the text tower's place is never trained.
        width, heads: channels and heads of the aggregation; its feed-forward networks are 4 times as wide.
        layers: aggregation layers.
        window: cells along a window of the spatial attention; grids of no more cells have one window.
        guidance_width: channels of the image's and of the words' features as the aggregation reads them.
        padded_words: what is compared: fewer words are filled up with learned ones to so many; of more, those with the
            highest cosine somewhere in the image. 0 takes all as they are.
        pooling: cells that the attention over words averages along each side in training; 1 at any other time.
        spatial, by_word: which of the two attentions there are.
        upsampling: the decoder.
        fusion: of CLIP's and SAM's features.
        windows: whether four overlapping windows are read beside the whole image, and averaged; five times the work,
            for benchmarks.
    """

    image_size: tuple[Side, Side] = (384, 384)
    skip_layers: tuple[int, int] = (3, 7)
    tunes_clip: bool = True
    width: Width = 128
    heads: PositiveInt = 4
    layers: Annotated[int, Field(ge=0, le=64)] = 2
    window: PositiveInt = 12
    guidance_width: Width = 128
    padded_words: Annotated[int, Field(ge=0, le=65_535)] = 256
    pooling: PositiveInt = 2
    spatial: bool = True
    by_word: bool = True
    upsampling: UpsamplingConfig = Field(default_factory=UpsamplingConfig)
    fusion: FusionConfig = Field(default_factory=FusionConfig)
    windows: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.skip_layers[0] >= self.skip_layers[1]:
            raise ValueError(f"skip_layers is {list(self.skip_layers)}; expected two blocks, the earlier first")
        inside = (self.width, self.upsampling.widths[0])
        for step, (channels, guidance) in enumerate(zip(inside, self.upsampling.guidance_widths, strict=True)):
            if guidance >= channels:
                raise ValueError(
                    f"upsampling.guidance_widths[{step}] is {guidance}; expected fewer than the {channels} channels "
                    "that the step begins with"
                )
