"""One file of a recording: its topics and its messages, for every storage that there is.

Types come from the standard definitions of the image messages, which are the same in every distribution, and not from
what a file says of its topics: a schema that cannot be parsed is no fault of the images beside it.
"""

import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from rosbags.rosbag1 import Reader as Bag1Reader
from rosbags.rosbag2.storage_mcap import McapReader, Schema

_KNOWN_SCHEMAS = frozenset({"", "ros2msg", "ros2idl", "omgidl"})


@dataclass(frozen=True, slots=True)
class Channel:
    """Messages of one topic, or a part of them, in one file.

    Attributes:
        topic: its name.
        type_name: such as sensor_msgs/msg/Image, also in ROS 1 bags.
        count: how many messages the file announces.
        handle: what its reader knows it by.
    """

    topic: str
    type_name: str
    count: int
    handle: Any


class Storage(Protocol):
    """An open file. Whatever it raises, and when, depends on where its parser meets a damage."""

    channels: list[Channel]

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        """The messages of some of its channels by time: channel, time of recording in nanoseconds, content."""

    def close(self) -> None:
        """Close the file."""


def open_storage(path: Path, suffix: str) -> Storage:
    """Open a file as what `suffix` says: .mcap, .db3 or .bag."""
    if suffix == ".mcap":
        return _Mcap(path)
    if suffix == ".db3":
        return _Sqlite(path)
    return _Bag1(path)


class _Schemas(dict[int, Schema]):
    """Counts schemas that the library does not know (Protobuf, JSON) as none: their topics are not read."""

    def __setitem__(self, key: int, schema: Schema) -> None:
        known = schema.encoding in _KNOWN_SCHEMAS
        super().__setitem__(key, schema if known else schema._replace(encoding=""))


class _Mcap:
    def __init__(self, path: Path) -> None:
        self._reader = McapReader(path)
        self._reader.schemas = _Schemas()
        self._reader.open()
        self.channels = [Channel(c.topic, c.msgtype, c.msgcount, c) for c in self._reader.connections]

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        of = {channel.handle.id: channel for channel in channels}
        for connection, received, content in self._reader.messages([channel.handle for channel in channels]):
            yield of[connection.id], received, content

    def close(self) -> None:
        self._reader.close()


class _Bag1:
    def __init__(self, path: Path) -> None:
        self._reader = Bag1Reader(path)
        self._reader.open()
        chunks = self._reader.chunk_infos
        self.channels = [
            Channel(c.topic, c.msgtype, sum(chunk.connection_counts.get(c.id, 0) for chunk in chunks), c)
            for c in self._reader.connections
        ]

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        of = {channel.handle.id: channel for channel in channels}
        for connection, received, content in self._reader.messages([channel.handle for channel in channels]):
            yield of[connection.id], received, content

    def close(self) -> None:
        self._reader.close()


class _Sqlite:
    """rosbag2's tables, of which all versions have the columns that are read here."""

    def __init__(self, path: Path) -> None:
        # Immutable: SQLite makes no files beside it, so that folders need not be writable.
        self._database = sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)
        try:
            counts = dict(self._database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
            rows = self._database.execute("SELECT id, name, type FROM topics ORDER BY id").fetchall()
        except sqlite3.Error:
            self._database.close()
            raise
        self.channels = [Channel(str(name), str(kind), counts.get(key, 0), key) for key, name, kind in rows]

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        of = {channel.handle: channel for channel in channels}
        places = ", ".join("?" * len(of))
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({places}) ORDER BY timestamp"
        for key, received, content in self._database.execute(query, tuple(of)):
            yield of[key], received, content

    def close(self) -> None:
        self._database.close()
