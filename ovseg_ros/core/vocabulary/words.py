"""Words as a person gives them: which are accepted, which are things, and lists of them, typed and edited.

Nothing here has an id or reads files: `ids.py` makes a `Vocabulary` of these, `files.py` reads and writes them.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.vocabulary.lists import show, split_names, why_no_name

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


_MAYBE_A_LIST = re.compile(r"\s\S+\s|\w\s*[&+]\s*\w")
"""One name of three words or more, or with a sign for "and", may have been meant as several."""

_ARTICLE = re.compile(r"^(?:(?:all|the|an?) )+(?=.)", re.IGNORECASE)
"""In front of a name of any words: "the table" is no more a list, or a thing, than "table"."""

_NOT_A_WORD = re.compile(r"(?=[a-z]*[_\d])[a-z0-9_]+")
"""What may be the name of a bundled vocabulary, and is none of an object."""


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


def normalize_name(name: str) -> str:
    """The form in which names are compared: NFKC, joiners ignored, `as_read`, trimmed, spaces collapsed, casefolded."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    # Folding can leave characters decomposed ("ǰ" becomes two), so compose once more.
    return " ".join(as_read(unicodedata.normalize("NFKC", folded).translate(_WITHOUT_JOINERS)).split())


def as_read(name: str) -> str:
    """What a name means where it is compared and encoded: "traffic_light" is "traffic light"."""
    return name.replace("_", " ")


def guess_is_thing(name: str) -> bool:
    """Whether `name` is a thing, for names that come without that: False for a short list of well-known stuff words."""
    normalized = _ARTICLE.sub("", normalize_name(name))
    if not normalized or normalized in _STUFF_NAMES:
        return not normalized
    head = normalized.split("-", 1)[0] if "-" in normalized else normalized.split()[-1]
    return head not in _STUFF_WORDS and head.removesuffix("s") not in _STUFF_WORDS


def parse_names(
    text: str, *, max_categories: int = MAX_CATEGORY_ID + 1, tell: Callable[[str], None] | None = None
) -> tuple[CategorySpec, ...]:
    """The names in a text, as `split_names` takes it apart, each with a guess of thing or stuff; never a file.

    Args:
        text: what a person typed or pasted.
        max_categories: most names accepted.
        tell: told what may not be as it was meant.

    Raises:
        VocabularyError: the text is too long, has no names or more than `max_categories`, has two kinds of separators,
            or a name breaks a rule.
    """
    if len(text) > MAX_VOCABULARY_BYTES:
        raise VocabularyError(
            f"the vocabulary text has {len(text)} characters; at most {MAX_VOCABULARY_BYTES} are read"
        )
    names = split_names(text)
    refuse_too_many(len(names), max_categories)  # before any is looked at: a mebibyte holds half a million
    if not names:
        raise VocabularyError(
            f"the vocabulary {show(text.strip())} has no names; expected names such as 'cup, table' or a file"
        )
    specs = tuple(named_spec(name, f"name {index}") for index, name in enumerate(names))
    if tell and len(specs) == 1 and _MAYBE_A_LIST.search(_ARTICLE.sub("", specs[0].name)):
        tell(f"{show(specs[0].name)} is one name of several words; several names are separated by commas")
    return specs


def named_spec(name: str, where: str) -> CategorySpec:
    """A checked name with a guess of thing or stuff; `where` is for the message, as in `check_spec`."""
    return CategorySpec(check_name(name, where), is_thing=guess_is_thing(name))


def with_added(specs: Sequence[CategorySpec], added: Sequence[CategorySpec]) -> tuple[CategorySpec, ...]:
    """`specs` with `added` at the end; an entry of a name that is there already takes its place."""
    entries = {normalize_name(spec.name): spec for spec in specs}
    entries.update({normalize_name(spec.name): spec for spec in added})
    return tuple(entries.values())


