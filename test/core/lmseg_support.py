"""A tiny LMSeg, with and without a second encoder, and words for it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fisa_support import MEAN, STD, tower
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.scoring.lmseg.config import FusionConfig, LMSegConfig, UpsamplingConfig
from ovseg_ros.core.scoring.lmseg.scorer import Encoded, LMSegScorer, ScoredWords, Scores
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

D = 16
"""Of the space that images and words share."""
SECOND_WIDTH = 5
PADDED = 6
"""Words that the tiny LMSeg compares."""


class Edges(ImageEncoder):
    """A second encoder: features (B, 5, 10, 10) of images of any size."""

    width = SECOND_WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, SECOND_WIDTH, kernel_size=3, padding=1)
        self.seen: list[Tensor] = []

    def pixels(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return F.adaptive_avg_pool2d(images, 10)

    def features(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels)


def text_tower() -> TextTransformer:
    """2 layers of width 16 with 2 heads, 12 tokens of 64."""
    torch.manual_seed(2)
    return TextTransformer(context_length=12, vocab_size=64, width=16, heads=2, layers=2, output_dim=D).eval()


def lmseg_config(**changes: object) -> LMSegConfig:
    """64 x 64 pixels in patches of 8: a grid of 8 x 8 cells, in 4 windows; 6 words."""
    arguments = {"image_size": (64, 64), "skip_layers": (0, 1), "width": 16, "heads": 2, "window": 4}
    arguments |= {"guidance_width": 6, "padded_words": PADDED, "upsampling": UpsamplingConfig((16, 16), (6, 5), (3, 2))}
    return LMSegConfig(**arguments | changes)


def make(
    *,
    second: ImageEncoder | None = None,
    fusion: FusionConfig | None = None,
    visual: VisionTransformer | None = None,
    text: TextTransformer | None = None,
    seed: int = 5,
    sam_width: int = SECOND_WIDTH,
    **changes: object,
) -> LMSegScorer:
    """A tiny LMSeg in evaluation mode; what has its name in two of them has its weights, too."""
    if fusion is not None:
        changes["fusion"] = fusion
    scorer = LMSegScorer(
        visual if visual is not None else tower(quick=True),
        text,
        second,
        lmseg_config(**changes),
        sam_width=sam_width,
        mean=MEAN,
        std=STD,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(scorer.named_parameters()):
            if not name.startswith(("visual.", "text.", "sam.", "fusion.")):
                is_scale = ".norm" in name and name.endswith("weight")
                parameter.copy_(is_scale + 0.2 * torch.randn(parameter.shape, generator=generator))
    return scorer.eval()


def unit(count: int, seed: int = 1) -> Tensor:
    """(count, 16) random unit vectors; the first of them do not depend on how many there are."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.stack([torch.randn(D, generator=generator) for _ in range(count + 1)])[:count], dim=-1)


def some_words(scorer: LMSegScorer, count: int) -> ScoredWords:
    """`count` words of one phrase each."""
    places = torch.arange(count)
    return scorer.words(unit(count), places, places, places)


def embedded(names: Sequence[str | CategorySpec], synonyms: int = 0) -> TextEmbeddings:
    """A vocabulary with random vectors, each category with `synonyms` more rows than its name's."""
    specs = [CategorySpec(name) if isinstance(name, str) else name for name in names]
    rows = len(specs) * (1 + synonyms)
    owner = torch.arange(len(specs)).repeat_interleave(1 + synonyms)
    return TextEmbeddings(unit(rows), owner, Vocabulary.build(specs))


def photos(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    """Images of coarse random patches in [0, 1]."""
    coarse = torch.rand(batch, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, (height, width), mode="bilinear")


class GivenScores(nn.Module):
    """A scorer that says what it was told to, whatever the image: logits (B, K, h, w)."""

    def __init__(self, logits: Tensor, *, words: Tensor | None = None, features: Tensor | None = None) -> None:
        super().__init__()
        self.inner = make()
        self.prepare, self.remarks, self.config = self.inner.prepare, self.inner.remarks, self.inner.config
        batch, count = logits.shape[:2]
        chosen = torch.arange(count).expand(batch, -1) if words is None else words
        features = torch.zeros(batch, D, 2, 2) if features is None else features
        self.scores = Scores(logits, chosen, features)

    def encode(self, images: Tensor) -> Encoded:
        return self.inner.encode(images)

    def forward(self, images: Tensor, words: ScoredWords, encoded: Encoded | None = None) -> Scores:
        return self.scores
