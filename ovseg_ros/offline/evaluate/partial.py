"""A part of an evaluation as a file: one JSON object a line, the plan first, then every image's record.

A record is written as soon as its image is done. So a part that was killed goes on where it was: a last line without
its end is dropped, and images whose record is there are not evaluated again, except those that had a fault.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, from_mapping
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.evaluate.plan import Plan, Shard
from ovseg_ros.offline.evaluate.record import ImageRecord

_FORMAT = "ovseg evaluation 3"
_EARLIER = "ovseg evaluation 2"
"""The same, but records have no `unnamed`."""
_BEGINNING = b'{"plan": '
"""Of every part, even if the program was killed while it wrote the first line."""


@dataclass(frozen=True, slots=True, config=STRICT)
class _Head:
    plan: Plan
    shard: Shard
    format: str = _FORMAT


def open_partial(path: Path, plan: Plan, shard: Shard) -> tuple[TextIO, dict[str, ImageRecord]]:
    """The file of a part, open for more records, and those that it holds already, by name.

    Args:
        path: made if need be.
        plan, shard: must be those that the file was begun with.

    Raises:
        ConfigError: the file belongs to another evaluation or part.
        DatasetError: the file is damaged in other places than its last line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    complete = content.rfind(b"\n") + 1
    if not complete and content and not content.startswith(_BEGINNING):
        raise ConfigError(f"{path} is no part of an evaluation, and would be lost; choose another --partial")
    if not complete:
        file = path.open("w", encoding="utf-8")
        append(file, _Head(plan, shard))
        return file, {}
    found_plan, found_shard, records = read_partial(path)
    difference = found_plan.difference(plan)
    if found_shard != shard:
        difference = f"shard is {found_shard.number}/{found_shard.count} and {shard.number}/{shard.count}"
    if difference:
        raise ConfigError(f"{path} belongs to another evaluation: {difference}; choose another --partial")
    os.truncate(path, complete)
    return path.open("a", encoding="utf-8"), records


def append(file: TextIO, value: _Head | ImageRecord) -> None:
    """Write a line; of several records of one image, the last counts. Floats survive exactly."""
    file.write(json.dumps(asdict(value), allow_nan=False) + "\n")
    file.flush()


def read_partial(path: Path) -> tuple[Plan, Shard, dict[str, ImageRecord]]:
    """Plan, part and records of a file.

    Raises:
        DatasetError: the file is missing or damaged in other places than its last line.
    """
    lines = _complete_lines(path)
    _, first = next(lines, (1, None))
    if not isinstance(first, dict) or first.get("format") not in (_FORMAT, _EARLIER):
        raise DatasetError(f"{path} is not a part of an evaluation by this version; give files that --partial wrote")
    try:
        head = from_mapping(_Head, first, f"{path}, line 1")
        records = [from_mapping(ImageRecord, value, f"{path}, line {number}") for number, value in lines]
    except ConfigError as error:
        raise DatasetError(f"{error}; evaluate this part again") from error
    return head.plan, head.shard, {record.name: record for record in records}


def merge_partials(paths: Sequence[Path]) -> tuple[Plan, list[ImageRecord]]:
    """The plan and all records, sorted by name, of the parts of one evaluation, at least one.

    Raises:
        DatasetError: the parts belong to different evaluations, an image is in two of them, or images are missing.
    """
    parts = [read_partial(path) for path in paths]
    plan = parts[0][0]
    owner: dict[str, Path] = {}
    records: list[ImageRecord] = []
    for path, (other, _, found) in zip(paths, parts, strict=True):
        if difference := plan.difference(other):
            raise DatasetError(f"{paths[0]} and {path} belong to different evaluations: {difference}")
        for name, record in found.items():
            if name in owner:
                raise DatasetError(
                    f"{name} is in {owner[name]} and in {path}; give each part once, all of one division into shards"
                )
            owner[name] = path
            records.append(record)
    if len(records) != plan.images:
        raise DatasetError(
            f"the {len(paths)} parts have {len(records)} of the evaluation's {plan.images} images; give all parts, "
            "and finish those that were stopped by the command that began them"
        )
    return plan, sorted(records, key=lambda record: record.name)


def _complete_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number, from 1, and value of every line that has its end."""
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith("\n"):
                    yield number, json.loads(line)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; give files that --partial wrote") from error
    except ValueError as error:
        if number <= 1:
            raise DatasetError(f"{path} is not a part of an evaluation; give files that --partial wrote") from error
        raise DatasetError(f"{path}, line {number}: {error}; evaluate this part again") from error
