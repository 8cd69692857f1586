"""The categories of a data set: as its YAML file says, or as its annotations do."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovseg_ros.core.errors import ConfigError, DatasetError, VocabularyError
from ovseg_ros.core.resources import bundled_vocabularies
from ovseg_ros.core.vocabulary import (
    CategorySpec,
    find_vocabulary,
    load_numbered_entries,
    normalize_name,
    numbered_entries,
    parse_entry,
)
from ovseg_ros.offline.data.forms import LARGEST_LABEL, Form, SemanticForm
from ovseg_ros.offline.data.types import DatasetCategory


def categories_of_form(form: Form, file: Path) -> tuple[DatasetCategory, ...]:
    """The categories that a data set's file says, in its order; none where it leaves them to the annotations.

    Raises:
        ConfigError: they are wrong, or contradict the file's other keys.
        VocabularyError: a name is refused.
    """
    if form.classes is None:
        if form.ids is not None:
            raise ConfigError(f"{file}: ids are those of classes, which are missing; add them, or leave ids out")
        if isinstance(form, SemanticForm):  # whose maps hold numbers alone
            raise ConfigError(
                f"{file}: missing classes; say which number means what, such as classes: {{0: sky, 1: road}}"
            )
        return ()
    bundled = isinstance(form.classes, str) and form.classes in bundled_vocabularies()
    entries = _entries(form, file, bundled=bundled)
    if form.ids is not None:
        if len(form.ids) != len(entries):
            raise ConfigError(f"{file}: there are {len(entries)} classes and {len(form.ids)} ids; give one for each")
        if len(set(form.ids)) < len(form.ids):
            twice = next(number for number in form.ids if form.ids.count(number) > 1)
            raise ConfigError(f"{file}: ids have {twice} twice; give each class one of its own")
        entries = dict(zip(form.ids, entries.values(), strict=True))
    if both := sorted(entries.keys() & set(form.ignore)):
        raise ConfigError(f"{file}: {both[0]} is a class and under ignore; take it from one of them")
    largest = LARGEST_LABEL if not isinstance(form, SemanticForm) or form.bits != 8 else 255
    if too_large := [number for number in (*entries, *form.ignore) if number > largest]:
        raise ConfigError(f"{file}: the number {too_large[0]} does not fit into a map; expected 0 to {largest}")
    specs = {number: parse_entry(entry, f"{file}: classes: {number}") for number, entry in entries.items()}
    says = {number for number, entry in entries.items() if isinstance(entry, dict) and "is_thing" in entry}
    if not bundled:  # those have no clash, and what they say of things is part of them
        _refuse_shared_names(specs, f"{file}: classes")
    things = _things(form, specs, says, file, bundled=bundled)
    return tuple(
        DatasetCategory(index, number, spec.name, spec.synonyms, number in things)
        for index, (number, spec) in enumerate(specs.items())
    )


def _entries(form: Form, file: Path, *, bundled: bool) -> dict[int, object]:
    where = f"{file}: classes"
    if not isinstance(form.classes, str):
        return numbered_entries(form.classes, where)
    beside = file.parent / Path(form.classes).expanduser()
    if not bundled and not beside.is_file():
        raise ConfigError(
            f"{where} is {form.classes!r}, neither a file beside it nor one of {', '.join(bundled_vocabularies())}"
        )
    return load_numbered_entries(find_vocabulary(form.classes) if bundled else beside)


def _things(form: Form, specs: Mapping[int, CategorySpec], says: set[int], file: Path, *, bundled: bool) -> set[int]:
    """The numbers of the classes that are things."""
    said = {number for number in says if specs[number].is_thing}
    match form:
        case SemanticForm(segments="none"):
            return {number for number, spec in specs.items() if spec.is_thing}
        case SemanticForm(segments="stuff"):
            if form.things or (said and not bundled):
                name = form.things[0] if form.things else specs[min(said)].name
                raise ConfigError(
                    f"{file}: {name!r} is a thing, but without instances every class is one segment; write segments: "
                    "components, which makes each area that touches no other one instance, or leave it out"
                )
            return set()
        case SemanticForm(segments="components"):
            number_of = {normalize_name(spec.name): number for number, spec in specs.items()}
            if unknown := [name for name in form.things if normalize_name(name) not in number_of]:
                raise ConfigError(f"{file}: things: {unknown[0]!r} is no class; expected names of classes")
            things = said | {number_of[normalize_name(name)] for name in form.things}
            if not things:
                raise ConfigError(f"{file}: segments: components needs things, the names of classes with instances")
            return things
        case _:
            if form.kind == "instances":
                return set(specs)
            if bundled:
                return {number for number, spec in specs.items() if spec.is_thing}
            if silent := specs.keys() - says:
                raise ConfigError(
                    f"{file}: classes: {min(silent)} does not say is_thing; add it, or leave classes out: they are "
                    "in the annotations"
                )
            return said


def own_categories(
    table: Sequence[Any], where: str, ignored_ids: Sequence[int], *, things: bool
) -> tuple[DatasetCategory, ...]:
    """The categories of COCO's table of categories, in the order of their ids.

    Args:
        table: entries with `id`, `name` and, unless all are `things`, `isthing`; `synonyms` where there are any.
        where: it stands, for messages.
        ignored_ids: those that are left out.

    Raises:
        DatasetError: an entry is malformed, an id or a name stands twice, or there is none.
    """
    entries: dict[int, Mapping[str, Any]] = {}
    for entry in table:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or "name" not in entry:
            raise DatasetError(f"{where}: the category {short(entry)} has no id or no name; add it")
        if entries.setdefault(entry["id"], entry) is not entry:
            raise DatasetError(f"{where}: two categories have the id {entry['id']}; give each one of its own")
    if entries and entries.keys() <= set(ignored_ids):
        raise DatasetError(f"{where}: all its categories are under ignore; take those out that are to be learned")
    entries = {number: entries[number] for number in sorted(entries) if number not in ignored_ids}
    if not entries:
        raise DatasetError(f"{where} has no categories; add them to the list 'categories'")
    if len(entries) > LARGEST_LABEL:
        raise DatasetError(f"{where} has {len(entries)} categories; at most {LARGEST_LABEL} are read")
    if not things and not any("isthing" in entry for entry in entries.values()):
        raise DatasetError(f"{where}: its categories have no isthing; add it to each: 1 for things, 0 for stuff")
    specs = {}
    try:
        for number, entry in entries.items():
            isthing = 1 if things else entry.get("isthing")
            if isthing not in (0, 1):
                raise DatasetError(
                    f"{where}: category {number} ({entry['name']}) has the isthing {isthing!r}; expected 1 for a "
                    "thing, 0 for stuff"
                )
            listed = entry.get("synonyms")
            synonyms = listed if isinstance(listed, list) else []
            plain = {"name": entry["name"], "synonyms": synonyms, "is_thing": isthing == 1}
            specs[number] = parse_entry(plain, f"{where}: category {number}")
        _refuse_shared_names({n: replace(spec, synonyms=()) for n, spec in specs.items()}, where, ", or ignore its id")
    except VocabularyError as error:
        raise DatasetError(str(error)) from error
    taken = {normalize_name(spec.name) for spec in specs.values()}
    categories: list[DatasetCategory] = []
    for number, spec in specs.items():  # a phrase that two have is left to the first
        own = tuple(phrase for phrase in spec.synonyms if normalize_name(phrase) not in taken)
        taken |= set(map(normalize_name, own))
        categories.append(DatasetCategory(len(categories), number, spec.name, own, spec.is_thing))
    return tuple(categories)


def _refuse_shared_names(specs: Mapping[int, CategorySpec], where: str, advice: str = "") -> None:
    """VocabularyError where two categories have one name or synonym, since a vocabulary cannot tell them apart."""
    owner: dict[str, int] = {}
    for number, spec in specs.items():
        for phrase in (spec.name, *spec.synonyms):
            other = owner.setdefault(normalize_name(phrase), number)
            if other != number:
                told = f"{where}: {other} and {number} are both called {phrase!r}; rename one of them{advice}"
                raise VocabularyError(told)


def short(value: object) -> str:
    """A value as it is, or its beginning."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
