"""What is evaluated: the facts that all parts of one evaluation share, and which images belong to which part."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ovseg_ros.core.errors import ConfigError, DatasetError, VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, normalize_name, parse_vocabulary
from ovseg_ros.offline.data.types import DatasetCategory


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`: images number - 1, number - 1 + count, ... of the split.

    Raises:
        ConfigError: the number is not 1 to `count`.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"shard {self.number}/{self.count} does not exist; expected 1/{self.count} and so on")

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


@dataclass(frozen=True, slots=True)
class Plan:
    """The facts of an evaluation; parts with equal plans may be merged.

    Attributes:
        preset: name or path, as given.
        preset_sha256: of the preset's file.
        checkpoints: SHA-256 of each weight file.
        data, split: the data set.
        images: how many images of the split are evaluated, by all parts together.
        oracle: "masks", "classes" or "" for none.
        vocabulary: name or path, as given; "" for the data set's own.
        vocabulary_sha256: of all names, synonyms and traits.
        categories: name and whether it is a thing, in the order of the data set's indices.
        is_panoptic: whether the truth has instances.
    """

    preset: str
    preset_sha256: str
    checkpoints: dict[str, str]
    data: str
    split: str
    images: int
    oracle: str
    vocabulary: str
    vocabulary_sha256: str
    categories: list[list[Any]]
    is_panoptic: bool

    @classmethod
    def from_json(cls, value: Any) -> "Plan":
        """The inverse of `to_json`.

        Raises:
            DatasetError: the value is not a plan.
        """
        try:
            plan = cls(**value)
            if not all(len(entry) == 2 and isinstance(entry[0], str) for entry in plan.categories):
                raise TypeError("categories are not pairs of a name and whether it is a thing")
        except (TypeError, ValueError) as error:
            raise DatasetError(f"not the head of a part of an evaluation: {error}") from error
        return plan

    def to_json(self) -> dict[str, Any]:
        """As a mapping of JSON's types."""
        return asdict(self)

    def difference(self, other: "Plan") -> str:
        """What differs, such as "split is 'val' and 'train'"; empty if nothing does. Paths may differ by machine."""
        mine, theirs = self.to_json(), other.to_json()
        names = [name for name in mine if name not in ("preset", "vocabulary") and mine[name] != theirs[name]]
        return ", ".join(f"{name} is {_short(mine[name])} and {_short(theirs[name])}" for name in names)


def vocabulary_of(categories: Sequence[DatasetCategory], source: str | None) -> Vocabulary:
    """The words that the segmenter is asked for, one category for each of the data set's, in its order.

    Args:
        categories: of the data set.
        source: a vocabulary file, or names separated by commas; None for the data set's own. Its i-th category is
            taken for the data set's i-th; thing or stuff is the data set's.

    Raises:
        VocabularyError: the vocabulary has another number of categories, or has them in another order.
    """
    specs: Sequence[CategorySpec]
    specs = [CategorySpec(c.name, c.synonyms) for c in categories] if source is None else parse_vocabulary(source)
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


def fingerprint(vocabulary: Vocabulary) -> str:
    """SHA-256 of everything in a vocabulary that changes results."""
    traits = [[c.name, c.synonyms, c.is_thing, c.threshold, c.negative] for c in vocabulary.categories]
    return hashlib.sha256(json.dumps(traits).encode()).hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
