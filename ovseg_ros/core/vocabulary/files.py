"""Vocabulary files: found, read and saved by the same rules for the node, the launch file and the commands."""

import difflib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import yaml

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.strict_yaml import YamlFault, parse_yaml
from ovseg_ros.core.vocabulary.words import (
    MAX_NAME_LENGTH,
    MAX_VOCABULARY_BYTES,
    CategorySpec,
    check_name,
    check_spec,
    guess_is_thing,
    named_spec,
    parse_names,
    show,
)

SAVED_MARK = "# Saved by ovseg"
"""First words of every file that `save_vocabulary_file` wrote."""

_SUFFIXES = (".yaml", ".yml", ".txt")
_HEADER = f"{SAVED_MARK} after a change of the vocabulary; the next change replaces this file.\n"


def find_vocabulary(source: str) -> Path:
    """The file of a vocabulary.

    Args:
        source: path of a .yaml, .yml or .txt file, or the name of a bundled vocabulary (a file in
            `config/vocabularies`), with or without .yaml. A file that exists wins over a bundled one.

    Raises:
        VocabularyError: it is neither, with the names that there are.
        ConfigError: the package's own files are missing.
    """
    path = _existing(source)
    bundled = _bundled(source)
    if bundled is not None and not (path is not None and path.suffix and path.is_file()):
        return bundled
    if path is None:
        folder = config_dir() / "vocabularies"
        raise VocabularyError(
            f"vocabulary file {show(source)} does not exist, nor has {folder} one of that name (it has: "
            f"{', '.join(sorted(file.stem for file in folder.glob('*.yaml'))) or 'none'}); correct the path or the name"
        )
    return path


def parse_vocabulary(text_or_path: str) -> tuple[CategorySpec, ...]:
    """Reads what a person typed: names separated by commas, or a file.

    It is a file if it ends in .yaml, .yml or .txt or is a bundled vocabulary's name; "street," is the word.

    Raises:
        VocabularyError: the text is too long or a name breaks a rule, or the file is refused by `find_vocabulary` or
            `load_vocabulary_file`.
    """
    if not isinstance(text_or_path, str):
        raise VocabularyError(f"the vocabulary is {show(text_or_path)}; expected names such as 'cup, table' or a file")
    text = text_or_path.strip()
    if len(text) <= MAX_VOCABULARY_BYTES and (text.lower().endswith(_SUFFIXES) or _bundled(text) is not None):
        return load_vocabulary_file(find_vocabulary(text))
    return parse_names(text_or_path)


def initial_specs(names: Sequence[str], file: str) -> tuple[CategorySpec, ...]:
    """A node's vocabulary at start: a file that an earlier run saved, else `names` where there are any, else the file.

    Args:
        names: blank ones are skipped, because a ROS parameter cannot be an empty list without a type.
        file: as in `find_vocabulary`.

    Raises:
        VocabularyError: the file is refused, or neither is given.
        ConfigError: the package's own files are missing.
    """
    saved = saving_path(file)
    if saved is not None and is_saved_file(saved):
        return load_vocabulary_file(saved)
    specs = tuple(CategorySpec(name, is_thing=guess_is_thing(name)) for name in names if name.strip())
    if specs:
        return specs
    if not file:
        raise VocabularyError("no vocabulary is given; set the parameter vocabulary or vocabulary_file")
    return load_vocabulary_file(find_vocabulary(file))


def saving_path(file: str) -> Path | None:
    """Where changes are kept: `file` where it is the path of a YAML file; None for a bundled vocabulary's name."""
    path = Path(file).expanduser()
    is_name = _bundled(file) is not None and not path.is_file()
    return path if path.suffix.lower() in (".yaml", ".yml") and not is_name else None


def _bundled(name: str) -> Path | None:
    """The bundled vocabulary of that name, with or without .yaml; None if there is none."""
    files = {file.stem: file for file in (config_dir() / "vocabularies").glob("*.yaml")}
    return files.get(name.removesuffix(".yaml"))


def _existing(source: str) -> Path | None:
    """What lies at a path; None if nothing does or could."""
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user's home, a NUL character
        return None


