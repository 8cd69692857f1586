"""A rosbag2 folder written part by part, so that a run that was killed goes on after its last whole part.

Every part is an MCAP file of its own, as `ros2 bag record` splits long recordings; `metadata.yaml` lists them all and
is replaced after each, so the folder can be played at any time.
"""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import yaml
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.data.files import read_json, write_bytes, write_json
from ovseg_ros.offline.data.kinds import is_hidden

JOURNAL_NAME = "ovseg_progress.json"
# Metadata of version 8, whose QoS entries are strings, is what every distribution since Humble reads.
_METADATA_VERSION: Final = 8
_UNLIMITED = QosTime(2147483647, 4294967295)


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message of the output: `content` is CDR."""

    topic: str
    type_name: str
    received: int
    content: bytes | memoryview
    latched: bool = False


class BagParts:
    """The parts of one output bag. What is not yet part of a whole file is lost on a kill, and done again."""

    def __init__(self, folder: Path, settings: dict[str, Any], typestore: Typestore, *, overwrite: bool) -> None:
        """Opens `folder`, or makes it.

        Args:
            folder: the rosbag2 folder.
            settings: everything that the content depends on; only a run with the same ones can go on.
            typestore: knows the types of all messages.
            overwrite: forget what the folder holds.

        Raises:
            ConfigError: the folder holds something else.
            DatasetError: its journal is damaged.
        """
        self._folder, self._typestore = folder, typestore
        self._journal_path, self._metadata_path = folder / JOURNAL_NAME, folder / "metadata.yaml"
        self._journal: dict[str, Any] = {"settings": settings, "done": False, "state": {}, "parts": []}
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--out {folder} is a file; expected a folder")
        if self._journal_path.is_file():
            if overwrite:
                self._clear()
            else:
                self._journal = self._read_journal(settings)
        elif self._metadata_path.exists():
            raise ConfigError(f"{folder} is a bag that this command did not write; choose another --out")
        elif others := self._others():
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise ConfigError(
                f"--out {folder} holds files that are no results of this command ({', '.join(others[:3])}{more}); "
                "choose a new or an empty folder, which becomes the bag"
            )

    @property
    def state(self) -> dict[str, Any]:
        """What the caller noted with the last whole part; {} at the start."""
        return dict(self._journal["state"])

    @property
    def done(self) -> bool:
        """Whether a finished run wrote this bag."""
        return bool(self._journal["done"])

    @property
    def count(self) -> int:
        """Number of whole parts."""
        return len(self._journal["parts"])

    def append(self, messages: Sequence[BagMessage], state: dict[str, Any]) -> None:
        """Writes one more part, and `state` with it; both or none."""
        name = f"{self._folder.name}_{self.count}"
        unfinished = self._folder / ".unfinished"  # a short name, since the folder's may be long
        shutil.rmtree(unfinished, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        information = self._write(unfinished, messages)
        (unfinished / information["relative_file_paths"][0]).replace(self._folder / f"{name}.mcap")
        shutil.rmtree(unfinished)
        self._journal["parts"].append({**information, "relative_file_paths": [f"{name}.mcap"]})
        self._journal["state"] = state
        self._write_metadata()
        write_json(self._journal_path, self._journal)

    def finish(self, state: dict[str, Any]) -> None:
        """Marks the bag as complete, with the last `state`."""
        self._journal["done"], self._journal["state"] = True, state
        write_json(self._journal_path, self._journal)

    def _write(self, folder: Path, messages: Sequence[BagMessage]) -> dict[str, Any]:
        """A bag of one file; returns its metadata."""
        writer = Writer(folder, version=_METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            connections: dict[str, Any] = {}
            for message in messages:
                if message.topic not in connections:
                    connections[message.topic] = writer.add_connection(
                        message.topic,
                        message.type_name,
                        typestore=self._typestore,
                        offered_qos_profiles=[_qos(latched=message.latched)],
                    )
                writer.write(connections[message.topic], message.received, message.content)
        information: dict[str, Any] = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
        return dict(information["rosbag2_bagfile_information"])

    def _write_metadata(self) -> None:
        parts: list[dict[str, Any]] = self._journal["parts"]
        starts = [part["starting_time"]["nanoseconds_since_epoch"] for part in parts]
        ends = [start + part["duration"]["nanoseconds"] for start, part in zip(starts, parts, strict=True)]
        topics: dict[str, dict[str, Any]] = {}
        for topic in (topic for part in parts for topic in part["topics_with_message_count"]):
            known = topics.setdefault(topic["topic_metadata"]["name"], {**topic, "message_count": 0})
            known["message_count"] += topic["message_count"]
        paths = [part["relative_file_paths"][0] for part in parts]
        files = [
            {"path": path, **{key: part[key] for key in ("starting_time", "duration", "message_count")}}
            for path, part in zip(paths, parts, strict=True)
        ]
        merged = {
            **parts[0],
            "relative_file_paths": paths,
            "starting_time": {"nanoseconds_since_epoch": min(starts)},
            "duration": {"nanoseconds": max(ends) - min(starts)},
            "message_count": sum(part["message_count"] for part in parts),
            "topics_with_message_count": list(topics.values()),
            "files": files,
        }
        content = yaml.safe_dump({"rosbag2_bagfile_information": merged}, sort_keys=False)
        write_bytes(self._metadata_path, content.encode())

    def _read_journal(self, settings: dict[str, Any]) -> dict[str, Any]:
        journal = read_json(self._journal_path, "add --overwrite to start again")
        recorded = journal.get("settings", {})
        changed = sorted(key for key in settings.keys() | recorded.keys() if settings.get(key) != recorded.get(key))
        if changed:
            details = ", ".join(f"{key} ({_change(key, recorded.get(key), settings.get(key))})" for key in changed)
            raise ConfigError(
                f"{self._folder} was begun with other settings: {details}; use the same ones to go on, "
                "another --out, or --overwrite to start again"
            )
        return journal

    def _others(self) -> list[str]:
        """What a folder without a journal holds, but for what a run leaves that was killed in its first part."""
        first = f"{self._folder.name}_0.mcap"
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return sorted(name for name in names if name != first and not is_hidden(PurePath(name)))

    def _clear(self) -> None:
        """Removes only what this class wrote, the journal last."""
        for file in (*self._folder.glob(f"{self._folder.name}_*.mcap"), self._metadata_path, self._journal_path):
            file.unlink(missing_ok=True)


def fingerprint(path: Path) -> str:
    """What tells a bag from another without reading all of it: names, sizes and first bytes of its files."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with suppress(PermissionError), file.open("rb") as content:  # reading the bag says so
            digest.update(content.read(1 << 16))
    return digest.hexdigest()[:16]


def _change(key: str, was: Any, now: Any) -> str:
    """What differs between two values of a setting, for people."""
    if key == "content":
        return "the files of the bag have changed"
    if key != "vocabulary" or not (isinstance(was, list) and isinstance(now, list)):
        return f"was {was!r}, now {now!r}"
    old, new = ({str(entry[0]): entry for entry in entries} for entries in (was, now))
    differences = {
        "without": [name for name in old if name not in new],
        "with": [name for name in new if name not in old],
        "with other synonyms, thresholds or kinds of": [n for n in old if n in new and old[n] != new[n]],
    }
    told = [
        f"{how} {', '.join(map(repr, names[:5]))}{' and more' * (len(names) > 5)}"
        for how, names in differences.items()
        if names
    ]
    return f"now {', '.join(told) or 'in another order'}"


def _qos(*, latched: bool) -> Qos:
    """As the node offers it: reliable, keep last 1; transient local where latched."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_UNLIMITED,
        lifespan=_UNLIMITED,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_UNLIMITED,
        avoid_ros_namespace_conventions=False,
    )
