"""What a text that somebody gave as a vocabulary is: a bundled vocabulary, a file, or names.

One rule for the commands, the launch file, the node's parameters, its service and programs: the name of a bundled
vocabulary or of a file that exists is that, what looks like either and is not there is refused, all else is names.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.resources import bundled_vocabularies, config_dir
from ovseg_ros.core.vocabulary.files import SUFFIXES, is_saved_file, load_vocabulary_file
from ovseg_ros.core.vocabulary.lists import bare, looks_like_file, show, split_names
from ovseg_ros.core.vocabulary.words import (
    MAX_CATEGORY_ID,
    MAX_NAME_LENGTH,
    MAX_VOCABULARY_BYTES,
    CategorySpec,
    guess_is_thing,
    parse_names,
)

_WORD = re.compile(r"[^\W\d_]+([ -][^\W\d_]+)*")
"""What may be a word as well as the name of a file."""

_FEW = 20
"""More names than that nobody types for files."""

Tell = Callable[[str], None]
"""Is told, in one line, what may not be as it was meant."""


def parse_vocabulary(
    text: str, *, max_categories: int = MAX_CATEGORY_ID + 1, tell: Tell | None = None
) -> tuple[CategorySpec, ...]:
    """Reads what a person gave as a vocabulary: see `file_of` and `parse_names`.

    Args:
        text: the name of a bundled vocabulary, a file, or names.
        max_categories: most names accepted; `Vocabulary.build` counts those of a file.
        tell: see `Tell`.

    Raises:
        VocabularyError: the text is refused by either, or the file by `load_vocabulary_file`.
    """
    if isinstance(text, str):
        text = text.removeprefix("\ufeff")  # which some editors put before what is copied from them
    file = file_of(text, tell)
    return load_vocabulary_file(file) if file else parse_names(text, max_categories=max_categories, tell=tell)


def file_of(text: str, tell: Tell | None = None) -> Path | None:
    """The vocabulary file that a text means; None where it is a list of names.

    "street" is the bundled vocabulary, "street," the word.

    Raises:
        VocabularyError: the text is none at all, or looks like a file or the name of a bundled vocabulary and there is
            no such one.
    """
    if not isinstance(text, str):
        raise VocabularyError(f"the vocabulary is {show(text)}; expected names such as 'cup, table' or a file")
    if len(text) > MAX_VOCABULARY_BYTES:
        return None
    source = bare(text)
    as_word = f"for the word alone, write '{source},'"
    path = _find(source)
    if path is not None:
        if _WORD.fullmatch(source):
            if path.suffix.lower() not in SUFFIXES:
                raise VocabularyError(f"{source!r} is a file here, but not {', '.join(SUFFIXES)}; {as_word}")
            if tell:
                kind = "bundled vocabulary" if path == _bundled(source) else "file"
                tell(f"{source!r} is read as the {kind} {path.name}; {as_word}")
        return path
    names = split_names(source)
    if names != [source]:
        _tell_misspelt(names, tell)
        return None
    if looks_like_file(source) or "/" in source:
        hint = "" if looks_like_file(source) else f"; names are separated by commas; {as_word}"
        raise VocabularyError(_not_there(source) + hint)
    near = _nearest(source)
    if near and " " not in source:
        raise VocabularyError(
            f"there is no vocabulary {show(source)}; did you mean {' or '.join(map(repr, near))}? (or, {as_word})"
        )
    near = near or difflib.get_close_matches(source[:MAX_NAME_LENGTH].lower(), bundled_vocabularies(), n=1, cutoff=0.85)
    if near and tell:
        tell(f"{source!r} is taken for a word; did you mean the bundled vocabulary {near[0]!r}?")
    return None


def find_vocabulary(source: str) -> Path:
    """The file of a vocabulary.

    Args:
        source: path of a vocabulary file, or the name of a bundled vocabulary (a file in `config/vocabularies`), with
            or without .yaml. A file that exists wins over a bundled one, unless its ending is left out.

    Raises:
        VocabularyError: it is neither, with the names that there are.
        ConfigError: the package's own files are missing.
    """
    path = _find(source)
    if path is None:
        raise VocabularyError(_not_there(source))
    return path


def initial_specs(names: Sequence[str], file: str, tell: Tell | None = None) -> tuple[CategorySpec, ...]:
    """A node's vocabulary at start: a file that an earlier run saved, else `names` where there are any, else the file.

    Args:
        names: blank ones are skipped, because a ROS parameter cannot be an empty list without a type. A list of one is
            a text as in `parse_vocabulary`.
        file: as in `find_vocabulary`.
        tell: see `Tell`.

    Raises:
        VocabularyError: names or the file are refused, or neither is given.
        ConfigError: the package's own files are missing.
    """
    saved = saving_path(file)
    if saved is not None and is_saved_file(saved):
        return load_vocabulary_file(saved)
    given = [name for name in names if name.strip()]
    if given and len(names) == 1:
        return parse_vocabulary(given[0], tell=tell)
    if given:
        _tell_misspelt(given, tell)
        return tuple(CategorySpec(name, is_thing=guess_is_thing(name)) for name in given)
    if not file:
        raise VocabularyError("no vocabulary is given; set the parameter vocabulary or vocabulary_file")
    return load_vocabulary_file(find_vocabulary(file))


def saving_path(file: str) -> Path | None:
    """Where changes are kept: `file` where it is the path of a YAML file; None for a bundled vocabulary's name."""
    found = _find(file)
    if found is not None and found == _bundled(file):
        return None
    path = found or Path(file).expanduser()
    return path if path.suffix.lower() in (".yaml", ".yml") else None


