"""What of `ovseg count` is about new words: the text tower's work for a vocabulary that it has not read yet."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ovseg_ros.core.backbones.open_clip_model import OpenClipConfig, build_open_clip, embed_tokens
from ovseg_ros.core.backbones.sentence_clip import text_model_folder
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import load_preset, preset_folder
from ovseg_ros.core.sections import ClosedSetSection, OMTSegSection, SentenceClipSection
from ovseg_ros.core.templates import prompt_templates
from ovseg_ros.offline.tools.shapes import META, flops_of, parameters_of, print_row

TOKENS = 16
"""Of a prompt, the start's and the end's included; a long one: "a photo of a traffic light." has 9."""


def has_text_tower(preset: str) -> bool:
    """Whether words are read apart from images, and by a network."""
    return not isinstance(load_preset(preset).model, OMTSegSection | ClosedSetSection)


def count_text(preset: str, words: int, tokens: int = TOKENS) -> dict[str, Any]:
    """Parameters of a preset's text tower, and FLOPs of words that are all new, in each of its templates.

    Args:
        tokens: of each prompt.

    Raises:
        ConfigError: the preset has no text tower.
        CheckpointError: the package that describes the text tower is not installed.
    """
    model = load_preset(preset).model
    if isinstance(model, OMTSegSection | ClosedSetSection):
        raise ConfigError(f"the preset {preset} has no text tower; its model is of kind {model.kind}")
    match model.clip:
        case SentenceClipSection(architecture=architecture):
            config = AutoConfig.from_pretrained(text_model_folder(architecture.text_package))
            with META:
                tower: nn.Module = AutoModel.from_config(config, add_pooling_layer=False).eval()

            def embed(prompts: Tensor) -> None:
                each = torch.ones(len(prompts), tokens, tokens, device=META)  # else the values of a mask would be read
                tower(prompts, attention_mask=each)

        case OpenClipConfig() as clip:
            public = preset_folder(preset).public(clip.architecture)
            text = build_open_clip(OpenClipConfig(public, clip.checkpoint), device="meta")[0].text
            tower = text

            def embed(prompts: Tensor) -> None:
                embed_tokens(text, prompts)

    templates = len(prompt_templates(model.templates))
    prompts = torch.zeros(words * templates, tokens, dtype=torch.int64, device=META)
    return {
        "words": words,
        "templates": templates,
        "tokens": tokens,
        "parameters": parameters_of(tower),
        "flops": flops_of(lambda: embed(prompts)),
    }


def print_text(text: dict[str, Any]) -> None:
    """A readable line on stdout."""
    of_each = f"{text['templates']} prompts of {text['tokens']} tokens each"
    print_row(f"{text['words']} new words, once", "GFLOP", text["flops"] / 1e9)
    print(f"  ({of_each})")
