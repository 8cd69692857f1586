"""Preset -> segmenter: which modules, and where their weights come from."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from ovseg_ros.core.checkpoint import load_strict
from ovseg_ros.core.classification.masked_crops import MaskedCropClassifier, MaskedCropConfig
from ovseg_ros.core.clip import ClipConfig, ImageTower, build_clip, encode_sentences
from ovseg_ros.core.config import from_mapping, load_yaml
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.proposals.eomt import EoMT, EoMTConfig
from ovseg_ros.core.resources import config_dir, weights_dir
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder


@dataclass(frozen=True, slots=True)
class PresetConfig:
    """A preset file, `config/models/NAME.yaml`.

    Attributes:
        description: one line for people.
        input_size: (height, width) that images are fitted into before the network, pixels.
        eomt, eomt_checkpoint: the mask generator and its safetensors file.
        clip, clip_checkpoint: the CLIP and the file of its image tower, temperature and bias.
        classifier: how masks are read.
        templates: prompts, each with one `{}`.
        merge: thresholds of the panoptic merge.
    """

    description: str
    input_size: tuple[int, int]
    eomt: EoMTConfig
    eomt_checkpoint: str
    clip: ClipConfig
    clip_checkpoint: str
    classifier: MaskedCropConfig = field(default_factory=MaskedCropConfig)
    templates: tuple[str, ...] = ("a photo of a {}",)
    merge: MergeConfig = field(default_factory=MergeConfig)


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(path.stem for path in (config_dir() / "models").glob("*.yaml"))


def preset_path(preset: str) -> Path:
    """File of a preset, given its name or a path to a YAML file.

    Raises:
        ConfigError: if there is no such file, with the names that exist.
    """
    is_path = preset.endswith((".yaml", ".yml"))
    path = Path(preset).expanduser() if is_path else config_dir() / "models" / f"{preset}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"there is no preset {preset!r} (looked for {path}); "
            f"choose one of {', '.join(preset_names())} or give the path of a .yaml file"
        )
    return path


def load_preset(preset: str) -> PresetConfig:
    """Read and check a preset.

    Raises:
        ConfigError: if it is missing or malformed.
    """
    path = preset_path(preset)
    return from_mapping(PresetConfig, load_yaml(path), path.name)


def checkpoint_paths(preset: str) -> tuple[Path, ...]:
    """The weight files that a preset names. Relative ones are looked for beside the preset, then in the package."""
    config, folder = load_preset(preset), preset_path(preset).parent
    names = (config.eomt_checkpoint, config.clip_checkpoint)
    beside = [folder / Path(name).expanduser() for name in names]
    return tuple(path if path.is_file() else weights_dir() / name for path, name in zip(beside, names, strict=True))


def build_segmenter(preset: str, device: str = "auto") -> PanopticSegmenter:
    """A segmenter ready to run.

    Args:
        preset: name of a bundled preset or path to a YAML file.
        device: "auto" (the GPU where there is one), "cpu", "cuda", "cuda:1", ...

    Raises:
        ConfigError: for a missing or malformed preset, or a device that is not there.
        CheckpointError: for missing or ill-fitting weights.
    """
    config = load_preset(preset)
    eomt_path, clip_path = checkpoint_paths(preset)
    target = _pick_device(device)

    proposer = EoMT(config.eomt)
    load_strict(proposer, eomt_path)
    clip, tokenizer = build_clip(config.clip)
    clip.text.to(target)
    tower = ImageTower(clip)
    load_strict(tower, clip_path)
    classifier = MaskedCropClassifier(tower, config.clip.image_size, config.clip.patch_size, config.classifier)

    return PanopticSegmenter(
        proposer=proposer,
        classifier=classifier,
        text_encoder=TextEncoder(partial(encode_sentences, clip, tokenizer), config.templates),
        merge=config.merge,
        input_size=config.input_size,
        device=target,
    )


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
