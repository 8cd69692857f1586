"""Preset files, `config/models/NAME.yaml`, and where they and their weights are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat
from pydantic.dataclasses import dataclass

from ovseg_ros.core.backbones.open_clip_model import CHECKPOINT_NAMES, OpenClipConfig
from ovseg_ros.core.backbones.sam import SamConfig
from ovseg_ros.core.classification.masked_crops import MaskedCropConfig
from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.config import STRICT, find_config, from_mapping, load_yaml
from ovseg_ros.core.descriptions import DescriptionsConfig
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.proposals.published import published_eomt
from ovseg_ros.core.resources import config_dir, weights_dir
from ovseg_ros.core.run_folders import PRESET_NAME, Left, left_by_training
from ovseg_ros.core.sections import (
    ClassifierSection,
    ClipSection,
    ClosedSetSection,
    EoMTSection,
    FisaSection,
    LMSegSection,
    Mask2FormerSection,
    ModelSection,
    OMTSegSection,
    PooledSection,
    PromptGuidedSection,
    ProposerSection,
    PublishedEoMTSection,
    ScorerSection,
    SemanticSection,
    SentenceClipSection,
    SentencePieceSection,
    TwoStageSection,
    WordEnsembleSection,
)
from ovseg_ros.core.weights.files import TRANSFORMERS_NAMES, find_weights, repository_of
from ovseg_ros.core.weights.weight_file import WeightFile

_Part = ProposerSection | ClipSection | ClassifierSection | OMTSegSection | ScorerSection
"""What names weight files."""


@dataclass(frozen=True, slots=True, config=STRICT)
class PresetConfig:
    """A preset.

    Attributes:
        description: one line for people.
        model: what segments.
        merge: thresholds of the panoptic merge.
        weights: files to fetch before use.
        memory_gb: main memory (and, on a GPU, about as much of its memory) that the preset needs, in 10^9 bytes.
        expected: quality to expect, and where that is known from.
    """

    description: str
    model: Annotated[ModelSection, Field(discriminator="kind")]
    merge: MergeConfig = Field(default_factory=MergeConfig)
    weights: tuple[WeightFile, ...] = ()
    memory_gb: PositiveFloat | None = None
    expected: str = ""


@dataclass(frozen=True, slots=True, config=STRICT)
class PresetFolder:
    """Where a preset lies, and from there, where its weights are."""

    folder: Path

    def own(self, name: str) -> Path:
        """A checkpoint of this package's networks: beside the preset, else, where it is no path, in the package."""
        path = Path(name).expanduser()
        beside = self.folder / path
        return beside if beside.is_file() or path.name != name else weights_dir() / name

    def public(self, source: str) -> str:
        """A public checkpoint or architecture; a path may be relative to the preset's folder."""
        beside = self.folder / Path(source).expanduser()
        return str(beside) if beside.exists() else source

    def descriptions(self, config: DescriptionsConfig | None) -> tuple[Path, ...]:
        """The descriptions files that a preset asks for; ConfigError if one is not there."""
        names = config.files if config is not None else ()
        return tuple(find_config("descriptions file", self.public(n), config_dir() / "descriptions") for n in names)


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(path.stem for path in (config_dir() / "models").glob("*.yaml"))


def preset_path(preset: str) -> Path:
    """File of a preset, given its name or a path to a YAML file, or to what a training leaves: its folder, one of its
    results or of its states. ConfigError, with the names, if there is none.
    """
    return _find(preset).path


def preset_name(preset: str) -> str:
    """What a preset is called among others: its file's name; of what a training left, the run's, stage's and state's.

    No bundled one is called like a run.
    """
    path, instead = _find(preset)
    if path.name != PRESET_NAME:
        return path.stem
    folder = path.resolve().parent
    stage = (folder.name,) if (folder.parent / PRESET_NAME).is_file() else ()
    run = folder.parent if stage else folder
    state = (Path(instead[1]).stem,) if instead is not None and instead[0] != instead[1] else ()
    return "_".join(("run", run.name, *stage, *state))


