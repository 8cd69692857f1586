"""Preset files, `config/models/NAME.yaml`: what they say, and where they and their weights are."""

from dataclasses import dataclass, field
from pathlib import Path

from ovseg_ros.core.backbones.open_clip_model import CHECKPOINT_NAMES, OpenClipConfig
from ovseg_ros.core.backbones.sentence_clip import ClipConfig
from ovseg_ros.core.classification.ensemble import EnsembleConfig
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.masked_crops import MaskedCropConfig
from ovseg_ros.core.classification.pooling import PoolingConfig
from ovseg_ros.core.config import from_mapping, load_yaml
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.proposals.eomt.network import EoMTConfig
from ovseg_ros.core.proposals.published import published_base
from ovseg_ros.core.resources import config_dir, weights_dir
from ovseg_ros.core.templates import prompt_templates
from ovseg_ros.core.weights.files import find_weights
from ovseg_ros.core.weights.hub import cached_file, find_file, is_repository, repository_folder

PROPOSERS = ("eomt", "eomt_hub", "mask2former")
CLASSIFIERS = ("classifier", "fisa", "pooling")
CLIPS = ("clip", "open_clip")


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """A public mask generator.

    Attributes:
        checkpoint: hub repository ("owner/name"), folder or file. Its architecture is read from its tensors.
        base: of an EoMT on DINOv3, the DINOv3 weights to which it holds differences, named likewise; None takes the
            repository that the published one was trained from.
    """

    checkpoint: str
    base: str | None = None

    @property
    def base_weights(self) -> str | None:
        """`base`, else what the published checkpoint was trained from; None where it needs no other weights."""
        return self.base or published_base(self.checkpoint)


@dataclass(frozen=True, slots=True)
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
    bytes: int
    licence: str
    alternatives: tuple[str, ...] = ()
    sha256: str | None = None
    revision: str | None = None

    def cached(self, cache: Path | None = None) -> Path | None:
        """Where the file lies in the local cache of the hub; None if it has not been fetched."""
        found = (cached_file(self.repo, name, revision=self.revision, cache=cache) for name in self.names)
        return next((path for path in found if path is not None), None)

    @property
    def names(self) -> tuple[str, ...]:
        """`file` and its alternatives, the preferred one first."""
        return (self.file, *self.alternatives)


