"""Which words the segmenter looks for: categories with stable ids and colours, checked before anything uses them.

A vocabulary is refused whole, with one reason, or accepted whole. Reading one from a file or a command line is here
too, so that every way in obeys the same rules.
"""

import colorsys
import difflib
import hashlib
import reprlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import count
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.resources import config_dir

MAX_NAME_LENGTH = 100
"""Longest name or synonym, in characters."""

UNKNOWN = "unknown"
"""Name of the category that takes objects which no other word fits; by what they are not, not by this text."""

MAX_SYNONYMS = 100
"""Most synonyms of one category."""

MAX_CATEGORY_ID = 65534
"""Ids fit uint16; 65535 marks pixels without a category."""

MAX_VOCABULARY_BYTES = 1 << 20
"""Largest vocabulary file or command-line text."""

_FILE_SUFFIXES = (".yaml", ".yml", ".txt")

# Zero-width joiner and non-joiner belong to the spelling of emoji, Persian and Indic words. Two names that differ only
# in them look alike, so comparing ignores them; every other invisible format character is refused.
_JOINERS = "\u200c\u200d"
_WITHOUT_JOINERS = {ord(joiner): None for joiner in _JOINERS}
_REFUSED_CHARACTERS = {
    "Cc": "control character",
    "Cf": "invisible format character",
    "Cs": "lone surrogate",
    "Zl": "line separator",
    "Zp": "paragraph separator",
}

# Stuff when it is the last word ("brick wall", not "wall clock") or precedes a hyphen ("wall-brick", COCO's style).
# fmt: off
_STUFF_WORDS = frozenset((
    "wall", "floor", "ceiling", "carpet", "rug", "background", "sky", "cloud", "grass", "vegetation", "foliage",
    "forest", "field", "mountain", "hill", "road", "street", "sidewalk", "pavement", "ground", "terrain", "dirt",
    "sand", "gravel", "mud", "snow", "ice", "water", "sea", "ocean", "river", "lake",
))
# fmt: on
# Stuff only when it is the whole name: a "dining table" or a "yoga mat" is a thing.
_STUFF_NAMES = frozenset(["table", "tabletop", "tablecloth", "countertop", "mat", "wallpaper"])


@dataclass(frozen=True, slots=True)
class CategorySpec:
    """What a person asks for; nothing is checked until `Vocabulary.build`.

    Attributes:
        name: the label that outputs carry.
        synonyms: other phrases for the same category; the best-matching phrase counts.
        is_thing: True for countable objects (each its own segment), False for stuff (one segment).
        threshold: lowest score in [0, 1] at which this category is published, above the segmenter's own threshold.
        negative: True for a category that competes for pixels but is never published.
    """

    name: str
    synonyms: tuple[str, ...] = ()
    is_thing: bool = True
    threshold: float = 0.0
    negative: bool = False


@dataclass(frozen=True, slots=True)
class Category:
    """A checked `CategorySpec` with its identity.

    Attributes:
        id: 0 to 65534; the same for this name across vocabulary changes, never given to another.
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
        assigned_ids: normalised name -> id for every name seen since version 1, so that no id is ever reused.
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
    ) -> "Vocabulary":
        """Checks `specs` and gives every category its id and colour.

        Args:
            specs: the categories wanted.
            previous: the vocabulary that this one replaces; names it has seen keep their ids.
            max_categories: most categories accepted.

        Raises:
            VocabularyError: the vocabulary breaks a rule; `previous` stays valid.
        """
        if isinstance(specs, (str, bytes)) or not isinstance(specs, Sequence):
            raise VocabularyError(f"specs are {_show(specs)}; expected a list of CategorySpec")
        if not specs:
            raise VocabularyError("the vocabulary has no categories; give at least one name")
        _refuse_too_many(len(specs), max_categories)
        checked = [_check_spec(spec, f"category {index}") for index, spec in enumerate(specs)]
        if all(spec.negative for spec in checked):
            raise VocabularyError(
                f"all {len(checked)} categories are negative, so nothing would be published; add one that is not"
            )
        _refuse_shared_names(checked)

        assigned_ids = dict(previous.assigned_ids) if previous else {}
        free_ids = _unused_ids(assigned_ids)
        for spec in checked:
            key = normalize_name(spec.name)
            if key not in assigned_ids:
                assigned_ids[key] = next(free_ids)
        categories = tuple(
            Category(
                id=assigned_ids[normalize_name(spec.name)],
                name=spec.name,
                synonyms=spec.synonyms,
                is_thing=spec.is_thing,
                color=color_of_name(spec.name),
                threshold=spec.threshold,
                negative=spec.negative,
            )
            for spec in checked
        )
        return cls(categories, previous.version + 1 if previous else 1, assigned_ids)

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

    def to_specs(self) -> tuple[CategorySpec, ...]:
        """The categories without ids and colours, ready for `build` or to be edited."""
        return tuple(
            CategorySpec(category.name, category.synonyms, category.is_thing, category.threshold, category.negative)
            for category in self.categories
        )


def normalize_name(name: str) -> str:
    """The form in which names are compared: NFKC, joiners ignored, trimmed, inner whitespace collapsed, casefolded."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    # Folding can leave characters decomposed ("ǰ" becomes two), so compose once more.
    return " ".join(unicodedata.normalize("NFKC", folded).translate(_WITHOUT_JOINERS).split())


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


