"""Preset files, `config/models/NAME.yaml`: what they say, and where they and their weights are.

A section's `kind` says which system it describes. A new system is one more section here, in the union of its place, and
one more case in `build.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat
from pydantic.dataclasses import dataclass

from ovseg_ros.core.backbones.open_clip_model import CHECKPOINT_NAMES, OpenClipConfig
from ovseg_ros.core.backbones.sentence_clip import ClipConfig
from ovseg_ros.core.classification.ensemble import EnsembleConfig
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.masked_crops import MaskedCropConfig
from ovseg_ros.core.classification.pooling import PoolingConfig
from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.config import STRICT, Share, find_config, from_mapping, load_yaml
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.proposals.eomt.network import EoMTConfig
from ovseg_ros.core.proposals.prompt_guidance import PromptConfig
from ovseg_ros.core.proposals.published import published_eomt
from ovseg_ros.core.resources import config_dir, weights_dir
from ovseg_ros.core.templates import prompt_templates
from ovseg_ros.core.weights.files import TRANSFORMERS_NAMES, cached_file, find_weights, repository_folder, repository_of


@dataclass(frozen=True, slots=True, config=STRICT)
class EoMTSection:
    """A mask generator of this package.

    Attributes:
        checkpoint: its safetensors file, beside the preset or in the package.
    """

    architecture: EoMTConfig
    checkpoint: str
    kind: Literal["eomt"] = "eomt"


@dataclass(frozen=True, slots=True, config=STRICT)
class PublishedEoMTSection:
    """A public EoMT, whose architecture is read from its tensors.

    Attributes:
        checkpoint: hub repository ("owner/name"), folder or file.
        base: of an EoMT on DINOv3, the DINOv3 weights to which it holds differences, named likewise; None takes the
            repository that the published one was trained from.
        differences: whether a file on DINOv3 holds differences or whole weights; None: see `load_eomt`.
    """

    checkpoint: str
    base: str | None = None
    differences: bool | None = None
    kind: Literal["published_eomt"] = "published_eomt"


@dataclass(frozen=True, slots=True, config=STRICT)
class Mask2FormerSection:
    """A public Mask2Former: hub repository, folder or file in transformers' layout."""

    checkpoint: str
    kind: Literal["mask2former"] = "mask2former"


GeneratorSection = EoMTSection | PublishedEoMTSection | Mask2FormerSection
"""A mask generator that no words guide."""


@dataclass(frozen=True, slots=True, config=STRICT)
class PromptGuidedSection:
    """A mask generator that words guide (PMP).

    Attributes:
        generator: whose masks words take part in; its weights are where a training begins, unless it goes on.
        prompt: how they do.
        checkpoint: the file of the whole trained network, beside the preset or in the package; None leaves the masks,
            and what is said of them, to the generator, but for `prompt.residual: false`, which has no gate to close.
    """

    generator: Annotated[GeneratorSection, Field(discriminator="kind")]
    prompt: PromptConfig = Field(default_factory=PromptConfig)
    checkpoint: str | None = None
    kind: Literal["prompt_guided"] = "prompt_guided"

    def __post_init__(self) -> None:
        if not self.prompt.residual and not isinstance(self.generator, Mask2FormerSection):
            raise ValueError(
                "prompt.residual: false is for a generator of kind mask2former; a block of an EoMT takes queries, keys "
                "and values from one stream"
            )


@dataclass(frozen=True, slots=True, config=STRICT)
class SentenceClipSection:
    """A CLIP of this package.

    Attributes:
        checkpoint: the file of its image tower, temperature and bias, beside the preset or in the package.
    """

    architecture: ClipConfig
    checkpoint: str
    kind: Literal["sentence_clip"] = "sentence_clip"


@dataclass(frozen=True, slots=True, config=STRICT)
class FisaSection:
    """Name masks by FISA.

    Attributes:
        checkpoint: the file of its trained tensors, beside the preset or in the package; None leaves them untrained.
    """

    architecture: FisaConfig = Field(default_factory=FisaConfig)
    checkpoint: str | None = None
    kind: Literal["fisa"] = "fisa"


@dataclass(frozen=True, slots=True, config=STRICT)
class PooledSection:
    """Name masks by pooling CLIP's features, without training.

    Attributes:
        ensemble: how the mask generator's own classes join in; None leaves them out.
    """

    pooling: PoolingConfig = Field(default_factory=PoolingConfig)
    ensemble: EnsembleConfig | None = None
    kind: Literal["pooled"] = "pooled"


