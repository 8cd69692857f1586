"""A part of an evaluation as a file: one JSON object a line, the plan first, then every image's record.

A record is written as soon as its image is done. So a part that was killed goes on where it was: a last line without
its end is dropped, and images whose record is there are not evaluated again, except those that had a fault.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.evaluate.plan import Plan, Shard
from ovseg_ros.offline.evaluate.record import ImageRecord

_FORMAT = "ovseg evaluation 1"


class PartialFile:
    """The file of one part, open for more records.

    Args:
        path: made if need be.
        plan, shard: must be those that the file was begun with.

    Attributes:
        records: what the file holds already, by name.

    Raises:
        ConfigError: the file belongs to another evaluation or part.
        DatasetError: the file is damaged in other places than its last line.
    """

    def __init__(self, path: Path, plan: Plan, shard: Shard) -> None:
        self.records: dict[str, ImageRecord] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            complete = _complete_bytes(path)
            if complete:
                found_plan, found_shard, records = read_partial(path)
                difference = found_plan.difference(plan)
                if found_shard != shard:
                    difference = f"shard is {found_shard.number}/{found_shard.count} and {shard.number}/{shard.count}"
                if difference:
                    raise ConfigError(f"{path} belongs to another evaluation: {difference}; choose another --partial")
                self.records = records
            os.truncate(path, complete)
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self._write({"format": _FORMAT, "plan": plan.to_json(), "shard": [shard.number, shard.count]})

    def add(self, record: ImageRecord) -> None:
        """Write an image's record; a later record of the same image replaces an earlier one."""
        self.records[record.name] = record
        self._write(record.to_json())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value, allow_nan=False) + "\n")
        self._file.flush()


def read_partial(path: Path) -> tuple[Plan, Shard, dict[str, ImageRecord]]:
    """Plan, part and records of a file; of several records of an image the last counts.

    Raises:
        DatasetError: the file is missing or damaged in other places than its last line.
    """
    number = 1
    try:
        lines = _complete_lines(path)
        number, head = next(lines, (1, None))
        if not isinstance(head, dict) or head.get("format") != _FORMAT:
            raise DatasetError(f"{path} is not a part of an evaluation; give files that --partial wrote")
        plan = Plan.from_json(head["plan"])
        shard = Shard(*head["shard"])
        records = {}
        for number, value in lines:  # noqa: B007, used when a line is malformed
            record = ImageRecord.from_json(value)
            records[record.name] = record
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, DatasetError, ConfigError) as error:
        if isinstance(error, DatasetError) and str(path) in str(error):
            raise
        raise DatasetError(f"{path}, line {number}: {error}; evaluate this part again") from error
    return plan, shard, records


def merge_partials(paths: Sequence[Path]) -> tuple[Plan, list[ImageRecord]]:
    """The plan and all records, sorted by name, of the parts of one evaluation.

    Raises:
        DatasetError: the parts belong to different evaluations, an image is in two of them, or images are missing.
    """
    if not paths:
        raise DatasetError("there are no parts to merge; give the files that --partial wrote")
    first: Plan | None = None
    owner: dict[str, Path] = {}
    records: list[ImageRecord] = []
    for path in paths:
        plan, _, found = read_partial(path)
        first = first or plan
        if difference := first.difference(plan):
            raise DatasetError(f"{paths[0]} and {path} belong to different evaluations: {difference}")
        for name, record in found.items():
            if name in owner:
                raise DatasetError(
                    f"{name} is in {owner[name]} and in {path}; give each part once, all of one division into shards"
                )
            owner[name] = path
            records.append(record)
    assert first is not None
    if len(records) != first.images:
        raise DatasetError(
            f"the {len(paths)} parts have {len(records)} of the evaluation's {first.images} images; give all parts, "
            "and finish those that were stopped by the command that began them"
        )
    return first, sorted(records, key=lambda record: record.name)


def _complete_bytes(path: Path) -> int:
    """Length of the file up to its last line end."""
    return path.read_bytes().rfind(b"\n") + 1


def _complete_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number, from 1, and value of every line that has its end."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith("\n"):
                yield number, json.loads(line)
