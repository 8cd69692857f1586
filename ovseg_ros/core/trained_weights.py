"""Weights that a training of one's own writes: which of a preset's files they are, and which training that is."""

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.config import load_yaml
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.presets import PresetConfig, load_preset, preset_folder
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.sections import (
    ClosedSetSection,
    EoMTSection,
    FisaSection,
    LMSegSection,
    ModelSection,
    OMTSegSection,
    PromptGuidedSection,
    ScorerSection,
    SemanticSection,
    TwoStageSection,
)


def trained_files(model: ModelSection) -> list[str]:
    """The checkpoints that a preset names beside those it begins with."""
    match model:
        case TwoStageSection():
            naming = model.naming.scorer if isinstance(model.naming, LMSegSection) else model.naming
            parts: tuple[object, ...] = (model.proposer, naming)
        case ClosedSetSection():
            return [model.proposer.checkpoint] if isinstance(model.proposer, EoMTSection) else []
        case SemanticSection():
            parts = (model.scorer,)
        case OMTSegSection():
            parts = (model,)
    trained = PromptGuidedSection | FisaSection | OMTSegSection | ScorerSection
    named = [part.checkpoint for part in parts if isinstance(part, trained)]
    return [checkpoint for checkpoint in named if checkpoint is not None]


def require_trained(preset: str, config: PresetConfig) -> None:
    """CheckpointError, before anything is built, if a preset names a trained file that is not there."""
    files = preset_folder(preset)
    for checkpoint in trained_files(config.model):
        path = files.own(checkpoint)
        if not path.is_file():
            raise CheckpointError(
                f"preset {preset}: {path} does not exist; it is what a training writes: "
                f"{training_command(checkpoint)}; put it beside the preset, or correct the path there"
            )


def training_command(checkpoint: str) -> str:
    """The command that writes a trained file, by the bundled recipes and their presets."""
    for path in sorted((config_dir() / "training").glob("*.yaml")):
        # A CLIP is what others begin with.
        stages = [stage for stage in load_yaml(path)["stages"] if stage["kind"] != "clip"]
        presets = [stage["preset"] for stage in stages if "preset" in stage]
        if any(checkpoint in trained_files(load_preset(preset).model) for preset in presets):
            return f"{ovseg_command()} train {path.stem}"
    return f"{ovseg_command()} train RECIPE (docs/training.md)"