def _find(preset: str) -> Left:
    bundled = preset.removesuffix(".yaml") in preset_names()
    left = None if bundled else left_by_training(preset)
    return left or Left(find_config("preset", preset, config_dir() / "models"))


def preset_folder(preset: str) -> PresetFolder:
    """Where a preset lies."""
    return PresetFolder(preset_path(preset).parent)


def load_preset(preset: str) -> PresetConfig:
    """Read and check a preset; ConfigError if it is missing or malformed."""
    path, instead = _find(preset)
    values = load_yaml(path)
    return from_mapping(PresetConfig, values if instead is None else _with_file(values, *instead), path.name)


def _with_file(values: Any, was: str, now: str) -> Any:
    if isinstance(values, dict):
        return {key: _with_file(value, was, now) for key, value in values.items()}
    return now if values == was else values


def two_stage(preset: str) -> TwoStageSection:
    """What a preset says of its two stages; ConfigError if its model has none."""
    model = load_preset(preset).model
    if not isinstance(model, TwoStageSection):
        raise ConfigError(
            f"the model of the preset {preset} is of kind {model.kind}, which has no two stages; this is "
            "for presets of kind two_stage, such as tabletop, fisa_l or pmp_eomt_l"
        )
    return model


def fisa_section(preset: str) -> FisaSection:
    """What a preset says of its FISA; ConfigError if it has none."""
    section = two_stage(preset).naming
    if not isinstance(section, FisaSection):
        raise ConfigError(
            f"the classifier of the preset {preset} is of kind {section.kind}, not fisa; "
            "name another, such as fisa_l, fisa_b or tabletop_fisa"
        )
    return section


def scored_section(preset: str) -> tuple[TwoStageSection | SemanticSection, ScorerSection]:
    """What a preset says of its model, and of its scorer (LMSeg); ConfigError if it has none."""
    model = load_preset(preset).model
    match model:
        case SemanticSection():
            return model, model.scorer
        case TwoStageSection() if isinstance(model.classifier, LMSegSection):
            return model, model.classifier.scorer
    found = f"classifier of kind {model.naming.kind}" if isinstance(model, TwoStageSection) else f"kind {model.kind}"
    raise ConfigError(
        f"the model of the preset {preset} scores no pixels, it is of {found}; name another, such as lmseg_l or "
        "tabletop_lmseg"
    )


def with_untrained_scorer(preset: str) -> PresetConfig:
    """A preset as the training of its scorer begins with it; ConfigError if it has none."""
    config = load_preset(preset)
    model, scorer = scored_section(preset)
    untrained = replace(scorer, checkpoint=None)
    match model:
        case SemanticSection():
            return replace(config, model=replace(model, scorer=untrained))
        case TwoStageSection():
            assert isinstance(model.classifier, LMSegSection)  # as `scored_section` says: words guide none of its masks
            return replace(config, model=replace(model, classifier=replace(model.classifier, scorer=untrained)))


def own_checkpoints(config: PresetConfig) -> list[str]:
    """The files of this package's networks that a preset names."""
    return [source for source, names in _checkpoints(config.model) if not names]


def checkpoint_paths(preset: str) -> tuple[Path, ...]:
    """The weight files that a preset is built from; CheckpointError if a public one is not on this machine."""
    config = load_preset(preset)
    require_weights(preset, config)
    return section_paths(preset_folder(preset), *_parts(config.model))


def description_paths(preset: str) -> tuple[Path, ...]:
    """The descriptions files that a preset asks for; ConfigError if one is not there."""
    model = load_preset(preset).model
    asked = model.descriptions if isinstance(model, TwoStageSection | SemanticSection) else None
    return preset_folder(preset).descriptions(asked)