def without(specs: Sequence[CategorySpec], names: Iterable[str]) -> tuple[CategorySpec, ...]:
    """`specs` without the entries of these names; VocabularyError, with the nearest, if one is not there."""
    entries = {normalize_name(spec.name): spec for spec in specs}
    for name in names:
        if entries.pop(normalize_name(name), None) is None:
            near = difflib.get_close_matches(normalize_name(name)[:100], entries, n=1)
            hint = f"did you mean {entries[near[0]].name!r}?" if near else f"see `{ovseg_command()} vocabulary show`"
            raise VocabularyError(f"{name[:100]!r} is not in the vocabulary; {hint}")
    return tuple(entries.values())


def check_spec(spec: CategorySpec, where: str) -> CategorySpec:
    """Returns `spec` with tidied names, or raises with `where` in the message."""
    if not isinstance(spec, CategorySpec):
        raise VocabularyError(f"{where} is {show(spec)}; expected a CategorySpec")
    name = check_name(spec.name, f"{where}: name")
    where = f'{where} ("{name}")'
    if not isinstance(spec.synonyms, (list, tuple)):
        raise VocabularyError(f"{where}: synonyms are {show(spec.synonyms)}; expected a list of phrases")
    if len(spec.synonyms) > MAX_SYNONYMS:
        raise VocabularyError(f"{where}: {len(spec.synonyms)} synonyms; at most {MAX_SYNONYMS} are accepted")
    synonyms: dict[str, str] = {}
    for index, synonym in enumerate(spec.synonyms):
        tidy = check_name(synonym, f"{where}: synonyms[{index}]")
        synonyms.setdefault(normalize_name(tidy), tidy)
    synonyms.pop(normalize_name(name), None)
    for key in ("is_thing", "negative"):
        if not isinstance(getattr(spec, key), bool):
            raise VocabularyError(f"{where}: {key} is {show(getattr(spec, key))}; expected true or false")
    threshold = spec.threshold
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0.0 <= threshold <= 1.0:
        raise VocabularyError(f"{where}: threshold is {show(threshold)}; expected a number from 0 to 1")
    return CategorySpec(name, tuple(synonyms.values()), spec.is_thing, float(threshold), spec.negative)


def check_name(name: str, where: str) -> str:
    """Returns `name` trimmed and with inner whitespace collapsed, or raises with `where` in the message."""
    if not isinstance(name, str):
        hint = "; put quotes around it" if isinstance(name, (bool, int, float)) else ""
        raise VocabularyError(f"{where} is {show(name)}; expected text{hint}")
    # First, so that a huge name costs nothing.
    if len(name) > MAX_NAME_LENGTH:
        raise VocabularyError(
            f"{where} {show(name)} has {len(name)} characters; at most {MAX_NAME_LENGTH} are accepted; shorten it"
        )
    for position, character in enumerate(name):
        kind = _REFUSED_CHARACTERS.get(unicodedata.category(character))
        if kind and character not in _JOINERS:
            raise VocabularyError(
                f"{where} {show(name)} has the {kind} U+{ord(character):04X} at position {position}; remove it"
            )
    tidy = " ".join(unicodedata.normalize("NFC", name).split())
    if not normalize_name(tidy):
        raise VocabularyError(f"{where} {show(name)} is empty; give a word or remove the entry")
    if all(unicodedata.category(character)[0] in "PZ" for character in tidy):
        raise VocabularyError(f"{where} {show(name)} has no letters; give a word or remove the entry")
    if reason := why_no_name(tidy):
        raise VocabularyError(f"{where} {show(name)} {reason}")
    if _NOT_A_WORD.fullmatch(tidy) and (config_dir() / "vocabularies" / f"{tidy}.yaml").is_file():
        raise VocabularyError(
            f"{where} {show(name)} is a bundled vocabulary; expected a name; a vocabulary is given as a text of its own"
        )
    return tidy


def refuse_too_many(count: int, max_categories: int) -> None:
    if count > max_categories:
        raise VocabularyError(
            f"the vocabulary has {count} categories; at most {max_categories} are accepted; "
            "remove some (a node's limit is its parameter max_categories)"
        )