ClipNamingSection = MaskedCropConfig | FisaSection | PooledSection
"""How CLIP names masks."""


@dataclass(frozen=True, slots=True, config=STRICT)
class WordEnsembleSection:
    """Name masks by the words that guided them, and by CLIP.

    Attributes:
        clip: how CLIP names them.
        clip_share: how much CLIP counts, in [0, 1]; the default is the paper's.
    """

    clip: Annotated[ClipNamingSection, Field(discriminator="kind")]
    clip_share: Share = 0.65
    kind: Literal["word_ensemble"] = "word_ensemble"


_MASK_STRIDE = 4
"""Pixels of the image along a pixel of the masks."""

Side = Annotated[int, Field(ge=4, le=4096)]
"""Of images as the model sees them, pixels."""

ProposerSection = GeneratorSection | PromptGuidedSection
ClipSection = SentenceClipSection | OpenClipConfig
ClassifierSection = ClipNamingSection | WordEnsembleSection


@dataclass(frozen=True, slots=True, config=STRICT)
class TwoStageSection:
    """Masks first, then their names.

    Attributes:
        input_size: (height, width) that images are fitted into, pixels; multiples of the proposer's patches.
        proposer, classifier: the stages.
        clip: whose text tower reads the words, and whose image tower the classifier uses.
        templates: prompts, each with one `{}`, or the name of a set: "vild" or "imagenet".
    """

    input_size: tuple[Side, Side]
    proposer: Annotated[ProposerSection, Field(discriminator="kind")]
    clip: Annotated[ClipSection, Field(discriminator="kind")]
    classifier: Annotated[ClassifierSection, Field(discriminator="kind")]
    templates: tuple[str, ...] | str = ("a photo of a {}",)
    kind: Literal["two_stage"] = "two_stage"

    def __post_init__(self) -> None:
        naming, generator = self.naming, self.generator
        if isinstance(naming, MaskedCropConfig) and not isinstance(self.clip, SentenceClipSection):
            raise ValueError("classifier masked_crops needs a clip of kind sentence_clip; choose fisa or pooled")
        ensemble = naming.ensemble if isinstance(naming, PooledSection) else None
        if isinstance(self.classifier, WordEnsembleSection) and not isinstance(self.proposer, PromptGuidedSection):
            raise ValueError(
                f"classifier word_ensemble needs a proposer of kind prompt_guided, not {self.proposer.kind}; choose "
                "masked_crops, fisa or pooled"
            )
        if isinstance(self.proposer, PromptGuidedSection) and ensemble is not None:
            raise ValueError(
                "ensemble joins in the generator's own classes, which are not trained any further once words guide its "
                "masks; leave ensemble out, and choose word_ensemble to join in its words"
            )
        unit = _MASK_STRIDE
        if isinstance(generator, EoMTSection):
            unit = generator.architecture.patch_size
            if ensemble is not None:
                raise ValueError(
                    "classifier.ensemble needs a proposer whose classes have names, published_eomt or mask2former, not "
                    "eomt; leave ensemble out"
                )
        if any(side % unit for side in self.input_size):
            raise ValueError(f"input_size is {list(self.input_size)}; with this proposer, expected multiples of {unit}")
        prompt_templates(self.templates)

    @property
    def generator(self) -> GeneratorSection:
        """The mask generator itself, whether or not words guide it."""
        return self.proposer.generator if isinstance(self.proposer, PromptGuidedSection) else self.proposer

    @property
    def naming(self) -> ClipNamingSection:
        """How CLIP names masks, whether or not the mask generator has a say."""
        return self.classifier.clip if isinstance(self.classifier, WordEnsembleSection) else self.classifier


ModelSection = TwoStageSection
"""A second kind of model makes this a union and `PresetConfig.model` a choice by `kind`, as the parts above are."""


