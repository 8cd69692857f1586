"""Vocabulary files, read and saved."""

import difflib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import yaml

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.strict_yaml import YamlFault, parse_yaml
from ovseg_ros.core.vocabulary.lists import plain_lines, show
from ovseg_ros.core.vocabulary.words import (
    MAX_NAME_LENGTH,
    MAX_VOCABULARY_BYTES,
    CategorySpec,
    check_name,
    check_spec,
    guess_is_thing,
    named_spec,
)

SAVED_MARK = "# Saved by ovseg"
"""First words of every file that `save_vocabulary_file` wrote."""

SUFFIXES = (".yaml", ".yml", ".json", ".txt", ".names")
"""Of the files that can be read; .txt and .names hold one name a line."""

_OF_COCO = frozenset(("info", "licenses", "images", "annotations"))
"""Beside the categories in a COCO file."""
# fmt: off
_OF_COCO_CATEGORY = frozenset((
    "id", "supercategory", "color", "keypoints", "skeleton", "def", "synset", "frequency", "image_count",
    "instance_count",
))
# fmt: on
"""Beside `name`, `synonyms` and `isthing` in a category of COCO or LVIS."""

_HEADER = f"{SAVED_MARK} after a change of the vocabulary; the next change replaces this file.\n"


def load_vocabulary_file(path: Path) -> tuple[CategorySpec, ...]:
    """Reads a vocabulary from a file.

    YAML (.yaml, .yml) and JSON: `categories:`, a list of names or of mappings with `name` and, where wanted,
    `synonyms`, `is_thing`, `threshold`, `negative`; or that list alone, a mapping of numbers to names, or either as
    YOLO's `names:`. JSON also: the categories of COCO and LVIS. Text (.txt, .names): one name a line; empty lines,
    lines that start with #, and bullets or numbers that all lines have, are left out. Without `is_thing`,
    `guess_is_thing` decides.

    Raises:
        VocabularyError: the file cannot be read, or a key or value is refused; the message names file, key and value.
    """
    suffix = path.suffix.lower()
    shown = show(str(path))
    if suffix not in SUFFIXES:
        ending = f"ends with {suffix!r}" if suffix else "has no ending"
        raise VocabularyError(
            f"vocabulary file {shown} {ending}; expected {', '.join(SUFFIXES)}; one name a line is a .txt file"
        )
    text = _read_text(path, shown)
    match suffix:
        case ".txt" | ".names":
            specs = _parse_lines(text, shown)
        case ".json":
            specs = _parse_document(_plain_json(text, shown), shown)
        case _:
            specs = _parse_document(_plain_yaml(text, shown), shown)
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
        raise VocabularyError(
            f"vocabulary file {shown} is larger than {MAX_VOCABULARY_BYTES} bytes; keep the names alone"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"vocabulary file {shown} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; "
            "save it as UTF-8"
        ) from error


def load_numbered_entries(path: Path) -> dict[int, object]:
    """The entries of a file as of `load_vocabulary_file`, each by its number: see `numbered_entries`.

    Raises:
        VocabularyError: the file cannot be read, or has no list of categories.
    """
    suffix, shown = path.suffix.lower(), show(str(path))
    if suffix not in (".yaml", ".yml", ".json"):
        return {index: spec.name for index, spec in enumerate(load_vocabulary_file(path))}
    text = _read_text(path, shown)
    return numbered_entries(_json(text, shown) if suffix == ".json" else _plain_yaml(text, shown), shown)