def guess_is_thing(name: str) -> bool:
    """Whether `name` is a thing, for names that come without that: False for a short list of well-known stuff words."""
    normalized = normalize_name(name)
    if not normalized or normalized in _STUFF_NAMES:
        return not normalized
    head = normalized.split("-", 1)[0] if "-" in normalized else normalized.split()[-1]
    return head not in _STUFF_WORDS and head.removesuffix("s") not in _STUFF_WORDS


def parse_vocabulary(text_or_path: str) -> tuple[CategorySpec, ...]:
    """Reads what a person typed: names separated by commas, or the path of a .yaml, .yml or .txt file.

    A bare file name of which there is no file here, such as "street.yaml", means the file in `config/vocabularies`.

    Raises:
        VocabularyError: the text is too long or a name breaks a rule, or the file is refused by `load_vocabulary_file`.
    """
    if not isinstance(text_or_path, str):
        raise VocabularyError(f"the vocabulary is {_show(text_or_path)}; expected names such as 'cup, table' or a file")
    text = text_or_path.strip()
    if len(text) <= MAX_VOCABULARY_BYTES and text.lower().endswith(_FILE_SUFFIXES):
        return load_vocabulary_file(_bundled_path(text) or Path(text))
    return parse_names(text_or_path)


def _bundled_path(text: str) -> Path | None:
    """The file of that name in `config/vocabularies`; None if there is none, or if `text` is a file by itself."""
    bundled = {path.name: path for path in (config_dir() / "vocabularies").glob("*.yaml")}
    return bundled[text] if text in bundled and not Path(text).exists() else None


def parse_names(text: str, *, max_categories: int = MAX_CATEGORY_ID + 1) -> tuple[CategorySpec, ...]:
    """Names separated by commas, each with a guess of thing or stuff; never a file.

    Raises:
        VocabularyError: the text is too long, has no names or more than `max_categories`, or a name breaks a rule.
    """
    if len(text) > MAX_VOCABULARY_BYTES:
        raise VocabularyError(
            f"the vocabulary text has {len(text)} characters; at most {MAX_VOCABULARY_BYTES} are read"
        )
    names = [(index, name) for index, name in enumerate(map(str.strip, text.split(","))) if name]
    _refuse_too_many(len(names), max_categories)  # before any is looked at: a mebibyte holds half a million
    specs = tuple(_named_spec(name, f"name {index}") for index, name in names)
    if not specs:
        raise VocabularyError(
            f"the vocabulary {_show(text.strip())} has no names; expected names such as 'cup, table' or a file"
        )
    return specs