@dataclass(frozen=True, slots=True)
class PresetConfig:
    """A preset: one mask generator, one CLIP and one way to name masks.

    Attributes:
        description: one line for people.
        input_size: (height, width) that images are fitted into before the mask generator, pixels.
        eomt, eomt_checkpoint: a mask generator of this package and its safetensors file.
        eomt_hub: a public EoMT checkpoint.
        mask2former: a public Mask2Former checkpoint.
        clip, clip_checkpoint: a CLIP of this package, and the file of its image tower, temperature and bias.
        open_clip: a public CLIP.
        classifier: name masks by reading masked crops.
        fisa, fisa_checkpoint: name masks by FISA; the file holds its trained tensors, None leaves them untrained.
        pooling: name masks by pooling CLIP's features, without training.
        ensemble: beside `pooling`: how the mask generator's own classes join in; None leaves them out.
        templates: prompts, each with one `{}`, or the name of a set: "vild" or "imagenet".
        merge: thresholds of the panoptic merge.
        weights: files to fetch before use.
        memory_gb: main memory (and, on a GPU, about as much of its memory) that the preset needs, in 10^9 bytes.
        expected: quality to expect, and where that is known from.
    """

    description: str
    input_size: tuple[int, int]
    eomt: EoMTConfig | None = None
    eomt_checkpoint: str | None = None
    eomt_hub: PublishedCheckpoint | None = None
    mask2former: PublishedCheckpoint | None = None
    clip: ClipConfig | None = None
    clip_checkpoint: str | None = None
    open_clip: OpenClipConfig | None = None
    classifier: MaskedCropConfig | None = None
    fisa: FisaConfig | None = None
    fisa_checkpoint: str | None = None
    pooling: PoolingConfig | None = None
    ensemble: EnsembleConfig | None = None
    templates: tuple[str, ...] | str = ("a photo of a {}",)
    merge: MergeConfig = field(default_factory=MergeConfig)
    weights: tuple[WeightFile, ...] = ()
    memory_gb: float | None = None
    expected: str = ""

    def __post_init__(self) -> None:
        self._require_one(PROPOSERS, "mask generator")
        self._require_one(CLASSIFIERS, "classifier")
        self._require_one(CLIPS, "CLIP")
        for section, needed in (
            ("eomt", "eomt_checkpoint"),
            ("clip", "clip_checkpoint"),
            ("fisa_checkpoint", "fisa"),
            ("ensemble", "pooling"),
            ("classifier", "clip"),
        ):
            if getattr(self, section) is not None and getattr(self, needed) is None:
                raise ValueError(f"{section} needs {needed}, which is missing")
        if self.mask2former is not None and self.mask2former.base is not None:
            raise ValueError(f"mask2former has no base weights, got {self.mask2former.base}; leave base out")
        prompt_templates(self.templates)

    def _require_one(self, names: tuple[str, ...], what: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"both {' and '.join(given)}" if given else "none"
            raise ValueError(f"expected exactly one {what} section of {', '.join(names)}; got {found}")

    @property
    def min_objectness(self) -> float:
        """Proposals that are less likely than this to be any segment are not classified; in [0, 1]."""
        reader = self.classifier or self.fisa
        return reader.min_objectness if reader is not None else 0.0


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


def own_checkpoint(preset: str, name: str) -> Path:
    """A checkpoint that a preset names by file: beside the preset, else in the package."""
    beside = preset_path(preset).parent / Path(name).expanduser()
    return beside if beside.is_file() else weights_dir() / name


def published_source(preset: str, source: str) -> str:
    """A public checkpoint or architecture as a preset names it; a path may be relative to the preset's folder."""
    beside = preset_path(preset).parent / Path(source).expanduser()
    return str(beside) if beside.exists() else source


def checkpoint_paths(preset: str) -> tuple[Path, ...]:
    """The weight files that a preset is built from.

    Raises:
        CheckpointError: a public one is neither at its path nor in the local cache of the hub.
    """
    config = load_preset(preset)
    require_weights(preset, config)
    own = (config.eomt_checkpoint, config.clip_checkpoint, config.fisa_checkpoint)
    paths = [own_checkpoint(preset, name) for name in own if name is not None]
    for published in (config.eomt_hub, config.mask2former):
        if published is not None:
            paths += find_weights(published_source(preset, published.checkpoint)).shards
            if published.base_weights is not None:
                paths += find_weights(published_source(preset, published.base_weights)).shards
    if config.open_clip is not None:
        paths.append(find_file(published_source(preset, config.open_clip.checkpoint), CHECKPOINT_NAMES))
    return tuple(paths)


def missing_weights(config: PresetConfig, cache: Path | None = None) -> list[WeightFile]:
    """Those of a preset's `weights` that are not in the local cache of the hub."""
    return [weights for weights in config.weights if weights.cached(cache) is None]


def require_weights(preset: str, config: PresetConfig) -> None:
    """Stop before anything is built if a file that the preset's sections name has not been fetched.

    Raises:
        CheckpointError: with the file, the folder where it should be and the command that fetches it.
    """
    sections = (config.eomt_hub, config.mask2former, config.open_clip)
    used = {section.checkpoint for section in sections if section is not None}
    if config.eomt_hub is not None and config.eomt_hub.base_weights is not None:
        used.add(config.eomt_hub.base_weights)
    used = {source for source in used if is_repository(published_source(preset, source))}
    missing = [weights for weights in missing_weights(config) if weights.repo in used]
    if missing:
        first, size = missing[0], sum(weights.bytes for weights in missing) / 1e9
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"preset {preset}: {first.file} of {first.repo}{more} is not on this machine; looked for it in "
            f"{repository_folder(first.repo)}; fetch it with: ovseg download {preset} ({size:.1f} GB)"
        )
