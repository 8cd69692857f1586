"""One file of a recording: its topics and its messages, for every storage that there is.

Types come from the standard definitions of the image messages, which are the same in every distribution, and not from
what a file says of its topics: a schema that cannot be parsed is no fault of the images beside it.
"""

import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Bag1Reader
from rosbags.rosbag2.storage_mcap import McapReader, Schema

from ovseg_ros.offline.data.bag1_scan import connections, messages

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MCAP_MAGIC = b"\x89MCAP0\r\n"
_MCAP_CHUNK = 0x06
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
    """An open file. Whatever it raises, and when, depends on where its parser meets a damage.

    Attributes:
        channels: what it holds.
        damage: why it cannot be whole, which opening it has shown; "" for nothing.
    """

    channels: list[Channel]
    damage: str

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        """The messages of some of its channels by time: channel, time of recording in nanoseconds, content."""

    def without_index(self) -> "Storage | None":
        """The same file opened to be read without its index, if there is such a way."""

    def close(self) -> None:
        """Close the file."""


def open_storage(path: Path, suffix: str) -> Storage:
    """Open a file as what `suffix` says: .mcap, .db3 or .bag."""
    if suffix == ".db3":
        return _Sqlite(path)
    try:
        return _Mcap(path) if suffix == ".mcap" else _Bag1(path)
    except Exception as error:  # whatever its index makes the parser stumble over
        without_index = _McapFromItsBeginning if suffix == ".mcap" else _Bag1FromItsBeginning
        if (found := without_index(path, told(error))).channels:
            return found
        found.close()
        raise


class _Schemas(dict[int, Schema]):
    """Counts schemas that the library does not know (Protobuf, JSON) as none: their topics are not read."""

    def __setitem__(self, key: int, schema: Schema) -> None:
        known = schema.encoding in _KNOWN_SCHEMAS
        super().__setitem__(key, schema if known else schema._replace(encoding=""))


def told(error: BaseException) -> str:
    """What a parser raised, in one line."""
    if isinstance(error, MemoryError):
        return "a length in it is more than there is memory"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".rstrip(": ")


