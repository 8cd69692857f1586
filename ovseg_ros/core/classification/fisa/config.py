"""What a FISA is made of."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, Logit, Multiple, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class FisaConfig:
    """FISA (Chng et al., "Adapting Vision-Language Model with Fine-grained Semantics").

    Defaults are the paper's, and for what it leaves open: a residual around SEVE whose output projection starts at
    zero, one SEVE of width 256 shared by all layers, and separate query projections in all layers, which makes the 26 M
    trained parameters that the paper reports for ViT-L/14.

    Attributes:
        view: what CLIP looks at: "image", the whole image once, or "crops", a square around each mask. The second is
            for a CLIP that is too small to read a whole scene; its cost grows with the masks.
        input_size: pixels along the longer side of the image, or along a crop's side. Position embeddings are
            interpolated where this is not the size that CLIP was made for.
        crop_context: side of a crop over the longer side of the mask's box.
        mirrored: read every view as it is and mirrored, and average the embeddings; twice the work.
        seve_layers: layers, from 0, before whose attention mask tokens attend the text; null = all, [] = none.
        seve_width, seve_heads: of that attention.
        query_layers: layers where mask tokens have their own trained query projection; null = all, [] = none.
        adapter_convolutions: 3x3 convolutions of the distribution adapter, 0 to 3; 0 = no adapter.
        adapter_width: its hidden channels.
        temperature: of the softmax over words, 1e-4 to 1e4; null = CLIP's own learned one.
        none: what speaks for "none of these words": "generator", nothing but the mask generator's own "no object";
            "bias", a constant logit beside words shifted by CLIP's learned bias (sigmoid-trained CLIPs);
            "embedding", a trained vector beside the words'. The generator's verdict counts in all three.
        none_logit: that constant logit; lower lets words win that fit less well.
        max_masks: most masks read in one image, the likeliest first.
        min_objectness: masks below this probability of being any segment are not read, in [0, 1].
    """

    view: Literal["image", "crops"] = "image"
    input_size: PositiveInt = 896
    crop_context: Multiple = 1.25
    mirrored: bool = False
    seve_layers: tuple[int, ...] | None = None
    seve_width: PositiveInt = 256
    seve_heads: PositiveInt = 16
    query_layers: tuple[int, ...] | None = None
    adapter_convolutions: Annotated[int, Field(ge=0, le=3)] = 2
    adapter_width: PositiveInt = 32
    temperature: Annotated[float, Field(ge=1e-4, le=1e4)] | None = None
    none: Literal["generator", "bias", "embedding"] = "generator"
    none_logit: Logit = 0.0
    max_masks: PositiveInt = 100
    min_objectness: Share = 0.0

    def __post_init__(self) -> None:
        if self.seve_width % self.seve_heads:
            raise ValueError(f"seve_width {self.seve_width} must be a multiple of seve_heads {self.seve_heads}")
