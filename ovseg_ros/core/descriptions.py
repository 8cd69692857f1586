"""How things look, in words: descriptions files, and the sentences that are made of them.

A file says of each word, apart, which colours, shapes and textures it has; it belongs to words, not to a vocabulary.
"""

import hashlib
import re
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, from_mapping, yaml_mapping
from ovseg_ros.core.errors import ConfigError, VocabularyError
from ovseg_ros.core.vocabulary import MAX_CATEGORY_ID, MAX_NAME_LENGTH, Vocabulary, as_read, check_name, normalize_name
from ovseg_ros.core.vocabulary.lists import show

FORMAT = 1
"""Of the files that this version reads and writes."""

MAX_PHRASES = 4
"""Most phrases of one attribute."""

MAX_WORDS = 8
"""Most words of a phrase, and of a sense."""

MAX_BYTES = 1 << 20
"""Largest file."""

_MAX_AUTHOR = 200
_EXAMPLE = "format: 1, words: {mug: {color: [white or glazed]}}"
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks of Unicode that nobody sees."""

Attribute = Literal["color", "shape", "texture"]
ATTRIBUTES: tuple[Attribute, ...] = ("color", "shape", "texture")
"""In the order in which a sentence has them."""


@dataclass(frozen=True, slots=True, config=STRICT)
class DescriptionsConfig:
    """Which descriptions a preset asks for.

    Attributes:
        files: names of files in `config/descriptions`, or paths of .yaml files; the first that describes a word counts.
        attributes: what is told of a word; the rest is left out.
        with_templates: whether the preset's templates are averaged too; else they are for words without description.
    """

    files: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    attributes: Annotated[tuple[Attribute, ...], Field(min_length=1)] = ATTRIBUTES
    with_templates: bool = False

    def __post_init__(self) -> None:
        for name, values in (("files", self.files), ("attributes", self.attributes)):
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{name} has {twice[0]!r} twice; leave one out")


@dataclass(frozen=True, slots=True, config=STRICT)
class Description:
    """How a word's things look. One without any phrase is a blank sheet: the word is not described.

    Attributes:
        sense: which of a word's meanings is meant; for people.
        color, shape, texture: up to `MAX_PHRASES` phrases each; shape is size too, and texture material.
        by: who wrote it; of a language model, MODEL@PROMPT.
        reviewed: whether a person read it.
    """

    sense: str = ""
    color: tuple[str, ...] = ()
    shape: tuple[str, ...] = ()
    texture: tuple[str, ...] = ()
    by: str = ""
    reviewed: bool = False

    def __post_init__(self) -> None:
        for attribute, phrases in self.attributes.items():
            if len(phrases) > MAX_PHRASES:
                raise ValueError(f"{attribute} has {len(phrases)} phrases; expected at most {MAX_PHRASES}; remove some")
            tidy = tuple(check_phrase(phrase, f"{attribute}[{index}]") for index, phrase in enumerate(phrases))
            object.__setattr__(self, attribute, tidy)
        if self.sense:
            object.__setattr__(self, "sense", check_phrase(self.sense, "sense"))
        if len(self.by) > _MAX_AUTHOR or not self.by.isprintable():
            raise ValueError(f"by is {show(self.by)}; expected at most {_MAX_AUTHOR} printable characters on one line")

    @property
    def attributes(self) -> dict[Attribute, tuple[str, ...]]:
        """The phrases of each attribute."""
        return {"color": self.color, "shape": self.shape, "texture": self.texture}

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to make a sentence of."""
        return not any(self.attributes.values())


def check_phrase(phrase: str, where: str) -> str:
    """A phrase, trimmed and with single spaces; ValueError with `where` in the message if it is refused."""
    if len(phrase) > MAX_NAME_LENGTH:  # first, so that a huge one costs nothing
        raise ValueError(
            f"{where} {show(phrase)} has {len(phrase)} characters; expected at most {MAX_NAME_LENGTH}; shorten it"
        )
    for position, character in enumerate(phrase):
        kind = unicodedata.category(character)
        if not (kind[0] in "LM" or kind == "Nd" or character in " -'’") or _INVISIBLE.match(character):  # noqa: RUF001
            hint = "; make it two phrases of the list" if character in ",;" else "; remove it"
            raise ValueError(
                f"{where} {show(phrase)} has the character {character!a} (U+{ord(character):04X}) at position "
                f"{position}; expected letters, digits, spaces, hyphens and apostrophes{hint}"
            )
    words = unicodedata.normalize("NFC", phrase).split()
    if len(words) > MAX_WORDS:
        raise ValueError(f"{where} {show(phrase)} has {len(words)} words; expected at most {MAX_WORDS}; shorten it")
    if not any(character.isalnum() for word in words for character in word):
        raise ValueError(f"{where} {show(phrase)} is empty; expected letters or digits; write some or remove it")
    return " ".join(words)