def load_vocabulary_file(path: Path) -> tuple[CategorySpec, ...]:
    """Reads a vocabulary from a file.

    YAML (.yaml, .yml): `categories:`, a list of names or of mappings with `name` and, where wanted, `synonyms`,
    `is_thing`, `threshold`, `negative`. Text (.txt): one name a line; empty lines and lines that start with # are
    skipped. Without `is_thing`, `guess_is_thing` decides.

    Raises:
        VocabularyError: the file cannot be read, or a key or value is refused; the message names file, key and value.
    """
    suffix = path.suffix.lower()
    shown = show(str(path))
    if suffix not in _SUFFIXES:
        raise VocabularyError(f"vocabulary file {shown} ends with {suffix!r}; expected {', '.join(_SUFFIXES)}")
    text = _read_text(path, shown)
    specs = _parse_lines(text, shown) if suffix == ".txt" else _parse_yaml(text, shown)
    if not specs:
        raise VocabularyError(f"vocabulary file {shown} has no categories; add at least one name")
    return specs


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
                f"{where}: {show(name)} has a comma; write one name a line, or synonyms in a YAML file"
            )
        specs.append(named_spec(name, where))
    return tuple(specs)


def _parse_yaml(text: str, shown: str) -> tuple[CategorySpec, ...]:
    try:
        document = parse_yaml(text)
    except YamlFault as fault:
        raise VocabularyError(f"vocabulary file {shown}{fault.place} is not valid YAML: {fault}") from fault
    if not isinstance(document, dict):
        raise VocabularyError(
            f"vocabulary file {shown} holds {show(document)}; expected the key 'categories' with a list"
        )
    _refuse_unknown_keys(document, ("categories",), shown)
    entries = document.get("categories")
    if not isinstance(entries, list):
        raise VocabularyError(f"{shown}: categories is {show(entries)}; expected a list of names or mappings")
    return tuple(_parse_entry(entry, f"{shown}: categories[{index}]") for index, entry in enumerate(entries))


def _parse_entry(entry: object, where: str) -> CategorySpec:
    if isinstance(entry, str):
        return named_spec(entry, where)
    if not isinstance(entry, dict):
        hint = "; put quotes around it" if isinstance(entry, (bool, int, float)) else ""
        raise VocabularyError(f"{where} is {show(entry)}; expected a name or a mapping with the key 'name'{hint}")
    _refuse_unknown_keys(entry, tuple(spec_field.name for spec_field in fields(CategorySpec)), where)
    if "name" not in entry:
        raise VocabularyError(f"{where} has no 'name'; add one")
    name = check_name(entry["name"], f"{where}: name")
    return check_spec(CategorySpec(**{"is_thing": guess_is_thing(name), **entry}), where)


def _refuse_unknown_keys(mapping: Mapping[object, object], known: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in known:
            # Comparing costs the product of the lengths, so a huge key is cut first.
            nearest = difflib.get_close_matches(str(key)[:MAX_NAME_LENGTH].lower(), known, n=1) if key else []
            hint = f"; did you mean '{nearest[0]}'?" if nearest else f"; expected {', '.join(known)}"
            raise VocabularyError(f"{where} has the unknown key {show(key)} with value {show(mapping[key])}{hint}")


def is_saved_file(path: Path) -> bool:
    """Whether a file is one that `save_vocabulary_file` wrote, rather than a person."""
    try:
        with path.open("rb") as file:
            return file.read(len(SAVED_MARK)) == SAVED_MARK.encode()
    except OSError:
        return False


def save_vocabulary_file(path: Path, specs: Sequence[CategorySpec]) -> None:
    """Write a vocabulary as `load_vocabulary_file` reads it: whole, or not at all.

    A file that a person wrote is kept beside it as NAME.orig.yaml, once.

    Args:
        path: ends with .yaml or .yml; its folder is made if need be.
        specs: what to write.

    Raises:
        VocabularyError: nothing could be written (no space, no permission); the old file is intact.
    """
    content = _HEADER + yaml.safe_dump(
        {"categories": [_entry(spec) for spec in specs]}, allow_unicode=True, sort_keys=False, width=120
    )
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
        original = path.with_name(f"{path.stem}.orig{path.suffix}")
        if path.is_file() and not is_saved_file(path) and not original.exists():
            os.link(path, original)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):  # where even the folder is no folder, there is nothing to remove
            unfinished.unlink()
        raise VocabularyError(
            f"the vocabulary is in force but could not be saved to {path}: {error.strerror or error}; the old file is "
            "as it was; free some space or correct vocabulary_file, then set the vocabulary again"
        ) from error


def _entry(spec: CategorySpec) -> dict[str, object]:
    rest = {"synonyms": list(spec.synonyms), "threshold": spec.threshold, "negative": spec.negative}
    return {"name": spec.name, "is_thing": spec.is_thing, **{key: value for key, value in rest.items() if value}}