def _find(source: str) -> Path | None:
    """The file that a path or a bundled vocabulary's name means, with or without .yaml; None if there is none."""
    own = _file_at(source)
    if own is not None and own.suffix:
        return own
    return _bundled(source) or own or _file_at(f"{source}.yaml") or _file_at(f"{source}.yml")


def _file_at(path: str) -> Path | None:
    try:
        file = Path(path).expanduser()
        return file if file.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user's home, a NUL character
        return None


def _bundled(name: str) -> Path | None:
    """The bundled vocabulary of that name, with or without .yaml; None if there is none."""
    return bundled_vocabularies().get(name.removesuffix(".yaml"))


def _not_there(source: str) -> str:
    """Why a vocabulary cannot be found, and what to do."""
    if "://" in source:
        return f"the vocabulary {show(source)} is a web address; download the file and give its path"
    near = _nearest(source)
    folder = config_dir() / "vocabularies"
    if near:
        return f"vocabulary file {show(source)} does not exist; did you mean {' or '.join(map(repr, near))}?"
    if not looks_like_file(source) and len(split_names(source)) > 1:
        return (
            f"vocabulary file {show(source)} is a list of names; expected one file; the node takes names by its "
            "parameter vocabulary, such as vocabulary:=\"['cup', 'table']\""
        )
    return (
        f"vocabulary file {show(source)} does not exist or is no file, nor has {folder} one of that name (it has: "
        f"{', '.join(bundled_vocabularies()) or 'none'}); paths start at {Path.cwd()}; correct the path or the name"
    )


def _nearest(source: str) -> list[str]:
    """The bundled vocabularies that a name was meant for: written otherwise, cut short, of another number, misspelt."""
    token = re.sub(r"[\s_-]+", "_", source[:MAX_NAME_LENGTH].lower())
    token = next((token.removesuffix(suffix) for suffix in SUFFIXES if token.endswith(suffix)), token)
    names = list(bundled_vocabularies())
    found = [name for name in names if name.replace("_", "") == token.replace("_", "")]
    if " " in source.strip():
        return found
    found = found or [name for name in names if name.startswith(f"{token}_")]
    if re.search(r"[_\d]|-.*\d", token) and not found:
        family = token[: len(token) - len(token.lstrip("abcdefghijklmnopqrstuvwxyz"))]
        found = [name for name in names if family and re.match(rf"{family}[\d_].*\d$|{family}\d", name)]
        found = found or difflib.get_close_matches(token, names, n=2, cutoff=0.75)
    return found or (difflib.get_close_matches(token, names, n=1, cutoff=0.75) if looks_like_file(source) else [])


def _tell_misspelt(names: Sequence[str], tell: Tell | None) -> None:
    """Of a few names, those that look like a bundled vocabulary's."""
    for name in names if tell and 1 < len(names) <= _FEW else ():
        near = [name] if _bundled(name) else _nearest(name) if "_" in name else []
        if tell and near:
            tell(f"{show(name)} is taken for a word; did you mean the bundled vocabulary {near[0]!r}, alone?")
