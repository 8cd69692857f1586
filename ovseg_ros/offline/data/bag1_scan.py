"""A ROS 1 bag record by record, without the index that stands at its end: of damaged and of killed recordings."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag1.reader import Header, RecordType, decompressors, normalize, read_uint32
from rosbags.typesys.msg import normalize_msgtype


def connections(path: Path) -> dict[int, tuple[str, str]]:
    """Topic and type of each connection in the records until a damage, by its number."""
    found = {}
    with suppress(Exception):  # it ends somewhere; what is before that is known
        for header, content in _records(path):
            if header.get_uint8("op") == RecordType.CONNECTION:
                described = Header.read(BytesIO(len(content).to_bytes(4, "little") + content))
                topic = normalize(header.get_string("topic"))
                found[header.get_uint32("conn")] = (topic, normalize_msgtype(described.get_string("type")))
    return found


def messages(path: Path, numbers: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
    """The messages of some connections: number, time of recording in nanoseconds, content; raises at a damage."""
    for header, content in _records(path):
        if header.get_uint8("op") == RecordType.MSGDATA and (number := header.get_uint32("conn")) in numbers:
            yield number, header.get_time("time"), content


def _records(path: Path) -> Iterator[tuple[Header, bytes]]:
    """All records, those of each chunk in its place. Of a damaged chunk those are left out that cannot be had."""
    with path.open("rb") as file:
        file.readline()  # the magic
        for header, content in _plain_records(file):
            if header.get_uint8("op") != RecordType.CHUNK:
                yield header, content
                continue
            inner: list[tuple[Header, bytes]] = []
            with suppress(Exception):  # the next chunk may be whole
                inner.extend(_plain_records(BytesIO(decompressors[header.get_string("compression")](content))))
            yield from inner


def _plain_records(file: BinaryIO) -> Iterator[tuple[Header, bytes]]:
    while file.read(1):
        file.seek(-1, 1)
        header, size = Header.read(file), read_uint32(file)
        yield header, (content := file.read(size))  # of a chunk that is cut short, what is there
        if len(content) < size:
            raise ValueError(f"it ends after {len(content)} of the {size} bytes of a record")
