"""Vocabularies: checked words with ids that stay and colours of their own."""

import colorsys
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from types import MappingProxyType
from typing import Any

import numpy as np

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary.lists import show
from ovseg_ros.core.vocabulary.words import (
    MAX_CATEGORY_ID,
    UNKNOWN,
    CategorySpec,
    check_spec,
    normalize_name,
    refuse_too_many,
)

MONO8_NO_CATEGORY = 255
"""Value of a mono8 label image where there is no category; ids below it fit into one."""


@dataclass(frozen=True, slots=True)
class Category:
    """A checked `CategorySpec` with its identity.

    Attributes:
        id: 0 to 65534; the same for this name across vocabulary changes, and given to another only as
            `Vocabulary.build` tells.
        name: trimmed, inner whitespace collapsed, case kept.
        synonyms: as `name`; distinct from it and from each other after normalising.
        is_thing: thing or stuff.
        color: (red, green, blue), 0 to 255; a function of the normalised name alone.
        threshold: in [0, 1].
        negative: competes but is not published.
    """

    id: int
    name: str
    synonyms: tuple[str, ...]
    is_thing: bool
    color: tuple[int, int, int]
    threshold: float
    negative: bool


@dataclass(frozen=True)
class Vocabulary:
    """An immutable set of categories. Make one with `build`.

    Attributes:
        categories: K >= 1 categories in the order they were given; at least one is not negative.
        version: 1 or more, one higher for every change.
        assigned_ids: normalised name -> id for every name seen since version 1 that has not lost it; those that have
            been gone longest come first.
    """

    categories: tuple[Category, ...]
    version: int
    assigned_ids: Mapping[str, int] = field(hash=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "assigned_ids", MappingProxyType(dict(self.assigned_ids)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy can be neither pickled nor deep-copied.
        return Vocabulary, (self.categories, self.version, dict(self.assigned_ids))

    @classmethod
    def build(
        cls,
        specs: Sequence[CategorySpec],
        *,
        previous: "Vocabulary | None" = None,
        max_categories: int = 2000,
        fit_mono8: bool = False,
    ) -> "Vocabulary":
        """Checks `specs` and gives every category its id and colour.

        No id is given to a second name, unless `fit_mono8` leaves no other way.

        Args:
            specs: the categories wanted.
            previous: the vocabulary that this one replaces; names it has seen keep their ids.
            max_categories: most categories accepted.
            fit_mono8: give every category that is published an id below `MONO8_NO_CATEGORY`. Where all of these have
                been given out, those of names that are gone are given again, the longest gone first.

        Raises:
            VocabularyError: the vocabulary breaks a rule; `previous` stays valid.
        """
        if isinstance(specs, (str, bytes)) or not isinstance(specs, Sequence):
            raise VocabularyError(f"specs are {show(specs)}; expected a list of CategorySpec")
        if not specs:
            raise VocabularyError("the vocabulary has no categories; give at least one name")
        refuse_too_many(len(specs), max_categories)
        checked = [check_spec(spec, f"category {index}") for index, spec in enumerate(specs)]
        if all(spec.negative for spec in checked):
            raise VocabularyError(
                f"all {len(checked)} categories are negative, so nothing would be published; add one that is not"
            )
        _refuse_shared_names(checked)

        known_ids = previous.assigned_ids if previous else {}
        ids = (_ids_in_mono8 if fit_mono8 else _ids)(checked, known_ids)
        categories = tuple(
            Category(
                id=ids[normalize_name(spec.name)],
                name=spec.name,
                synonyms=spec.synonyms,
                is_thing=spec.is_thing,
                color=color_of_name(spec.name),
                threshold=spec.threshold,
                negative=spec.negative,
            )
            for spec in checked
        )
        taken = frozenset(ids.values())
        gone = {name: id_ for name, id_ in known_ids.items() if name not in ids and id_ not in taken}
        return cls(categories, previous.version + 1 if previous else 1, gone | ids)

    @cached_property
    def traits(self) -> np.ndarray:
        """(4, K) float32: threshold, is_thing, negative and id of each category; one table to send to a device."""
        rows = [(category.threshold, category.is_thing, category.negative, category.id) for category in self.categories]
        return np.array(rows, dtype=np.float32).reshape(-1, 4).T.copy()

    @cached_property
    def unknown_index(self) -> int | None:
        """Index of the category named `UNKNOWN`, or None."""
        names = [normalize_name(category.name) for category in self.categories]
        return names.index(UNKNOWN) if UNKNOWN in names else None

    @cached_property
    def highest_published_id(self) -> int:
        """Of the categories that are not negative: what label images have to hold."""
        return max(category.id for category in self.categories if not category.negative)

    def reused_ids(self, previous: "Vocabulary") -> dict[int, tuple[str, str]]:
        """The ids that `previous` knew under another name: id -> that name, normalised, and the name now."""
        names = {category.id: category.name for category in self.categories}
        return {
            id_: (before, names[id_])
            for before, id_ in previous.assigned_ids.items()
            if id_ in names and normalize_name(names[id_]) != before
        }

    def to_specs(self) -> tuple[CategorySpec, ...]:
        """The categories without ids and colours, ready for `build` or to be edited."""
        return tuple(
            CategorySpec(category.name, category.synonyms, category.is_thing, category.threshold, category.negative)
            for category in self.categories
        )


def color_of_name(name: str) -> tuple[int, int, int]:
    """(red, green, blue), 0 to 255: saturated, bright, and the same for this name in every process."""
    digest = hashlib.blake2b(normalize_name(name).encode(), digest_size=4).digest()
    hue = int.from_bytes(digest[:2], "big") / 65536
    saturation = 0.60 + 0.40 * digest[2] / 255
    value = 0.70 + 0.30 * digest[3] / 255
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    # Pure blue is nearly black to the eye: mix in white up to a luma (Rec. 601) of 0.35.
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    white = max(0.0, (0.35 - luma) / (1.0 - luma))
    lifted = [round(255 * (channel + white * (1.0 - channel))) for channel in (red, green, blue)]
    return lifted[0], lifted[1], lifted[2]


def _refuse_shared_names(specs: Sequence[CategorySpec]) -> None:
    owners: dict[str, int] = {}
    for index, spec in enumerate(specs):
        for phrase in (spec.name, *spec.synonyms):
            owner = owners.setdefault(normalize_name(phrase), index)
            if owner != index:
                raise VocabularyError(
                    f'category {index} ("{spec.name}"): {show(phrase)} is already a name or synonym of category '
                    f'{owner} ("{specs[owner].name}") when case, spaces and underscores are ignored; '
                    "keep it in one of them"
                )


def _ids(specs: Sequence[CategorySpec], known: Mapping[str, int]) -> dict[str, int]:
    """Normalised name -> id: the known one, or one that no name has had."""
    free = _unused_ids(known)
    names = [normalize_name(spec.name) for spec in specs]
    return {name: known[name] if name in known else next(free) for name in names}


def _ids_in_mono8(specs: Sequence[CategorySpec], known: Mapping[str, int]) -> dict[str, int]:
    """As `_ids`, below `MONO8_NO_CATEGORY` for what is published; negatives are in no image and get higher ones."""
    published = [normalize_name(spec.name) for spec in specs if not spec.negative]
    if len(published) > MONO8_NO_CATEGORY:
        raise VocabularyError(
            f"the vocabulary has {len(published)} categories that are published, and a label image that is kept mono8 "
            f"has room for {MONO8_NO_CATEGORY} (the value {MONO8_NO_CATEGORY} is none); remove "
            f"{len(published) - MONO8_NO_CATEGORY} of them or make them negative, or start the node with "
            "label_image_encoding:=auto"
        )
    negatives = [normalize_name(spec.name) for spec in specs if spec.negative]
    low = {name: id_ for name, id_ in known.items() if id_ < MONO8_NO_CATEGORY}
    ids = {name: low[name] for name in published if name in low}
    # What no name has had, then what names had that are gone, last what names have that are negative now.
    unused = sorted(set(range(MONO8_NO_CATEGORY)) - set(low.values()))
    others = sorted((name for name in low if name not in ids), key=set(negatives).__contains__)
    room = iter([*unused, *(low[name] for name in others)])
    ids |= {name: next(room) for name in published if name not in ids}
    taken = frozenset(ids.values())
    kept = {name: id_ for name, id_ in known.items() if id_ not in taken}
    free = _unused_ids(known, MONO8_NO_CATEGORY)
    return ids | {name: kept[name] if name in kept else next(free) for name in negatives}


def _unused_ids(assigned_ids: Mapping[str, int], first: int = 0) -> Iterator[int]:
    used = frozenset(assigned_ids.values())
    for candidate in count(first):
        if candidate > MAX_CATEGORY_ID:
            raise VocabularyError(
                f"all {MAX_CATEGORY_ID + 1} category ids have been given out since the start and none is reused; "
                "restart to begin again, or use names seen before"
            )
        if candidate not in used:
            yield candidate