def section_paths(files: PresetFolder, *parts: _Part) -> tuple[Path, ...]:
    """The weight files of some sections of a preset; CheckpointError if a public one is not on this machine."""
    checkpoints = [found for part in parts for found in _checkpoints_of(part)]
    paths = [files.own(source) for source, names in checkpoints if not names]
    for source, names in checkpoints:
        if names:
            paths += find_weights(files.public(source), names).shards
    return tuple(paths)


def missing_weights(config: PresetConfig) -> list[WeightFile]:
    """Those of a preset's `weights` that have not been fetched."""
    return [weights for weights in config.weights if weights.cached() is None]


def require_weights(preset: str, config: PresetConfig) -> None:
    """CheckpointError, before anything is built, if a file that the preset's sections name has not been fetched."""
    files = preset_folder(preset)
    sources = [files.public(source) for source, names in _checkpoints(config.model) if names]
    used = {repository_of(source) or source for source in sources if not Path(source).expanduser().exists()}
    missing = [weights for weights in missing_weights(config) if (weights.repo or weights.name) in used]
    if missing:
        first, size = missing[0], sum(weights.bytes for weights in missing) / 1e9
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"preset {preset}: {first.where}{more} is not on this machine; looked for it in {first.folder()}; "
            f"fetch it with: {ovseg_command()} download {preset} ({size:.1f} GB)"
        )


_Checkpoint = tuple[str, Sequence[str]]
"""A file of this package's networks and (), or public weights and the file names to look for."""


def _checkpoints(model: ModelSection) -> list[_Checkpoint]:
    return [found for part in _parts(model) for found in _checkpoints_of(part)]


def _parts(model: ModelSection) -> Sequence[_Part]:
    match model:
        case TwoStageSection():
            return model.proposer, model.clip, model.classifier
        case ClosedSetSection():
            return (model.proposer,)
        case OMTSegSection():
            return (model,)
        case SemanticSection():
            return model.clip, model.scorer


def _checkpoints_of(part: _Part) -> list[_Checkpoint]:
    match part:
        case OMTSegSection():
            words = part.tokenizer.file if isinstance(part.tokenizer, SentencePieceSection) else None
            public = [(source, TRANSFORMERS_NAMES) for source in (part.encoder_weights, words) if source is not None]
            return [*public, *([(part.checkpoint, ())] if part.checkpoint is not None else [])]
        case EoMTSection() | SentenceClipSection() | FisaSection():
            return [(part.checkpoint, ())] if part.checkpoint is not None else []
        case PublishedEoMTSection():
            published = published_eomt(part.checkpoint)
            base = part.base or (published.base if published is not None else None)
            return [(source, TRANSFORMERS_NAMES) for source in (part.checkpoint, base) if source]
        case Mask2FormerSection():
            return [(part.checkpoint, TRANSFORMERS_NAMES)]
        case OpenClipConfig():
            return [(part.checkpoint, CHECKPOINT_NAMES)]
        case PromptGuidedSection():
            trained: list[_Checkpoint] = [(part.checkpoint, ())] if part.checkpoint is not None else []
            return [*_checkpoints_of(part.generator), *trained]
        case WordEnsembleSection():
            return _checkpoints_of(part.clip)
        case LMSegSection():
            return _checkpoints_of(part.scorer)
        case ScorerSection():
            return [*_second_encoder(part), *_trained_scorer(part)]
        case MaskedCropConfig() | PooledSection():
            return []


def _second_encoder(scorer: ScorerSection) -> list[_Checkpoint]:
    match scorer.sam:
        case None:
            return []
        case SamConfig():
            return [(scorer.sam.checkpoint, TRANSFORMERS_NAMES)] if scorer.sam.checkpoint is not None else []
        case EoMTSection():
            return [(scorer.sam.checkpoint, ())]


def _trained_scorer(scorer: ScorerSection) -> list[_Checkpoint]:
    if scorer.checkpoint is not None:  # with which a training began is in it
        return [(scorer.checkpoint, ())]
    return [(scorer.warm_start, TRANSFORMERS_NAMES)] if scorer.warm_start is not None else []
