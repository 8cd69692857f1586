"""Weights that a training begins with: public ones, or those of an own run; of an EoMT, with other classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from ovseg_ros.core.build_masks import named_classes
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.presets import PresetFolder, load_preset, preset_folder, preset_names, section_paths
from ovseg_ros.core.proposals.closed_set import names_of_classes
from ovseg_ros.core.proposals.eomt.checkpoints import load_eomt
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.run_folders import left_by_training
from ovseg_ros.core.sections import ClosedSetSection, EoMTSection, PublishedEoMTSection, TwoStageSection
from ovseg_ros.core.vocabulary import normalize_name
from ovseg_ros.core.weights.files import find_weights, read_weights
from ovseg_ros.core.weights.strict import fit_faults, require_finite

Phrases = Sequence[str]
"""The names of one class, the first of which is shown."""

_OWN_KEY = "queries.weight"  # in this package's files of an EoMT, and in no public one
_POSITIONS = "encoder.pos_embed"
_NO_OBJECT = -1
_HEAD = ("class_head.weight", "class_head.bias")
_SHOWN = 6

_ADAPTABLE = ("image_size", "layer_scale", "num_classes")
"""What of an architecture may be another; that there is a `layer_scale`, or none, has to be the same."""


@dataclass(frozen=True, slots=True)
class EoMTWeights:
    """Weights of an EoMT by this package's names.

    Attributes:
        where: for messages.
        config: their architecture; None where the file does not say it.
        classes: the names of each; empty where nobody gave them names.
    """

    where: str
    state: Mapping[str, Tensor]
    config: EoMTConfig | None
    classes: Sequence[Phrases]


def eomt_files(source: str) -> tuple[Path, ...]:
    """The files that `read_eomt` reads; errors as of it."""
    section, folder = _section_of(source)
    return section_paths(folder, section)


def read_eomt(source: str) -> EoMTWeights:
    """Find and read weights to begin with.

    Args:
        source: a preset, whose mask generator counts; the folder of a run; a file in it, its result or a state; or
            public weights, as `load_eomt` takes them.

    Raises:
        ConfigError: the preset's mask generator is no EoMT.
        CheckpointError: they are missing, unreadable, or no EoMT's.
    """
    section, folder = _section_of(source)
    if isinstance(section, EoMTSection):
        files = find_weights(str(folder.own(section.checkpoint)))
        phrases = [(one.name, *one.synonyms) for one in named_classes(section, folder)]
        return EoMTWeights(files.where, read_weights(files), section.architecture, phrases)
    checkpoint = folder.public(section.checkpoint)
    if Path(checkpoint).expanduser().exists():
        files = find_weights(checkpoint)
        state = read_weights(files)
        if _OWN_KEY in state:
            return EoMTWeights(files.where, state, None, ())
    base = section.base and folder.public(section.base)
    model, names = load_eomt(checkpoint, base=base, differences=section.differences)
    return EoMTWeights(checkpoint, model.state_dict(), model.config, names_of_classes(names))


def begin_with(model: EoMT, weights: EoMTWeights, classes: Sequence[Phrases]) -> str:
    """Fill a model; of its class head, the rows of "no object" and of classes that have a name in common with one of
    the weights' own. Other classes stay as they are.

    Args:
        model: with as many classes as `classes`, in their order. Position embeddings are resampled to its image size.

    Returns:
        What became of the classes, in a sentence.

    Raises:
        CheckpointError: naming what of the architecture differs, or what does not fit.
    """
    _require_architecture(weights, model.config)
    wanted, state = model.state_dict(), dict(weights.state)
    places = _places(weights.classes, classes)
    for key in _HEAD:
        rows, new = state.get(key), wanted[key].clone()
        if rows is None or rows.shape[1:] != new.shape[1:]:
            continue  # said below
        if weights.classes and len(rows) != len(weights.classes) + 1:
            raise CheckpointError(
                f"{weights.where} has {len(rows) - 1} classes, but {len(weights.classes)} names of them; give the "
                "preset or the config.json that belongs to it"
            )
        for place, old in ((_NO_OBJECT, _NO_OBJECT), *places.items()):
            new[place] = rows[old].to(new.dtype)
        state[key] = new
    if _POSITIONS in state and weights.config is not None and not model.config.dinov3:
        state[_POSITIONS] = _resampled(state[_POSITIONS], weights.config, model.config)
    if faults := fit_faults({key: tuple(value.shape) for key, value in wanted.items()}, state):
        raise CheckpointError(f"{weights.where} does not fit network.architecture: {faults}")
    require_finite(state, weights.where)
    model.load_state_dict(state)
    return _told(weights, classes, places)


def begun_with(preset: str, begins_with: str, nothing: str, checkpoint_of: Callable[[str], str]) -> Path | None:
    """The file of a whole result to begin with; None for nothing.

    Args:
        preset: the stage's.
        begins_with: what says `nothing`; "trained", the preset's own; that file, or a state of a training; a preset, or
            the folder of a run, which names it.
        checkpoint_of: what a preset calls it.
    """
    if begins_with == nothing:
        return None
    source = preset if begins_with == "trained" else begins_with
    if _is_preset(source):
        return preset_folder(source).own(checkpoint_of(source)).resolve()
    return Path(source).expanduser().resolve()


def _is_preset(source: str) -> bool:
    """Whether it is a preset, or what a training left with one; not weights by themselves."""
    path = Path(source).expanduser()
    if source in preset_names() or path.suffix in (".yaml", ".yml"):
        return True
    try:
        return left_by_training(source) is not None
    except ConfigError:
        if path.is_file():  # of which nothing else is known
            return False
        raise


def _section_of(source: str) -> tuple[EoMTSection | PublishedEoMTSection, PresetFolder]:
    """What is known of weights, and where their names lead from."""
    if not _is_preset(source):
        path = Path(source).expanduser()
        if path.parent != Path() and path.parent.is_dir() and not path.exists():  # a hub's owner is no folder here
            raise ConfigError(f"begins_with: there is no {path.name} in {path.parent}; correct the path")
        return PublishedEoMTSection(source), PresetFolder(Path())
    model = load_preset(source).model
    section = model.proposer if isinstance(model, TwoStageSection | ClosedSetSection) else model
    if not isinstance(section, EoMTSection | PublishedEoMTSection):
        raise ConfigError(
            f"begins_with: the preset {source} is of kind {section.kind}, which is no EoMT; name a preset whose "
            "proposer is of kind eomt or published_eomt, or the weights of an EoMT"
        )
    return section, preset_folder(source)


def _require_architecture(weights: EoMTWeights, wanted: EoMTConfig) -> None:
    if (given := weights.config) is None:
        return
    differing = [
        f"{key} {getattr(given, key)} (the recipe: {getattr(wanted, key)})"
        for key in asdict(given)
        if key not in _ADAPTABLE and getattr(given, key) != getattr(wanted, key)
    ]
    if (given.layer_scale is None) != (wanted.layer_scale is None):
        differing.append(f"layer_scale {given.layer_scale} (the recipe: {wanted.layer_scale})")
    if differing:
        raise CheckpointError(
            f"begins_with: {weights.where} is another EoMT than the recipe's: it has {', '.join(differing)}; set these "
            "of network.architecture to what the weights have, or begin with weights of the recipe's architecture"
        )


def _places(old: Sequence[Phrases], new: Sequence[Phrases]) -> dict[int, int]:
    """Of each new class that is an old one: which. A class's first name counts before its synonyms."""
    firsts: dict[str, int] = {}
    others: dict[str, int] = {}
    for index, phrases in enumerate(old):
        for place, phrase in enumerate(phrases):
            (others if place else firsts).setdefault(normalize_name(phrase), index)
    known = {**others, **firsts}
    found = {
        i: [known[name] for name in map(normalize_name, phrases) if name in known] for i, phrases in enumerate(new)
    }
    return {index: classes[0] for index, classes in found.items() if classes}


def _resampled(positions: Tensor, given: EoMTConfig, wanted: EoMTConfig) -> Tensor:
    """Position embeddings (1, P, C) of one image size for another."""
    old, new = ([side // config.patch_size for side in config.image_size] for config in (given, wanted))
    if old == new:
        return positions
    return resample_abs_pos_embed(positions.float(), new_size=new, old_size=old, num_prefix_tokens=0)


def _told(weights: EoMTWeights, classes: Sequence[Phrases], places: Mapping[int, int]) -> str:
    kept = [phrases[0] for index, phrases in enumerate(classes) if index in places]
    new = [phrases[0] for index, phrases in enumerate(classes) if index not in places]
    unnamed = "" if weights.classes else ", as its own have no names"
    parts = [f"{len(kept)} of {len(classes)} classes are kept{_few(kept)}", f"{len(new)} are new{unnamed}{_few(new)}"]
    return f"begins with {weights.where}: {'; '.join(parts)}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f": {', '.join(names[:_SHOWN])}{more}" if names else ""
