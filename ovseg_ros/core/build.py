"""Preset -> segmenter: which modules, and where their weights come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

from ovseg_ros.core.backbones.open_clip_model import build_open_clip, encode_prompts
from ovseg_ros.core.backbones.sentence_clip import ImageTower, build_clip, encode_sentences
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.masked_crops import MaskedCropClassifier
from ovseg_ros.core.classification.pooled import TrainingFreeClassifier
from ovseg_ros.core.classification.pooling import MaskPooling
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN
from ovseg_ros.core.presets import (
    PresetConfig,
    checkpoint_paths,
    load_preset,
    own_checkpoint,
    preset_names,
    preset_path,
    published_source,
    require_weights,
)
from ovseg_ros.core.proposals.eomt.checkpoints import load_eomt
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.templates import prompt_templates
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, load_vocabulary_file, normalize_name
from ovseg_ros.core.weights.strict import load_strict, read_state

__all__ = ["build_segmenter", "checkpoint_paths", "load_preset", "preset_names", "preset_path"]

_BLACK = (0.0, 0.0, 0.0)
"""What the published EoMTs saw beside images that did not fill the square."""


def build_segmenter(preset: str, device: str = "auto") -> PanopticSegmenter:
    """A segmenter ready to run.

    Args:
        preset: name of a bundled preset or path to a YAML file.
        device: "auto" (the GPU where there is one), "cpu", "cuda", "cuda:1", ...

    Raises:
        ConfigError: for a missing or malformed preset, or a device that is not there.
        CheckpointError: for missing or ill-fitting weights.
    """
    return _build(preset, load_preset(preset), device).segmenter


@dataclass(frozen=True, slots=True)
class UntrainedFisa:
    """A segmenter whose FISA is as it begins a training, and its parts: `segmenter` is made of the other two."""

    segmenter: PanopticSegmenter
    proposer: nn.Module
    classifier: FisaClassifier


def build_untrained_fisa(preset: str, device: str = "auto") -> UntrainedFisa:
    """What is needed to train a preset's FISA; its `fisa_checkpoint`, which need not exist, is not read.

    Raises:
        ConfigError, CheckpointError: as `build_segmenter`; or the preset has no FISA.
    """
    config = load_preset(preset)
    if config.fisa is None:
        raise ConfigError(f"the preset {preset!r} has no fisa section; choose one that has, such as fisa_l")
    parts = _build(preset, replace(config, fisa_checkpoint=None), device)
    assert isinstance(parts.classifier, FisaClassifier)  # the preset says so
    return UntrainedFisa(parts.segmenter, parts.proposer, parts.classifier)


@dataclass(frozen=True, slots=True)
class _Parts:
    segmenter: PanopticSegmenter
    proposer: nn.Module
    classifier: nn.Module


def _build(preset: str, config: PresetConfig, device: str) -> _Parts:
    target = _pick_device(device)
    require_weights(preset, config)
    proposer, class_names = _build_proposer(preset, config)
    clip = _build_clip(preset, config, target)
    text_encoder = TextEncoder(clip.encode, prompt_templates(config.templates))
    classifier = _build_classifier(preset, config, clip, class_names, text_encoder)
    segmenter = PanopticSegmenter(
        proposer=proposer,
        classifier=classifier,
        text_encoder=text_encoder,
        merge=config.merge,
        input_size=config.input_size,
        device=target,
        padding_color=_BLACK if config.eomt_hub is not None else IMAGENET_MEAN,
    )
    return _Parts(segmenter, proposer, classifier)


@dataclass(frozen=True, slots=True)
class _Clip:
    """A CLIP with its weights: `tower` reads images; `encode` reads sentences, on the segmenter's device."""

    tower: ImageTower
    encode: Callable[[Sequence[str]], Tensor]
    text_width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _build_proposer(preset: str, config: PresetConfig) -> tuple[nn.Module, tuple[str, ...]]:
    """The mask generator and the names of its closed-set classes; none where nobody gave them names."""
    if config.eomt is not None and config.eomt_checkpoint is not None:
        eomt = EoMT(config.eomt)
        load_strict(eomt, own_checkpoint(preset, config.eomt_checkpoint))
        return eomt, ()
    if config.eomt_hub is not None:
        source = published_source(preset, config.eomt_hub.checkpoint)
        base = config.eomt_hub.base and published_source(preset, config.eomt_hub.base)
        loaded = load_eomt(source, image_size=config.input_size, dtype=torch.float32, base=base)
        return loaded.model, loaded.closed_set.names
    from ovseg_ros.core.proposals.mask2former import load_mask2former  # seconds of transformers' imports

    assert config.mask2former is not None  # one of the three, which the preset has checked
    mask2former = load_mask2former(published_source(preset, config.mask2former.checkpoint))
    return mask2former.model, mask2former.closed_set.names