@dataclass(frozen=True, slots=True, config=STRICT)
class _File:
    format: int
    words: Mapping[str, Description]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}; this version reads format {FORMAT}; correct it or update ovseg")


def read_bytes(path: Path) -> bytes:
    """A descriptions file's content; ConfigError if it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the descriptions {path}: {error.strerror}; restore or correct it") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the descriptions {path} are larger than {MAX_BYTES} bytes; expected less; split the file")
    return content


def parse_descriptions(content: bytes, where: str) -> dict[str, Description]:
    """The descriptions in a file's content, blank sheets included, by normalised word.

    Args:
        content: of the file.
        where: its path, for messages.

    Raises:
        ConfigError: it is not such a file, or a key, word or phrase is refused; the message says which and what to do.
    """
    document = yaml_mapping(content, where, _EXAMPLE)
    given = document.get("words")
    if isinstance(given, Mapping):
        if len(given) > MAX_CATEGORY_ID + 1:
            raise ConfigError(
                f"{where}.words: expected at most {MAX_CATEGORY_ID + 1} words, got {len(given)}; split the file"
            )
        for word in given:
            if not isinstance(word, str):
                raise ConfigError(f"{where}.words: the word {show(word)} is not text; put quotes around it")
    spelt: dict[str, str] = {}
    words: dict[str, Description] = {}
    for word, description in from_mapping(_File, document, where).words.items():
        try:
            name = normalize_name(check_name(word, f"{where}.words: the word"))
        except VocabularyError as error:
            raise ConfigError(str(error)) from error
        if name in spelt:
            raise ConfigError(f"{where}.words: {spelt[name]!r} and {word!r} are the same word; keep one of them")
        spelt[name], words[name] = word, description
    return words


@plain_dataclass(frozen=True, slots=True)
class Descriptions:
    """Some files' descriptions as one.

    Attributes:
        words: by normalised word, of the first file that describes it.
        attributes, with_templates: as of `DescriptionsConfig`.
        files: (name, SHA-256 of its content) of each.
    """

    words: Mapping[str, Description]
    attributes: tuple[Attribute, ...]
    with_templates: bool
    files: tuple[tuple[str, str], ...]

    @property
    def sources(self) -> str:
        """The files, each with the first digits of its SHA-256, in words."""
        return ", ".join(f"{name} (SHA-256 {digest[:8]})" for name, digest in self.files)

    def sentences(self, phrase: str) -> tuple[str, ...]:
        """What is said of a name or synonym; nothing if it is not described.

        The j-th sentence has the j-th phrase of each attribute; short lists begin again.
        """
        described = self.words.get(normalize_name(phrase))
        if described is None:
            return ()
        lists = [some for name, some in described.attributes.items() if some and name in self.attributes]
        begin = f"a photo of a {as_read(phrase)}"
        count = max(map(len, lists), default=0)
        return tuple(", ".join([begin, *(some[j % len(some)] for some in lists)]) for j in range(count))

    def remark(self, vocabulary: Vocabulary) -> str:
        """How much of a vocabulary is described, and by what."""
        phrases = [phrase for c in vocabulary.categories for phrase in (c.name, *c.synonyms)]
        described = sum(bool(self.sentences(phrase)) for phrase in phrases)
        share = f"{described} of {len(phrases)} names and synonyms"
        return f"vocabulary {vocabulary.version}: {share} are described, by {self.sources}"


class DescriptionFiles:
    """Descriptions on disk, read again whenever they are asked for. Safe to call from several threads."""

    def __init__(self, config: DescriptionsConfig, paths: Sequence[Path]) -> None:
        """`paths`: of the files of `config`, in their order."""
        self._config, self._paths = config, tuple(paths)
        self._parsed: dict[str, dict[str, Description]] = {}
        self._lock = threading.Lock()

    def current(self) -> Descriptions:
        """What the files say now; a file is parsed anew only if its content changed.

        Raises:
            ConfigError: one is gone or malformed.
        """
        contents = [read_bytes(path) for path in self._paths]
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        with self._lock:
            self._parsed = {
                digest: self._parsed[digest] if digest in self._parsed else parse_descriptions(content, str(path))
                for path, content, digest in zip(self._paths, contents, digests, strict=True)
            }
            words: dict[str, Description] = {}
            for digest in digests:
                for word, description in self._parsed[digest].items():
                    if not description.is_blank:
                        words.setdefault(word, description)
        files = tuple(zip((path.name for path in self._paths), digests, strict=True))
        return Descriptions(words, self._config.attributes, self._config.with_templates, files)