@dataclass(frozen=True, slots=True, config=STRICT)
class WeightFile:
    """One file that `ovseg download` fetches.

    Attributes:
        repo: hub repository, "owner/name".
        file: its name there.
        alternatives: other names under which the same weights may lie there, should `file` not.
        bytes: its size, as far as known; for planning, not for checking.
        licence: under which it is published, as its page says.
        sha256: of the content of `file`; None relies on the checksum that the hub states for it.
        revision: branch, tag or commit; None is the main branch.
    """

    repo: str
    file: str
    bytes: NonNegativeInt
    licence: str
    alternatives: tuple[str, ...] = ()
    sha256: str | None = None
    revision: str | None = None

    def cached(self, cache: Path | None = None) -> Path | None:
        """Where the file lies in the local cache of the hub; None if it has not been fetched."""
        return cached_file(self.repo, self.names, revision=self.revision, cache=cache)

    @property
    def names(self) -> tuple[str, ...]:
        """`file` and its alternatives, the preferred one first."""
        return (self.file, *self.alternatives)


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
    model: ModelSection
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
        return beside if beside.is_file() or len(path.parts) > 1 else weights_dir() / name

    def public(self, source: str) -> str:
        """A public checkpoint or architecture; a path may be relative to the preset's folder."""
        beside = self.folder / Path(source).expanduser()
        return str(beside) if beside.exists() else source


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(path.stem for path in (config_dir() / "models").glob("*.yaml"))


def preset_path(preset: str) -> Path:
    """File of a preset, given its name or a path to a YAML file; ConfigError, with the names, if there is none."""
    return find_config("preset", preset, config_dir() / "models")


def preset_folder(preset: str) -> PresetFolder:
    """Where a preset lies."""
    return PresetFolder(preset_path(preset).parent)


def load_preset(preset: str) -> PresetConfig:
    """Read and check a preset; ConfigError if it is missing or malformed."""
    path = preset_path(preset)
    return from_mapping(PresetConfig, load_yaml(path), path.name)


def fisa_section(preset: str) -> FisaSection:
    """What a preset says of its FISA; ConfigError if it has none."""
    section = load_preset(preset).model.naming
    if not isinstance(section, FisaSection):
        raise ConfigError(
            f"the classifier of the preset {preset} is of kind {section.kind}, not fisa; "
            "name another, such as fisa_l, fisa_b or tabletop_fisa"
        )
    return section


def own_checkpoints(config: PresetConfig) -> list[str]:
    """The files of this package's networks that a preset names."""
    return [source for source, names in _checkpoints(config.model) if not names]


def checkpoint_paths(preset: str) -> tuple[Path, ...]:
    """The weight files that a preset is built from; CheckpointError if a public one is not on this machine."""
    config = load_preset(preset)
    require_weights(preset, config)
    model = config.model
    return section_paths(preset_folder(preset), model.proposer, model.clip, model.classifier)


def section_paths(files: PresetFolder, *parts: ProposerSection | ClipSection | ClassifierSection) -> tuple[Path, ...]:
    """The weight files of some sections of a preset; CheckpointError if a public one is not on this machine."""
    checkpoints = [found for part in parts for found in _checkpoints_of(part)]
    paths = [files.own(source) for source, names in checkpoints if not names]
    for source, names in checkpoints:
        if names:
            paths += find_weights(files.public(source), names).shards
    return tuple(paths)


def missing_weights(config: PresetConfig) -> list[WeightFile]:
    """Those of a preset's `weights` that are not in the local cache of the hub."""
    return [weights for weights in config.weights if weights.cached() is None]


def require_weights(preset: str, config: PresetConfig) -> None:
    """CheckpointError, before anything is built, if a file that the preset's sections name has not been fetched."""
    files = preset_folder(preset)
    used = {repository_of(files.public(source)) for source, names in _checkpoints(config.model) if names}
    missing = [weights for weights in missing_weights(config) if weights.repo in used]
    if missing:
        first, size = missing[0], sum(weights.bytes for weights in missing) / 1e9
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"preset {preset}: {first.file} of {first.repo}{more} is not on this machine; looked for it in "
            f"{repository_folder(first.repo)}; fetch it with: {ovseg_command()} download {preset} ({size:.1f} GB)"
        )


_Checkpoint = tuple[str, Sequence[str]]
"""A file of this package's networks and (), or public weights and the file names to look for."""


def _checkpoints(model: ModelSection) -> list[_Checkpoint]:
    return [found for part in (model.proposer, model.clip, model.classifier) for found in _checkpoints_of(part)]


def _checkpoints_of(part: ProposerSection | ClipSection | ClassifierSection) -> list[_Checkpoint]:
    match part:
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
        case MaskedCropConfig() | PooledSection():
            return []
