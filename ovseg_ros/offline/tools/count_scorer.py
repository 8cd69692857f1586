"""What of `ovseg count` is about what scores pixels: its size, and what images and words cost it (LMSeg, CAT-Seg)."""

from typing import Any

import torch
from torch import nn

from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.backbones.sam import SamConfig, SamEncoder
from ovseg_ros.core.build import load_clip
from ovseg_ros.core.presets import PresetFolder
from ovseg_ros.core.proposals.eomt.features import EoMTFeatures
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer
from ovseg_ros.core.sections import ClipSection, EoMTSection, ScorerSection
from ovseg_ros.offline.tools.shapes import FEW_WORDS, MANY_WORDS, META, flops_of, parameters_of, print_row

_TITLES = {
    "clip_image_tower": "CLIP's image tower",
    "clip_text_tower": "CLIP's text tower",
    "sam": "SAM's image encoder, or another's",
    "fusion": "fusion of both",
    "skips": "CLIP's blocks to the decoder",
}

_VIEWS = 5
"""Of an image that is read in windows: four, and the whole, which is all that is read for no words."""


def count_scorer(clip: ClipSection, config: ScorerSection, files: PresetFolder, words: int) -> dict[str, Any]:
    """Parameters, all and trained ones, and FLOPs of a scorer at its input size.

    An image costs the same at any number of words beyond the scorer's `padded_words`, which it chooses from; so what a
    word costs is counted below that.
    """
    scorer = scorer_shapes(clip, config, files)
    parameters = _parameters(scorer, trained=False)
    trained = _parameters(scorer, trained=True)
    scorer.requires_grad_(False)  # PyTorch's counter fails on views of parameters that want gradients
    most = min(MANY_WORDS, config.architecture.padded_words or MANY_WORDS)
    few, some, many, at_most = (_frame(scorer, number) for number in (FEW_WORDS, words, MANY_WORDS, most))
    return {
        "parameters": parameters,
        "trained": {**trained, "all": sum(trained.values())},
        "flops": {
            "frame": some,
            "encoders": _frame(scorer, 0) * (_VIEWS if config.architecture.windows else 1),
            "each_word": (at_most - few) // (most - FEW_WORDS) if most > FEW_WORDS else 0,
        },
        "frames": {"words": [FEW_WORDS, words, MANY_WORDS], "flops": [few, some, many]},
        "words_ratio": {"words": [FEW_WORDS, MANY_WORDS], "frame": many / few},
    }


def scorer_shapes(clip: ClipSection, config: ScorerSection, files: PresetFolder) -> LMSegScorer:
    """A scorer on the meta device; no file is read."""
    shapes = load_clip(clip, ("{}",), files, META)
    tuned = shapes.text if config.architecture.tunes_clip else None
    with META:
        sam, width = _second_encoder(config.sam)
        scorer = LMSegScorer(
            shapes.tower.visual, tuned, sam, config.architecture, sam_width=width, mean=shapes.mean, std=shapes.std
        )
    return scorer.to(META).eval()  # some of its parameters are made elsewhere all the same


def _second_encoder(config: SamConfig | EoMTSection | None) -> tuple[ImageEncoder | None, int]:
    match config:
        case None:
            return None, 0
        case SamConfig():
            sam = SamEncoder(config)
            sam.tune_attention()
            return sam, sam.width
        case EoMTSection():
            return EoMTFeatures(EoMT(config.architecture)), config.architecture.width


def _parameters(scorer: LMSegScorer, *, trained: bool) -> dict[str, int]:
    """Of each part, all parameters or those that train; "aggregation" is all that is not named."""
    parts = {
        "clip_image_tower": scorer.visual,
        "clip_text_tower": scorer.text,
        "sam": scorer.sam,
        "fusion": scorer.fusion,
        "skips": scorer.decoder.skips,
    }
    count = _trained_parameters_of if trained else parameters_of
    found = {name: count(part) for name, part in parts.items() if part is not None}
    return {**found, "aggregation": count(scorer) - sum(found.values())}


def _trained_parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _frame(scorer: LMSegScorer, words: int) -> int:
    """FLOPs of an image under a vocabulary, of which each word has a single name."""
    images = torch.empty(1, 3, *scorer.config.image_size, device=META)
    vectors = torch.empty(words, scorer.visual.proj.shape[1], device=META)
    places = torch.arange(words, device=META)
    prepared = scorer.words(vectors, places, places, places)
    return flops_of(lambda: scorer(images, prepared))


def print_scorer(scorer: dict[str, Any]) -> None:
    """A readable table on stdout."""
    for name, count in scorer["parameters"].items():
        print(f"{_TITLES.get(name, name):40}{'parameters':>14} {count:14,}")
        print(f"{'  of that, trained':40}{'parameters':>14} {scorer['trained'][name]:14,}")
    print(f"{'trained in all':40}{'parameters':>14} {scorer['trained']['all']:14,}")
    for words, flops in zip(scorer["frames"]["words"], scorer["frames"]["flops"], strict=True):
        print_row(f"an image under {words} words", "GFLOP", flops / 1e9)
    print_row("of that, CLIP and SAM", "GFLOP", scorer["flops"]["encoders"] / 1e9)
    print_row("each word", "GFLOP", scorer["flops"]["each_word"] / 1e9)
