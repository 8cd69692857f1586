"""Strict loading of YAML into frozen dataclasses of pydantic's: every key known, every type right, every mistake named.

A configuration is a `pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)`. Where several kinds of
section may stand in one place, each has a `kind: Literal[...]`, and the field is their union with `kind` as its
discriminator.
"""

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.strict_yaml import YamlFault, parse_yaml

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Of every configuration: no unknown keys, no text for numbers or numbers for text, and numbers are finite."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""

Logit = Annotated[float, Field(ge=-1e4, le=1e4)]
"""What a softmax can still tell apart."""

Multiple = Annotated[float, Field(gt=0, le=100)]
"""How many times larger."""

Name = Annotated[str, Field(pattern=r"\S")]
"""Text that is not blank."""

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
}
"""By pydantic's name of a fault: what should stand there, in YAML's words."""

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
"""A number that YAML 1.1 takes for text, such as 3e-4."""

_FAULTS_TOLD = 2
"""More of them, as of a file of another form, would hide the first."""

_NAMES_TOLD = 12
"""A longer list would hide the message."""


def find_config(what: str, name: str, folder: Path, besides: Sequence[str] = ()) -> Path:
    """The YAML file of a configuration.

    Args:
        what: it is, for messages, such as "preset".
        name: of a file in `folder`, with or without .yaml; or the path of a YAML file, which wins if it exists.
        besides: names that are no files, for messages.

    Raises:
        ConfigError: it is neither, with the nearest name.
    """
    bundled = {path.stem: path for path in folder.glob("*.yaml")}
    try:
        path = Path(name).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # no permission, too long, no such user's home, a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"the {what} {name[:100]!r} cannot be read: {reason}; correct its name or path") from error
    if is_file and path.suffix in (".yaml", ".yml"):
        return path
    if name.removesuffix(".yaml") in bundled:
        return bundled[name.removesuffix(".yaml")]
    if is_file or (is_folder and name):
        found = f"{name!r} is a {'file of another kind' if is_file else 'folder'}, no {what}"
    elif path.suffix in (".yaml", ".yml") and name != path.name:
        start = "" if path.is_absolute() else f" from {Path.cwd()}"
        raise ConfigError(f"there is no {what} {name[:200]!r}: this path does not exist{start}; correct it")
    else:
        found = f"there is no {what} {name!r}"
    raise ConfigError(f"{found}{choices(name, [*bundled, *besides])}, or give the path of a .yaml file")


def choices(wrong: str, names: Collection[str]) -> str:
    """What follows upon a name that does not exist: the nearest that does, and all of them where they are few."""
    spelt = {name.lower(): name for name in names}
    near = difflib.get_close_matches(wrong.lower()[:100], spelt, n=1)
    hint = f" (did you mean {spelt[near[0]]!r}?)" if near else ""
    if len(names) <= _NAMES_TOLD:
        return f"{hint}; choose one of {', '.join(sorted(names))}"
    return f"{hint}; there are {len(names)}, from {min(names)} to {max(names)}"


