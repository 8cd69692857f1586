"""What a training or evaluation of FISA on the tabletop is made of: the frozen networks that a preset names."""

import copy
from dataclasses import dataclass, replace
from functools import partial

from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import nn

from ovseg_ros.core.backbones.sentence_clip import ImageTower, build_clip, encode_sentences
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import PresetConfig, load_preset, own_checkpoint
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.templates import prompt_templates
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.weights.strict import load_strict


@dataclass(frozen=True, slots=True)
class FisaParts:
    """Frozen, in evaluation mode, on the CPU."""

    preset: PresetConfig
    config: FisaConfig
    generator: nn.Module
    tower: ImageTower
    text_width: int
    text_encoder: TextEncoder

    def classifier(self, **changes: object) -> FisaClassifier:
        """An untrained FISA on a copy of the tower, with the preset's configuration but for these values."""
        tower = copy.deepcopy(self.tower)
        return FisaClassifier(
            tower.visual,
            replace(self.config, **changes),  # type: ignore[arg-type]
            text_width=self.text_width,
            logit_scale=tower.logit_scale,
            logit_bias=tower.logit_bias,
            mean=OPENAI_DATASET_MEAN,
            std=OPENAI_DATASET_STD,
        )


def load_parts(preset: str) -> FisaParts:
    """The networks of a preset with the sections `eomt`, `clip` and `fisa`; its FISA checkpoint is not read.

    Raises:
        ConfigError: the preset is missing, malformed or of another kind.
        CheckpointError: for missing or ill-fitting weights.
    """
    config = load_preset(preset)
    if config.eomt is None or config.eomt_checkpoint is None or config.clip is None or config.clip_checkpoint is None:
        raise ConfigError(f"the preset {preset} cannot train FISA on the tabletop: it needs eomt and clip sections")
    if config.fisa is None:
        raise ConfigError(f"the preset {preset} has no fisa section; use tabletop_fisa")
    generator = EoMT(config.eomt).eval().requires_grad_(False)
    load_strict(generator, own_checkpoint(preset, config.eomt_checkpoint))
    clip, tokenizer = build_clip(config.clip)
    tower = ImageTower(clip).eval().requires_grad_(False)
    load_strict(tower, own_checkpoint(preset, config.clip_checkpoint))
    return FisaParts(
        preset=config,
        config=config.fisa,
        generator=generator,
        tower=tower,
        text_width=config.clip.embed_dim,
        text_encoder=TextEncoder(partial(encode_sentences, clip, tokenizer), prompt_templates(config.templates)),
    )