def load_vocabulary_file(path: Path) -> tuple[CategorySpec, ...]:
    """Reads a vocabulary from a file.

    YAML (.yaml, .yml): `categories:`, a list of names or of mappings with `name` and, where wanted, `synonyms`,
    `is_thing`, `threshold`, `negative`. Text (.txt): one name a line; empty lines and lines that start with # are
    skipped. Without `is_thing`, `guess_is_thing` decides.

    Raises:
        VocabularyError: the file cannot be read, or a key or value is refused; the message names file, key and value.
    """
    suffix = path.suffix.lower()
    shown = _show(str(path))
    if suffix not in _FILE_SUFFIXES:
        raise VocabularyError(f"vocabulary file {shown} ends with {suffix!r}; expected {', '.join(_FILE_SUFFIXES)}")
    text = _read_text(path, shown)
    specs = _parse_lines(text, shown) if suffix == ".txt" else _parse_yaml(text, shown)
    if not specs:
        raise VocabularyError(f"vocabulary file {shown} has no categories; add at least one name")
    return specs


def _check_spec(spec: CategorySpec, where: str) -> CategorySpec:
    """Returns `spec` with tidied names, or raises with `where` in the message."""
    if not isinstance(spec, CategorySpec):
        raise VocabularyError(f"{where} is {_show(spec)}; expected a CategorySpec")
    name = _check_name(spec.name, f"{where}: name")
    where = f'{where} ("{name}")'
    if not isinstance(spec.synonyms, (list, tuple)):
        raise VocabularyError(f"{where}: synonyms are {_show(spec.synonyms)}; expected a list of phrases")
    if len(spec.synonyms) > MAX_SYNONYMS:
        raise VocabularyError(f"{where}: {len(spec.synonyms)} synonyms; at most {MAX_SYNONYMS} are accepted")
    synonyms: dict[str, str] = {}
    for index, synonym in enumerate(spec.synonyms):
        tidy = _check_name(synonym, f"{where}: synonyms[{index}]")
        synonyms.setdefault(normalize_name(tidy), tidy)
    synonyms.pop(normalize_name(name), None)
    for key in ("is_thing", "negative"):
        if not isinstance(getattr(spec, key), bool):
            raise VocabularyError(f"{where}: {key} is {_show(getattr(spec, key))}; expected true or false")
    threshold = spec.threshold
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0.0 <= threshold <= 1.0:
        raise VocabularyError(f"{where}: threshold is {_show(threshold)}; expected a number from 0 to 1")
    return CategorySpec(name, tuple(synonyms.values()), spec.is_thing, float(threshold), spec.negative)


def _check_name(name: str, where: str) -> str:
    """Returns `name` trimmed and with inner whitespace collapsed, or raises with `where` in the message."""
    if not isinstance(name, str):
        hint = "; put quotes around it" if isinstance(name, (bool, int, float)) else ""
        raise VocabularyError(f"{where} is {_show(name)}; expected text{hint}")
    # First, so that a huge name costs nothing.
    if len(name) > MAX_NAME_LENGTH:
        raise VocabularyError(
            f"{where} {_show(name)} has {len(name)} characters; at most {MAX_NAME_LENGTH} are accepted; shorten it"
        )
    for position, character in enumerate(name):
        kind = _REFUSED_CHARACTERS.get(unicodedata.category(character))
        if kind and character not in _JOINERS:
            raise VocabularyError(
                f"{where} {_show(name)} has the {kind} U+{ord(character):04X} at position {position}; remove it"
            )
    tidy = " ".join(unicodedata.normalize("NFC", name).split())
    if not normalize_name(tidy):
        raise VocabularyError(f"{where} {_show(name)} is empty; give a word or remove the entry")
    return tidy


def _refuse_shared_names(specs: Sequence[CategorySpec]) -> None:
    owners: dict[str, int] = {}
    for index, spec in enumerate(specs):
        for phrase in (spec.name, *spec.synonyms):
            owner = owners.setdefault(normalize_name(phrase), index)
            if owner != index:
                raise VocabularyError(
                    f'category {index} ("{spec.name}"): {_show(phrase)} is already a name or synonym of category '
                    f'{owner} ("{specs[owner].name}") when case and spacing are ignored; keep it in one of them'
                )


def _refuse_too_many(count: int, max_categories: int) -> None:
    if count > max_categories:
        raise VocabularyError(
            f"the vocabulary has {count} categories; at most {max_categories} are accepted; "
            "remove some or raise max_categories"
        )