def load_yaml(path: Path, example: str = "description: ...") -> Mapping[str, Any]:
    """The mapping in a YAML file; ConfigError if it is missing, is not YAML or holds something else than `example`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; expected a YAML file") from error
    return yaml_mapping(content, str(path), example)


def yaml_mapping(content: bytes, where: str, example: str) -> Mapping[str, Any]:
    """As `load_yaml`, of a file's content; `where` is its path."""
    try:
        document = parse_yaml(content.decode())
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(f"{where} is not UTF-8: byte {byte:#04x} at {error.start}; save it as UTF-8") from error
    except YamlFault as fault:
        raise ConfigError(f"{where}{fault.place} is not valid YAML: {fault}") from fault
    if not isinstance(document, Mapping):
        found = "is empty" if document is None else f"holds {str(document)[:60]!r}"
        raise ConfigError(f"{where} {found}; expected names and values, such as {example!r}")
    return document


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a configuration of a mapping, recursively.

    Args:
        cls: the configuration's class.
        where: what to call this mapping in an error, such as "tabletop.yaml".

    Raises:
        ConfigError: unknown keys and kinds, each with the nearest valid one; missing keys, wrong types, refused values.
    """
    # By way of JSON, whose lists are tuples and whose 1 is a 1.0, even where everything else is strict.
    content = json.dumps(values, default=str)
    try:
        return TypeAdapter(cls).validate_json(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        if numbers := [fault for fault in faults if fault["type"] == "float_type" and _is_exponent(fault["input"])]:
            meant = json.loads(content)
            for fault in numbers:
                _put_number(meant, fault["loc"], float(fault["input"]))
            return from_mapping(cls, meant, where)
        faults = _nearest_to_what_was_meant(cls, faults)
        unknown = [fault for fault in faults if fault["type"] == "unexpected_keyword_argument"]
        # What else is wrong beside an unknown key is mostly that the right one is missing.
        told = list(dict.fromkeys(_explain(cls, fault, where) for fault in unknown or faults))
        more = f"; and {len(told) - _FAULTS_TOLD} more" if len(told) > _FAULTS_TOLD else ""
        raise ConfigError("; ".join(told[:_FAULTS_TOLD]) + more) from error


def _nearest_to_what_was_meant(cls: type, faults: Sequence[Any]) -> list[Any]:
    """Without what every other option of a union finds wrong, and without lists that lack refused entries."""
    places = [_place(cls, fault["loc"], "")[0] for fault in faults]
    found: dict[str, list[Any]] = {}
    for fault, place in zip(faults, places, strict=True):
        if not any(other.startswith((f"{place}.", f"{place}[")) for other in places):
            found.setdefault(place, []).append(fault)
    nearest = []
    for several in found.values():
        of_kind = [fault for fault in several if fault["type"] in _EXPECTED]
        nearest += [fault for fault in several if fault not in of_kind] or [
            {**of_kind[0], "expected": " or ".join(dict.fromkeys(_EXPECTED[fault["type"]] for fault in of_kind))}
        ]
    return nearest


def _is_exponent(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _EXPONENT.fullmatch(value) is not None


def _whole(value: object) -> int | None:
    """The whole number that 1e3 or 1000.0 stands for; None of anything else."""
    number = float(value) if isinstance(value, float) or _is_exponent(value) else math.nan
    return int(number) if number.is_integer() and abs(number) < 1e15 else None


def _put_number(values: Any, path: Sequence[str | int], number: float) -> None:
    for step in path[:-1]:
        if not isinstance(values, dict) or step in values:  # else pydantic names which option of a union it tried
            values = values[step]
    values[path[-1]] = number


def _explain(cls: type, fault: Any, where: str) -> str:
    """One fault in a sentence."""
    place, kind = _place(cls, fault["loc"], where)
    match fault["type"]:
        case "unexpected_keyword_argument":
            above, section = _place(cls, fault["loc"][:-1], where)
            return f"{above}: unknown key {_right_key(cls, section, str(fault['loc'][-1]), above.removeprefix(where))}"
        case "missing" if isinstance(fault["loc"][-1], int):
            return f"{place}: missing, {fault['input']!r} has too few values"
        case "missing":
            return f"{place.rpartition('.')[0]}: missing {fault['loc'][-1]}"
        case "union_tag_invalid":
            return f"{place}: unknown kind {_nearest(fault['ctx']['tag'], list(_options(kind)))}"
        case "literal_error":
            what = "value" if isinstance(fault["loc"][-1], int) else fault["loc"][-1]
            return f"{place}: unknown {what} {_nearest(fault['input'], typing.get_args(kind))}"
        case "union_tag_not_found":
            return f"{place}: missing kind; one of {', '.join(_options(kind))}"
        case "too_short":
            return f"{place}: expected {fault['ctx']['min_length']} or more values, got {fault['ctx']['actual_length']}"
        case "too_long":
            limit = fault["ctx"]
            return f"{place}: expected {limit['max_length']} values, got {limit['actual_length']}: {fault['input']!r}"
        case "value_error":
            return f"{place}: {fault['ctx']['error']}"
        case known if known in _EXPECTED:
            whole = _whole(fault["input"]) if _EXPECTED[known] == "a whole number" else None
            hint = f"; write {whole}" if whole is not None else ""
            return f"{place}: expected {fault['expected']}, got {fault['input']!r}{hint}"
        case "string_pattern_mismatch":  # there is one: of `Name`
            return f"{place}: expected text that is not blank, got {fault['input']!r}"
    return f"{place}: {fault['msg'].replace('Input should', 'it should')}, got {fault['input']!r}"


def _right_key(root: Any, section: Any, wrong: str, above: str) -> str:
    """Where a key belongs that does not stand where it may; `above` is the section it stands in, such as ".model"."""
    homes = {home for home in _homes(root, wrong) if home != re.sub(r"\[\d+\]", "", above)}
    if homes:
        least = min(home.count(".") for home in homes)
        nearest = sorted(home.removeprefix(".") for home in homes if home.count(".") == least)
        return f"{wrong!r}; it belongs {'under ' + ' or '.join(nearest) if least else 'at the top of the file'}"
    return _nearest(wrong, [field.name for field in dataclasses.fields(section)])


def _homes(kind: Any, key: str, where: str = "") -> Iterator[str]:
    """The sections in which a key may stand, such as ".model.proposer"; the empty text is the top of the file."""
    if not dataclasses.is_dataclass(kind):
        for option in typing.get_args(kind):
            yield from _homes(option, key, where)
        return
    hints = typing.get_type_hints(kind)
    if key in hints:
        yield where
    for name, inner in hints.items():
        yield from _homes(inner, key, f"{where}.{name}")


def _nearest(wrong: object, right: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(wrong), right, n=1)
    return f"{wrong!r}; did you mean {near[0]!r}?" if near else f"{wrong!r}; expected one of {', '.join(right)}"


def _place(kind: Any, path: Sequence[str | int], where: str) -> tuple[str, Any]:
    """A fault's place as one would write it, and the type that is wanted there."""
    for step in path:
        if dataclasses.is_dataclass(kind):
            where, kind = f"{where}.{step}", typing.get_type_hints(kind).get(str(step))
        elif typing.get_origin(kind) is tuple:
            where, inner = f"{where}[{step}]", typing.get_args(kind)
            kind = inner[0] if inner[-1] is ... else inner[min(int(step), len(inner) - 1)]
        elif typing.get_origin(kind) is Mapping:
            where, kind = f"{where}.{step}", typing.get_args(kind)[1]
        else:  # pydantic names which option of a union it tried
            kind = _options(kind).get(str(step).removeprefix("constrained-").partition("[")[0], kind)
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            wanted = [option for option in typing.get_args(kind) if option is not type(None)]
            kind = wanted[0] if len(wanted) == 1 else kind
    return where, kind


def _options(union: Any) -> dict[str, Any]:
    """The sections that may stand in one place, by their kind; other options by pydantic's name for them."""
    options = {}
    for option in typing.get_args(union):
        if option is type(None):
            continue
        kind = typing.get_type_hints(option).get("kind") if dataclasses.is_dataclass(option) else None
        name = getattr(typing.get_origin(option) or option, "__name__", str(option))
        options[typing.get_args(kind)[0] if kind else name] = option
    return options
