"""What of `ovseg count` is about mask generators: their size, and what it costs that words guide them (PMP)."""

from dataclasses import replace
from typing import Any

import torch

from ovseg_ros.core.build import text_width
from ovseg_ros.core.presets import PresetFolder
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.prompt_guidance import PromptGuidance
from ovseg_ros.core.proposals.published import PublishedMask2Former, published_eomt, published_mask2former
from ovseg_ros.core.sections import (
    ClosedSetSection,
    EoMTSection,
    Mask2FormerSection,
    PromptGuidedSection,
    PublishedEoMTSection,
    TwoStageSection,
)
from ovseg_ros.offline.tools.shapes import FEW_WORDS, MANY_WORDS, META, flops_of, parameters_of


def count_masks(config: TwoStageSection | ClosedSetSection, files: PresetFolder, words: int) -> dict[str, Any]:
    """A model's `mask_generator`, and if words guide it, its `guidance`; neither of a public one of unknown shape."""
    network = generator_shapes(config)
    if network is None:
        return {}
    images = torch.empty(1, 3, *config.input_size, device=META)
    plain = flops_of(lambda: network(images))
    report: dict[str, Any] = {"mask_generator": {"parameters": parameters_of(network), "flops": plain}}
    if isinstance(config, ClosedSetSection) or not isinstance(config.proposer, PromptGuidedSection):
        return report
    width = text_width(config.clip, files)
    with META:
        guidance = PromptGuidance(*network.guided_layers, width, config.proposer.prompt)
    network.guidance = guidance
    network.requires_grad_(False)  # PyTorch's counter fails on views of what wants gradients

    def frame(count: int) -> int:
        prepared = guidance.prepare(torch.empty(count, width, device=META))
        return flops_of(lambda: network(images, prepared))

    few, some, many = (frame(count) for count in (FEW_WORDS, words, MANY_WORDS))
    report["guidance"] = {
        "layers": len(guidance.prompts),
        "parameters": {
            "prompts": parameters_of(guidance.prompts),
            "word_head": parameters_of(guidance.word_head),
        },
        "flops": {
            "guided": some,
            "extra": some - plain,
            "each_word": (many - few) // (MANY_WORDS - FEW_WORDS),
            "vocabulary_once": flops_of(lambda: guidance.prepare(torch.empty(words, width, device=META))),
        },
        "extra_share": (some - plain) / plain,
        "words_ratio": {
            "words": [FEW_WORDS, MANY_WORDS],
            "frame": many / few,
            "extra": (many - plain) / (few - plain),
        },
    }
    return report


def generator_shapes(config: TwoStageSection | ClosedSetSection) -> MaskNetwork | None:
    """A model's mask generator on the meta device, unguided; None for a public one whose shape only its file tells."""
    match config.generator:
        case EoMTSection(architecture=architecture):
            with META:
                return EoMT(architecture).eval()
        case PublishedEoMTSection(checkpoint=source):
            eomt = published_eomt(source)
            if eomt is None:
                return None
            with META:
                return EoMT(replace(eomt.config, image_size=config.input_size)).eval()
        case Mask2FormerSection(checkpoint=source):
            mask2former = published_mask2former(source)
            return None if mask2former is None else mask2former_shapes(mask2former, META)


def mask2former_shapes(published: PublishedMask2Former, device: torch.device) -> MaskNetwork:
    """A Mask2Former on a device: on the meta device its shapes, elsewhere with random weights."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    from ovseg_ros.core.proposals.mask2former import Mask2Former

    swin = SwinConfig(
        embed_dim=published.width,
        depths=list(published.depths),
        num_heads=list(published.heads),
        window_size=published.window,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin, num_queries=published.num_queries, num_labels=published.num_classes
    )
    with device:
        network = Mask2FormerForUniversalSegmentation(config).eval()
    return Mask2Former(network.to(device))  # some of its parameters are made elsewhere all the same