def _unused_ids(assigned_ids: Mapping[str, int]) -> Iterator[int]:
    used = frozenset(assigned_ids.values())
    for candidate in count():
        if candidate > MAX_CATEGORY_ID:
            raise VocabularyError(
                f"all {MAX_CATEGORY_ID + 1} category ids have been given out since the start and none is reused; "
                "restart to begin again, or use names seen before"
            )
        if candidate not in used:
            yield candidate


def _named_spec(name: str, where: str) -> CategorySpec:
    return CategorySpec(_check_name(name, where), is_thing=guess_is_thing(name))


def _read_text(path: Path, shown: str) -> str:
    try:
        if not path.is_file():
            raise VocabularyError(f"vocabulary file {shown} does not exist or is not a file; check the path")
        with path.open("rb") as file:
            data = file.read(MAX_VOCABULARY_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise VocabularyError(f"vocabulary file {shown} cannot be read: {reason}") from error
    if len(data) > MAX_VOCABULARY_BYTES:
        raise VocabularyError(f"vocabulary file {shown} is larger than {MAX_VOCABULARY_BYTES} bytes; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"vocabulary file {shown} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; "
            "save it as UTF-8"
        ) from error


def _parse_lines(text: str, shown: str) -> tuple[CategorySpec, ...]:
    specs = []
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        where = f"{shown}, line {number}"
        if "," in name:
            raise VocabularyError(
                f"{where}: {_show(name)} has a comma; write one name a line, or synonyms in a YAML file"
            )
        specs.append(_named_spec(name, where))
    return tuple(specs)


class _StrictLoader(yaml.SafeLoader):
    """Refuses repeated keys, of which plain YAML loading keeps the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {_show(key_node.value)} appears twice", key_node.start_mark
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, shown: str) -> tuple[CategorySpec, ...]:
    try:
        document = yaml.load(text, _StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an impossible date or a huge integer
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or type(error).__name__
        raise VocabularyError(f"vocabulary file {shown}{place} is not valid YAML: {reason}") from error
    if not isinstance(document, dict):
        raise VocabularyError(
            f"vocabulary file {shown} holds {_show(document)}; expected the key 'categories' with a list"
        )
    _refuse_unknown_keys(document, ("categories",), shown)
    entries = document.get("categories")
    if not isinstance(entries, list):
        raise VocabularyError(f"{shown}: categories is {_show(entries)}; expected a list of names or mappings")
    return tuple(_parse_entry(entry, f"{shown}: categories[{index}]") for index, entry in enumerate(entries))


def _parse_entry(entry: object, where: str) -> CategorySpec:
    if isinstance(entry, str):
        return _named_spec(entry, where)
    if not isinstance(entry, dict):
        hint = "; put quotes around it" if isinstance(entry, (bool, int, float)) else ""
        raise VocabularyError(f"{where} is {_show(entry)}; expected a name or a mapping with the key 'name'{hint}")
    _refuse_unknown_keys(entry, tuple(spec_field.name for spec_field in fields(CategorySpec)), where)
    if "name" not in entry:
        raise VocabularyError(f"{where} has no 'name'; add one")
    name = _check_name(entry["name"], f"{where}: name")
    return _check_spec(CategorySpec(**{"is_thing": guess_is_thing(name), **entry}), where)


def _refuse_unknown_keys(mapping: Mapping[object, object], known: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in known:
            # Comparing costs the product of the lengths, so a huge key is cut first.
            nearest = difflib.get_close_matches(str(key)[:MAX_NAME_LENGTH].lower(), known, n=1) if key else []
            hint = f"; did you mean '{nearest[0]}'?" if nearest else f"; expected {', '.join(known)}"
            raise VocabularyError(f"{where} has the unknown key {_show(key)} with value {_show(mapping[key])}{hint}")


_short_repr = reprlib.Repr()
_short_repr.maxstring = 60
_short_repr.maxother = 60
_short_repr.maxlevel = 2


def _show(value: object) -> str:
    """`value` on one short line, however large, and its type unless it is text."""
    text = _short_repr.repr(value)
    return text if isinstance(value, str) else f"{text} ({type(value).__name__})"
