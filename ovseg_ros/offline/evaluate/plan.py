"""What is evaluated: the facts that all parts of one evaluation share, and which images belong to which part."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.masked_crops import MaskedCropConfig
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.errors import ConfigError, VocabularyError
from ovseg_ros.core.presets import checkpoint_paths, description_paths, load_preset, preset_path
from ovseg_ros.core.sections import FisaSection, TwoStageSection
from ovseg_ros.core.trained_weights import require_trained
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, normalize_name, parse_vocabulary
from ovseg_ros.core.weights.files import sha256_of
from ovseg_ros.offline.data.files import digest_of
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.types import DatasetCategory, PanopticDataset, SemanticDataset
from ovseg_ros.offline.evaluate.oracle import Oracle


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`: images number - 1, number - 1 + count, ... of the split.

    Raises:
        ConfigError: the number is not 1 to `count`.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"shard {self.number}/{self.count} does not exist; expected I/N with I from 1 to N, such as 1/8"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From I/N, such as 2/8; or "rank": the process's place among those that torchrun or accelerate started.

        Raises:
            ConfigError: the text is neither, or there is no rank in the environment.
        """
        if text == "rank":
            rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
            if not (rank.isdecimal() and world_size.isdecimal()):
                raise ConfigError(
                    f"shard 'rank' needs RANK and WORLD_SIZE in the environment, got {rank!r} and {world_size!r}; "
                    "start the command by torchrun, or give I/N"
                )
            return cls(int(rank) + 1, int(world_size))
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal()):
            raise ConfigError(f"shard {text!r} is not I/N with I from 1 to N, such as 2/8, nor 'rank'")
        return cls(int(number), int(count))

    def of(self, images: int) -> range:
        """The indices of this part."""
        return range(self.number - 1, images, self.count)


@dataclass(frozen=True, slots=True, config=STRICT)
class Plan:
    """What is evaluated: what is asked for, and, once `resolved`, what that is. Parts with equal plans may be merged.

    Attributes:
        preset: name of a preset or path of its YAML.
        data: name of the data set, or path of its file.
        split: "" takes the data set's usual one.
        images: how many images of the split, the first ones, all parts together evaluate; 0 for all.
        oracle: which stage an oracle replaces; "" for none.
        vocabulary: see `vocabulary_of`; "" for the data set's own.
        synonyms: whether to segment under the data set's held-out names too.
        min_objectness: proposals less likely than this to be any segment do not count for mask recall; None counts, on
            the tabletop, those that the preset's classifier reads, and elsewhere all.
        scenes: see `Dataset.scenes`; of what is rendered, those that are not given have their defaults.
        preset_sha256: of the preset's file.
        data_sha256: of what the file of somebody's own data set says; "" of the others.
        checkpoints: SHA-256 of each weight file.
        descriptions: SHA-256 of each file of descriptions that the preset asks for.
        vocabulary_sha256: of all names, synonyms and traits.
        categories: name and whether it is a thing, in the order of the data set's indices.
        groups: category indices of the data set's groups.
        renamed: held-out names of all categories, for each way of renaming.
        is_panoptic: whether the truth has instances.
        device: type of device that segments.
        root: the data set's folder; "" where it is rendered.
        engine, precision: what runs the model, as asked for; of an evaluation, as it came to be.
    """

    preset: str
    data: str = "tabletop"
    split: str = ""
    images: int = 0
    oracle: Oracle = ""
    vocabulary: str = ""
    synonyms: bool = False
    min_objectness: float | None = None
    scenes: Mapping[str, int] = field(default_factory=dict)
    preset_sha256: str = ""
    data_sha256: str = ""
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    vocabulary_sha256: str = ""
    categories: tuple[tuple[str, bool], ...] = ()
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    renamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_panoptic: bool = True
    device: str = ""
    root: str = ""
    engine: str = REPRODUCIBLE.engine
    precision: str = REPRODUCIBLE.precision

    def difference(self, other: "Plan") -> str:
        """What differs, such as "split is 'val' and 'train'"; empty if nothing does. What may differ by machine may."""
        mine, theirs = asdict(self), asdict(other)
        by_digest = {"preset", "vocabulary", *(["data"] if self.data_sha256 and other.data_sha256 else [])}
        differences = []
        for name in mine:
            if name in by_digest or name in ("device", "root") or mine[name] == theirs[name]:
                continue
            if source := name.removesuffix("_sha256") if name.endswith("_sha256") else "":
                found = [f"{_short(plan[source])} with the SHA-256 {plan[name][:12]}" for plan in (mine, theirs)]
                differences.append(f"{source} is {found[0]} and {found[1]}")
            else:
                differences.append(f"{name} is {_short(mine[name])} and {_short(theirs[name])}")
        return ", ".join(differences)