class _Library:
    """A file that the bag library reads."""

    damage = ""

    def __init__(self, reader: McapReader | Bag1Reader, channels: list[Channel]) -> None:
        self._reader, self.channels = reader, channels

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        of = {channel.handle.id: channel for channel in channels}
        for connection, received, content in self._read([channel.handle for channel in channels]):
            yield of[connection.id], received, content

    def _read(self, connections: list[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        return self._reader.messages(connections)

    def without_index(self) -> Storage | None:
        return None

    def close(self) -> None:
        self._reader.close()


class _Mcap(_Library):
    def __init__(self, path: Path) -> None:
        self._path = path
        reader = McapReader(path)
        reader.schemas = _Schemas()
        reader.open()
        super().__init__(reader, [Channel(c.topic, c.msgtype, c.msgcount, c) for c in reader.connections])

    def without_index(self) -> Storage | None:
        with suppress(Exception):  # the file is known to be damaged
            return _McapFromItsBeginning(self._path, "")
        return None


class _McapFromItsBeginning(_Library):
    """A file whose index is damaged or was never written, record by record as far as it goes.

    Of a chunk that the file ends in, the records that are whole are read.
    """

    def __init__(self, path: Path, damage: str) -> None:
        self.damage = damage
        self._scan = McapReader(path)
        self._scan.schemas = _Schemas()
        self._scan.bio = path.open("rb")
        self._scan.data_start, self._scan.data_end = len(MCAP_MAGIC), path.stat().st_size
        with suppress(Exception):  # it ends somewhere; what is before that is known
            self._scan.meta_scan()
        records = b""
        with suppress(Exception):
            records = _torn_chunk(path)
        self._torn = McapReader(path)
        self._torn.bio, self._torn.data_end = BytesIO(records), len(records)
        self._torn.schemas, self._torn.channels = self._scan.schemas, self._scan.channels
        self._torn.connections = self._scan.connections
        with suppress(Exception):
            self._torn.meta_scan()
        super().__init__(self._scan, [Channel(c.topic, c.msgtype, 0, c) for c in self._scan.connections])

    def _read(self, connections: list[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        try:
            yield from self._scan.messages_scan(connections)
        except Exception:
            with suppress(Exception):  # its last record is torn
                yield from self._torn.messages_scan(connections)
            raise


def _torn_chunk(path: Path) -> bytes:
    """The records of the chunk that a file ends in, as far as they are there; b"" where there is none, or in LZ4."""
    size = path.stat().st_size
    with path.open("rb") as file:
        place = len(MCAP_MAGIC)
        while file.seek(place) < size:
            kind, length = struct.unpack("<BQ", file.read(9))
            if (place := place + 9 + length) > size and kind == _MCAP_CHUNK:
                file.seek(28, 1)  # times, size and checksum
                (length,) = struct.unpack("<I", file.read(4))
                compression = file.read(length)
                (length,) = struct.unpack("<Q", file.read(8))
                content = file.read(min(length, size))
                if compression == b"zstd":
                    return zstd.ZstdDecompressor().decompress(content)
                return b"" if compression else content
    return b""


class _Bag1(_Library):
    def __init__(self, path: Path) -> None:
        self._path = path
        reader = Bag1Reader(path)
        reader.open()
        counts = Counter[int]()
        for chunk in reader.chunk_infos:
            counts.update(chunk.connection_counts)
        super().__init__(reader, [Channel(c.topic, c.msgtype, counts[c.id], c) for c in reader.connections])

    def without_index(self) -> Storage | None:
        with suppress(Exception):
            return _Bag1FromItsBeginning(self._path, "")
        return None


class _Bag1FromItsBeginning:
    """A ROS 1 bag whose index is damaged or was never written (.bag.active), record by record as far as it goes."""

    def __init__(self, path: Path, damage: str) -> None:
        self.damage, self._path = damage, path
        self.channels = [Channel(topic, kind, 0, key) for key, (topic, kind) in connections(path).items()]

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        of = {channel.handle: channel for channel in channels}
        for key, received, content in messages(self._path, of):
            yield of[key], received, content

    def without_index(self) -> Storage | None:
        return None

    def close(self) -> None:
        """Nothing is kept open."""


class _Sqlite:
    """rosbag2's tables, of which all versions have the columns that are read here."""

    damage = ""

    def __init__(self, path: Path, *, by_time: bool = True) -> None:
        self._path, self._by_time = path, by_time
        # Immutable: SQLite makes no files beside it, so that folders need not be writable.
        self._database = sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True)
        counts: dict[Any, int] = {}
        try:
            self._database.execute("PRAGMA writable_schema = ON")  # else it refuses a file that is cut short
            rows = self._database.execute("SELECT id, name, type FROM topics ORDER BY id").fetchall()
            try:
                counts = dict(self._database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
            except sqlite3.DatabaseError as error:
                self.damage = told(error)
        except BaseException:
            self._database.close()
            raise
        whole = [row for row in rows if isinstance(row[1], str) and isinstance(row[2], str)]
        if len(whole) < len(rows):
            self.damage = f"{len(rows) - len(whole)} of the {len(rows)} rows in its table of topics are torn"
        self.channels = [Channel(name, kind, counts.get(key, 0), key) for key, name, kind in whole]

    def messages(self, channels: Collection[Channel]) -> Iterator[tuple[Channel, int, bytes]]:
        of = {channel.handle: channel for channel in channels}
        places = ", ".join("?" * len(of))
        table, order = ("messages", "timestamp") if self._by_time else ("messages NOT INDEXED", "id")
        query = f"SELECT topic_id, timestamp, data FROM {table} WHERE topic_id IN ({places}) ORDER BY {order}"
        for key, received, content in self._database.execute(query, tuple(of)):
            yield of[key], int(received), content

    def without_index(self) -> Storage | None:
        if not self._by_time:
            return None
        with suppress(Exception):  # the file is known to be damaged
            return _Sqlite(self._path, by_time=False)
        return None

    def close(self) -> None:
        self._database.close()