def numbered_entries(document: object, where: str) -> dict[int, object]:
    """Names or mappings with a name, each by its number: the key that it has in a mapping of numbers, its id in COCO's
    categories, else its place, from 0.

    Raises:
        VocabularyError: it is none of these, a number stands twice, or there are none.
    """
    if isinstance(document, dict):
        for key in ("categories", "names"):
            if key in document:
                return numbered_entries(document[key], f"{where}: {key}")
        if wrong := [key for key in document if not (isinstance(key, int) or str(key).isdecimal())]:
            value = document[wrong[0]]
            hint = f", such as {value}: {wrong[0]}" if isinstance(value, int) else ", such as 0: sky"
            what = f"the key {show(wrong[0])}, which is no whole number from 0"
            raise VocabularyError(f"{where} has {what}; write number: name{hint}")
        pairs = [(int(key), entry) for key, entry in document.items()]
    elif isinstance(document, list):
        pairs = [
            (entry["id"], _without_coco(entry))
            if isinstance(entry, dict) and type(entry.get("id")) is int
            else (place, entry)
            for place, entry in enumerate(document)
        ]
    else:
        raise VocabularyError(f"{where} is {show(document)}; expected numbers with names, or a list of names")
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(number for number, count in Counter(number for number, _ in pairs).items() if count > 1)
        raise VocabularyError(f"{where}: two categories have the number {twice}; give each one of its own")
    if not entries:
        raise VocabularyError(f"{where} has no categories; add at least one name")
    return entries


def _parse_lines(text: str, shown: str) -> tuple[CategorySpec, ...]:
    lines = [(number, line.strip(" ")) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    names = plain_lines([line for _, line in lines])
    # A heading above bullets is left out.
    numbers = [number for number, _ in lines][len(lines) - len(names) :]
    return tuple(named_spec(name, f"{shown}, line {number}") for number, name in zip(numbers, names, strict=True))


def _plain_yaml(text: str, shown: str) -> object:
    try:
        return parse_yaml(text)
    except YamlFault as fault:
        raise VocabularyError(f"vocabulary file {shown}{fault.place} is not valid YAML: {fault}") from fault


def _json(text: str, shown: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise VocabularyError(f"vocabulary file {shown} is not valid JSON: {reason}") from error


def _plain_json(text: str, shown: str) -> object:
    """The content of a JSON file, without what COCO's files hold beside names."""
    document = _json(text, shown)
    if isinstance(document, dict) and "categories" in document:
        document = {key: value for key, value in document.items() if key not in _OF_COCO}
        if isinstance(document["categories"], list):
            document["categories"] = [_without_coco(entry) for entry in document["categories"]]
    return [_without_coco(entry) for entry in document] if isinstance(document, list) else document


def _without_coco(entry: object) -> object:
    if not (isinstance(entry, dict) and "id" in entry):
        return entry
    kept = {key: value for key, value in entry.items() if key not in _OF_COCO_CATEGORY}
    if kept.get("isthing") in (0, 1):
        kept["is_thing"] = bool(kept.pop("isthing"))
    return kept


def _parse_document(document: object, shown: str) -> tuple[CategorySpec, ...]:
    if isinstance(document, list):
        return _parse_entries(document, f"{shown}: entry")
    if not isinstance(document, dict):
        raise VocabularyError(
            f"vocabulary file {shown} holds {show(document)}; expected the key 'categories' with a list, or a list"
        )
    if document and all(isinstance(key, int) or (isinstance(key, str) and key.isdecimal()) for key in document):
        return _parse_entries(list(document.values()), f"{shown}: value")
    if "names" in document and "categories" not in document:  # as YOLO describes a data set, with its folders
        return _parse_document(document["names"], f"{shown}: names")
    _refuse_unknown_keys(document, ("categories",), shown)
    entries = document.get("categories")
    if not isinstance(entries, list):
        raise VocabularyError(f"{shown}: categories is {show(entries)}; expected a list of names or mappings")
    return _parse_entries(entries, f"{shown}: categories")


def _parse_entries(entries: Sequence[object], where: str) -> tuple[CategorySpec, ...]:
    return tuple(parse_entry(entry, f"{where}[{index}]") for index, entry in enumerate(entries))


def parse_entry(entry: object, where: str) -> CategorySpec:
    """A name, or a mapping as in a vocabulary file; VocabularyError, with `where`, if it is neither."""
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
