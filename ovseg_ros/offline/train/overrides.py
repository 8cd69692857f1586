"""Overrides of a recipe on the command line, such as `loop.learning_rate=3e-4 data=my.yaml augmentation.flip=false`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.strict_yaml import YamlFault, parse_yaml

T = TypeVar("T")
_Changes = Mapping[tuple[str, ...], tuple[str, Any]]
"""By place: the override as it was typed, and its value."""


def with_overrides(cls: type[T], recipe: Mapping[str, Any], overrides: Sequence[str], where: str) -> T:
    """The recipe of a mapping in which some keys have other values.

    Args:
        cls: the class of recipes.
        overrides: KEY=VALUE each. Keys are those of the recipe, or else of its stage, with dots between sections and
            places in lists; of several stages, the stage's kind comes first. Values are YAML. A section that is not
            there is made. A text for a stage's `data` is the data set that it shall read.
        where: as of `from_mapping`.

    Raises:
        ConfigError: as of `from_mapping`, with the overrides at fault; or what is wrong with an override by itself.
    """
    stages = recipe.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, Mapping) for stage in stages):
        return from_mapping(cls, recipe, where)  # says so
    changes: dict[tuple[str, ...], tuple[str, Any]] = {}
    for override in overrides:
        key, value = _key_and_value(override)
        path = tuple(key.split("."))
        if path[0] not in {field.name for field in fields(cls)}:  # type: ignore[arg-type]
            path = ("stages", *_in_stages(path, [str(stage.get("kind")) for stage in stages], override))
        if path[0] == "stages" and path[2:] == ("data",) and isinstance(value, str):
            path, value = _data_set(path, value, stages)
        if path in changes:
            raise ConfigError(f"{changes[path][0]} and {override} are about the same key; leave one of them out")
        changes[path] = override, value
    values = _changed(recipe, changes)
    try:
        return from_mapping(cls, values, where)
    except ConfigError as error:
        # At fault is what makes a difference to the message.
        others = {path: {other: changes[other] for other in changes if other != path} for path in changes}
        guilty = [changes[path][0] for path in changes if _fault(cls, recipe, others[path], where) != str(error)]
        raise ConfigError(f"{' and '.join(guilty)}: {error}" if guilty else str(error)) from error


def _key_and_value(override: str) -> tuple[str, Any]:
    key, _, text = override.partition("=")
    if not all(key.split(".")) or key == override:
        raise ConfigError(f"{override!r} is no override; expected KEY=VALUE, such as loop.learning_rate=3e-4")
    if not text.strip():
        raise ConfigError(f"{override} has no value; write {key}=null for none")
    try:
        return key, parse_yaml(text)
    except YamlFault as fault:
        raise ConfigError(f"{override}: the value is not valid YAML: {fault}") from fault


def _in_stages(path: tuple[str, ...], kinds: Sequence[str], override: str) -> tuple[str, ...]:
    if path[0] in kinds:
        return (str(kinds.index(path[0])), *path[1:])
    if len(kinds) > 1:
        ways = " or ".join(f"{kind}.{override}" for kind in kinds)
        raise ConfigError(f"{override}: the recipe has {len(kinds)} stages; say which is meant: {ways}")
    return ("0", *path)


def _data_set(path: tuple[str, ...], name: str, stages: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], Any]:
    """Where the name of a data set belongs: among what a recipe says of how data sets are read, if it does."""
    known = {str(place): stage.get("data") for place, stage in enumerate(stages)}.get(path[1])
    if isinstance(known, Mapping) and known.get("kind") == "panoptic":
        return (*path, "dataset"), name
    return path, {"kind": "panoptic", "dataset": name}


def _changed(recipe: Mapping[str, Any], changes: _Changes) -> Any:
    values: Any = recipe
    for path in sorted(changes, key=len):  # a section before what is in it, in whatever order they were typed
        override, value = changes[path]
        values = _put(values, path, value, override)
    return values


def _put(values: Any, path: tuple[str, ...], value: Any, override: str) -> Any:
    """A copy of `values` that has `value` at `path`."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(values, list):
        if key not in (places := [str(place) for place in range(len(values))]):
            raise ConfigError(f"{override}: {key!r} is no place in a list of {len(values)}; places count from 0")
        place = places.index(key)
        return [*values[:place], _put(values[place], rest, value, override), *values[place + 1 :]]
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"{override}: there is no {key!r} in {values!r}, which is a value and no section")
    return {**(values or {}), key: _put((values or {}).get(key), rest, value, override)}


def _fault(cls: type[Any], recipe: Mapping[str, Any], changes: _Changes, where: str) -> str | None:
    try:
        from_mapping(cls, _changed(recipe, changes), where)
    except ConfigError as error:
        return str(error)
    return None