def resolved(plan: Plan, dataset: PanopticDataset | SemanticDataset) -> Plan:
    """The plan with all facts of the preset and the data set, but for the device.

    Raises:
        OvsegError: preset, weights or vocabulary are wrong, or the data set is not what the plan asks for.
    """
    info = dataset_info(dataset.name)
    if plan.oracle == "masks" and not isinstance(load_preset(plan.preset).model, TwoStageSection):
        raise ConfigError(
            f"--oracle masks has a second stage name the true masks, but the preset {plan.preset} makes masks and "
            "names at once; leave it out, or take --oracle classes"
        )
    if plan.synonyms and not info.held_out:
        raise ConfigError(f"{dataset.name} has no held-out names for synonyms; the tabletop has them")
    for name, value in plan.scenes.items():
        if dataset.scenes.get(name) != value:
            raise ConfigError(f"{name} {value} is asked for, but the data has {dataset.scenes.get(name, 'none')}")
    if (min_objectness := plan.min_objectness) is None:
        min_objectness = _objectness_read(plan.preset) if dataset.name == "tabletop" else 0.0
    words = vocabulary_of(dataset.categories, plan.vocabulary).categories
    require_trained(plan.preset, load_preset(plan.preset))
    return replace(
        plan,
        root=str(dataset.root or ""),
        split=dataset.split,
        images=min(plan.images or len(dataset), len(dataset)),
        min_objectness=min_objectness,
        scenes=dataset.scenes,
        preset_sha256=sha256_of(preset_path(plan.preset)),
        data_sha256=info.digest if info.is_own else "",
        checkpoints=_digests(checkpoint_paths(plan.preset)),
        descriptions=_digests(description_paths(plan.preset)),
        vocabulary_sha256=digest_of([[c.name, c.synonyms, c.is_thing, c.threshold, c.negative] for c in words]),
        categories=tuple((category.name, category.is_thing) for category in dataset.categories),
        groups={name: tuple(c.index for c in dataset.categories if c.name in g) for name, g in info.groups.items()},
        renamed=info.held_out if plan.synonyms else {},
        is_panoptic=isinstance(dataset, PanopticDataset),
    )


def vocabulary_of(
    categories: Sequence[DatasetCategory], source: str, tell: Callable[[str], None] | None = None
) -> Vocabulary:
    """The words that the segmenter is asked for, one category for each of the data set's, in its order.

    Args:
        categories: of the data set.
        source: as in `parse_vocabulary`; "" for the data set's own. Its i-th category is taken for the data set's
            i-th; thing or stuff is the data set's.
        tell: told what may not be as it was meant.

    Raises:
        VocabularyError: the vocabulary has another number of categories, or has them in another order.
    """
    specs: Sequence[CategorySpec]
    specs = parse_vocabulary(source, tell=tell) if source else [CategorySpec(c.name, c.synonyms) for c in categories]
    if len(specs) != len(categories):
        raise VocabularyError(
            f"the vocabulary {_short(source)} has {len(specs)} categories, but the data set has {len(categories)}, "
            f"from {categories[0].name!r} to {categories[-1].name!r}; give one for each, in the data set's order"
        )
    place = {normalize_name(phrase): i for i, s in enumerate(specs) for phrase in (s.name, *s.synonyms)}
    for category in categories:
        found = place.get(normalize_name(category.name), category.index)
        if found != category.index:
            raise VocabularyError(
                f"the vocabulary {_short(source)} has {category.name!r} as category {found}, but it is the data set's "
                f"category {category.index}; give the categories in the data set's order"
            )
    traits = [
        CategorySpec(s.name, s.synonyms, c.is_thing, s.threshold, s.negative)
        for s, c in zip(specs, categories, strict=True)
    ]
    return Vocabulary.build(traits, max_categories=len(traits))


def _objectness_read(preset: str) -> float:
    """The objectness from which a preset's classifier reads proposals."""
    model = load_preset(preset).model
    match model.naming if isinstance(model, TwoStageSection) else model:
        case MaskedCropConfig(min_objectness=least) | FisaSection(architecture=FisaConfig(min_objectness=least)):
            return least
    return 0.0


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 by file name; two files of one name are numbered."""
    digests: dict[str, str] = {}
    for path in paths:
        name = path.name if path.name not in digests else f"{path.name} ({len(digests) + 1})"
        digests[name] = sha256_of(path)
    return digests


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