def _build_clip(preset: str, config: PresetConfig, device: torch.device) -> _Clip:
    if config.clip is not None and config.clip_checkpoint is not None:
        own, tokenizer = build_clip(config.clip)
        own.text.to(device)
        tower = ImageTower(own)
        load_strict(tower, own_checkpoint(preset, config.clip_checkpoint))
        encode = partial(encode_sentences, own, tokenizer)
        return _Clip(tower, encode, config.clip.embed_dim, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    assert config.open_clip is not None  # one of the two, which the preset has checked
    public = config.open_clip
    architecture = published_source(preset, public.architecture)
    checkpoint = published_source(preset, public.checkpoint)
    model, simple_tokenizer = build_open_clip(replace(public, architecture=architecture, checkpoint=checkpoint))
    model.text.to(device)
    encode = partial(encode_prompts, model, simple_tokenizer)
    return _Clip(ImageTower(model), encode, model.text.output_dim, public.mean, public.std)


def _build_classifier(
    preset: str, config: PresetConfig, clip: _Clip, class_names: Sequence[str], text_encoder: TextEncoder
) -> nn.Module:
    tower = clip.tower
    if config.classifier is not None and config.clip is not None:
        return MaskedCropClassifier(tower, config.clip.image_size, config.clip.patch_size, config.classifier)
    if config.fisa is not None:
        fisa = FisaClassifier(
            tower.visual,
            config.fisa,
            text_width=clip.text_width,
            logit_scale=tower.logit_scale,
            logit_bias=tower.logit_bias,
            mean=clip.mean,
            std=clip.std,
        )
        if config.fisa_checkpoint is not None:
            fisa.load_trained_state_dict(read_state(own_checkpoint(preset, config.fisa_checkpoint)))
        return fisa
    assert config.pooling is not None  # one of the three, which the preset has checked
    ensemble = config.ensemble
    background = ensemble.background if ensemble is not None else ()
    embedded = (
        text_encoder.encode(Vocabulary.build([CategorySpec(word) for word in background])) if background else None
    )
    try:
        pooling = MaskPooling(tower.visual, config.pooling, clip.mean, clip.std)
    except ValueError as error:
        raise ConfigError(f"preset {preset}: {error}") from error
    return TrainingFreeClassifier(
        pooling,
        logit_scale=float(tower.logit_scale.exp()),
        ensemble=ensemble,
        class_phrases=_class_phrases(class_names, ensemble.synonyms) if ensemble is not None else (),
        background=embedded,
    )


def _class_phrases(names: Sequence[str], vocabulary: str | None) -> list[tuple[str, ...]]:
    """Every name of each class: the checkpoint's own, and those of the vocabulary's category at the same place.

    Raises:
        ConfigError: if the vocabulary describes other classes.
    """
    if vocabulary is None:
        return [(name,) for name in names]
    is_path = vocabulary.endswith((".yaml", ".yml"))
    path = Path(vocabulary).expanduser() if is_path else config_dir() / "vocabularies" / f"{vocabulary}.yaml"
    specs = load_vocabulary_file(path)[: len(names)]
    described = [(spec.name, *spec.synonyms) for spec in specs]
    known = [{normalize_name(phrase) for phrase in phrases} for phrases in described]
    agreeing = sum(normalize_name(name) in phrases for name, phrases in zip(names, known, strict=False))
    if len(described) != len(names) or 2 * agreeing < len(names):
        raise ConfigError(
            f"ensemble.synonyms: {path} does not describe the mask generator's {len(names)} classes ({names[0]}, ...): "
            f"{agreeing} of its {len(described)} categories agree; name another vocabulary, or null"
        )
    return [(name, *phrases) for name, phrases in zip(names, described, strict=True)]


def _pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} is not there: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices; "
            f"use device auto or cpu, or check the driver with nvidia-smi"
        )
    return device
