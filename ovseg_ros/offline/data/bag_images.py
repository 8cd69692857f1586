"""Images of a bag: rosbag2 folders, .mcap and .db3 files and ROS 1 .bag files, read without ROS.

Recordings are damaged in many ways, and what a parser raises depends on where it meets the damage. So there is one
boundary, around opening a file and around each step through it: what was read until then counts, and the place is told.
"""

import errno
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from ovseg_ros.core.errors import DatasetError, ImageError
from ovseg_ros.core.image_messages import image_from_compressed_message, image_from_message
from ovseg_ros.offline.data.bag_files import Recording, find_recording, remedy, shortcoming
from ovseg_ros.offline.data.bag_storage import Channel, Storage, open_storage, told
from ovseg_ros.offline.data.files import OutputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_TIMES = range(1 << 31)
"""Seconds that a message's time can have."""


@dataclass(frozen=True, slots=True)
class BagImage:
    """One image message.

    Attributes:
        topic: where it was recorded.
        received: when, in nanoseconds.
        message: sensor_msgs Image or CompressedImage as the bag library gives it; None where it cannot be parsed.
        fault: why not, else "".
    """

    topic: str
    received: int
    message: Any
    fault: str = ""

    def decode(self) -> np.ndarray:
        """uint8 RGB (H, W, 3).

        Raises:
            ImageError: the message cannot be used.
        """
        if self.message is None:
            raise ImageError(f"{self.topic} at {self.received}: the message cannot be parsed: {self.fault}")
        if self.message.__msgtype__ == _COMPRESSED:
            return image_from_compressed_message(self.message, self.topic)
        image = image_from_message(self.message, self.topic)
        return np.require(image, requirements="W")  # a view on the file's bytes would make PyTorch warn


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    suffix: str
    storage: Storage
    cut: str

    @property
    def damage(self) -> str:
        """What decompressing and opening it has shown, as well as it can be said; "" for nothing."""
        return self.cut or (_reason(self.path, self.suffix, self.storage.damage) if self.storage.damage else "")


class BagImages:
    """The chosen image topics of an open bag, in the order of recording. Made by `open_bag_images`.

    Attributes:
        topics: the chosen ones, sorted.
        notes: what is unusual about the recording, and lost nothing.
        faults: what could not be read, a line for each, with the place; complete when all images were taken.
        empty: chosen topics on which no image is; complete when all images were taken.
    """

    def __init__(self, recording: Recording, files: Sequence[_File], topics: Sequence[str], faults: list[str]) -> None:
        self._recording, self._files = recording, files
        self.topics = sorted(topics)
        self.notes = recording.notes
        self.faults = faults
        self.empty: list[str] = []
        self._stores = {
            True: get_typestore(Stores.ROS1_NOETIC).deserialize_ros1,
            False: get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr,
        }

    def __len__(self) -> int:
        """How many are announced."""
        count = sum(channel.count for file in self._files for channel in self._channels_of(file))
        return min(count, sys.maxsize)  # a damaged file may announce any number

    def __iter__(self) -> Iterator[BagImage]:
        read = Counter[str]()
        for file in self._files:
            yield from self._images_of(file, read)
        self.empty = [topic for topic in self.topics if not read[topic]]
        announced = self._recording.announced
        if not self.faults:
            self.faults += [
                f"{self._recording.path}: metadata.yaml announces {announced[topic]} images of {topic}, and its files "
                f"hold {read[topic]}; a part of the recording is missing"
                for topic in self.topics
                if read[topic] < announced.get(topic, 0)
            ]

    def _channels_of(self, file: _File) -> list[Channel]:
        return [c for c in file.storage.channels if c.topic in self.topics and c.type_name in (_RAW, _COMPRESSED)]

    def _images_of(self, file: _File, read: Counter[str]) -> Iterator[BagImage]:
        channels = self._channels_of(file)
        if not channels and not file.damage:
            return
        announced, seen, stopped = sum(channel.count for channel in channels), Counter[tuple[str, int]](), list[str]()
        last = ""
        for channel, received, content in _steps(file.storage, channels, stopped):
            seen[channel.topic, received] += 1
            read[channel.topic] += 1
            last = f" (the last: {channel.topic} at {received / 1e9:.3f} s)"
            yield self._image(channel, received, content, ros1=file.suffix == ".bag")
        count = seen.total()
        if file.damage:
            problem = f"is damaged: {file.damage}. Read from its beginning it gave {count} images{last}"
        elif stopped:
            problem = f"is damaged after {count} of {announced} images{last}: {stopped[0]}"
        elif count < announced:
            problem = f"announces {announced} images, and {count} are found{last}: its index or a chunk is damaged"
        else:
            return
        found = 0
        if other := file.storage.without_index():
            channels = [channel for channel in other.channels if channel.topic in self.topics]
            for channel, received, content in _steps(other, channels, []):
                if seen[channel.topic, received] > 0:
                    seen[channel.topic, received] -= 1
                    continue
                found += 1
                read[channel.topic] += 1
                yield self._image(channel, received, content, ros1=file.suffix == ".bag")
            other.close()
        more = f". Without its index, {found} more were found" if found else ""
        self.faults.append(f"{file.path} {problem}{more}{remedy(file.path, file.suffix, opened=not file.damage)}")

    def _image(self, channel: Channel, received: int, content: bytes, *, ros1: bool) -> BagImage:
        try:
            if received // 10**9 not in _TIMES:
                raise ValueError(f"it has the time {received} ns")
            if not ros1 and content[:4] == _ZSTD_MAGIC:  # metadata.yaml, which would say so, may be missing
                content = zstd.decompress(content)
            return BagImage(channel.topic, received, self._stores[ros1](content, channel.type_name))
        except Exception as error:  # a torn message makes the parser stumble in any of a dozen ways
            return BagImage(channel.topic, received, None, told(error))


def _steps(storage: Storage, channels: list[Channel], stopped: list[str]) -> Iterator[tuple[Channel, int, bytes]]:
    """The messages until the parser stumbles; `stopped` gets what it raised. Errors of those who use the messages do
    not come by here."""
    messages = storage.messages(channels)
    while True:
        try:
            step = next(messages)
        except StopIteration:
            return
        except Exception as error:  # see above
            stopped.append(told(error))
            return
        yield step


@contextmanager
def open_bag_images(path: Path, topics: Sequence[str]) -> Iterator[BagImages]:
    """The images of a bag.

    Args:
        path: as in `is_bag`.
        topics: which to read; empty takes the bag's only colour image topic.

    Raises:
        DatasetError: no file of the bag can be read, a topic is not in it or holds no images, or the choice is not
            clear. Where only some files cannot be read, `BagImages.faults` says so.
    """
    recording = find_recording(path)
    files, faults = [], list(recording.faults)
    with ExitStack() as stack:
        for file, suffix in recording.files:
            cut = ""
            try:
                file.open("rb").close()
                unpacked, cut = _unpacked(file, stack) if file.suffix.lower() == ".zstd" else (file, "")
                storage = open_storage(unpacked, suffix)
            except OutputError:
                raise
            except PermissionError as error:
                faults.append(f"{file} cannot be read: {error.strerror}; make it readable")
                continue
            except Exception as error:  # see above
                reason = cut or _reason(file, suffix, told(error))
                faults.append(f"{file} cannot be read as a bag: {reason}{remedy(file, suffix, opened=False)}")
                continue
            stack.callback(storage.close)
            files.append(_File(file, suffix, storage, cut))
            if suffix == ".db3" and _size(log := file.with_name(f"{file.name}-wal")):
                faults.append(
                    f"{log} holds messages that the recorder had not yet moved into {file.name} when it was killed; "
                    f'they are not read; `sqlite3 {file} "PRAGMA wal_checkpoint(TRUNCATE)"` moves them'
                )
        if not files:
            more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
            raise DatasetError(f"{faults[0]}{more}" if faults else f"{path} holds no file of a recording")
        channels = [channel for file in files for channel in file.storage.channels]
        try:
            chosen = _choose(channels, path, topics)
        except DatasetError as error:  # what is not found may have been in what is damaged
            damages = [f"{file.path} is damaged: {file.damage}" for file in files if file.damage]
            raise DatasetError("; ".join([str(error), *faults, *damages])) from error
        yield BagImages(recording, files, chosen, faults)


def _reason(path: Path, suffix: str, parser: str) -> str:
    return parser if path.suffix.lower() == ".zstd" else shortcoming(path, suffix) or parser


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _unpacked(path: Path, stack: ExitStack) -> tuple[Path, str]:
    """A compressed file's content, in a temporary folder, as far as it goes; and why not further, "" if it is whole."""
    folder = Path(mkdtemp(prefix="ovseg_bag_"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    target = folder / path.stem
    try:
        with zstd.open(path, "rb") as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{path} cannot be decompressed into {folder}: {error.strerror}; free some space or set TMPDIR"
            ) from error
        raise
    except EOFError:
        return target, "the copy was cut short; copy it again"
    except zstd.ZstdError as error:
        return target, f"its compression is damaged ({told(error)}); copy it again"
    return target, ""


def _choose(channels: Sequence[Channel], path: Path, topics: Sequence[str]) -> list[str]:
    types = {channel.topic: channel.type_name for channel in channels}
    found = sorted({channel.topic for channel in channels if channel.type_name in (_RAW, _COMPRESSED)})
    for topic in topics:
        if topic in types and topic not in found:
            raise DatasetError(f"{path}: {topic} holds {types[topic]}, no images; {_listed(found, types)}")
        if topic not in found:
            raise DatasetError(f"{path} holds no images on {topic!r}; {_listed(found, types)}")
    if not found:
        raise DatasetError(f"{path} holds no image topic (Image or CompressedImage); {_listed(found, types)}")
    return list(topics) or _only_colour(found, path)


def _listed(images: Sequence[str], types: dict[str, str]) -> str:
    """The image topics, or where there are none, the others with their types."""
    if images:
        return f"image topics: {', '.join(images)}"
    others = [f"{topic} ({types[topic]})" for topic in sorted(types)]
    more = f" and {len(others) - 20} more" if len(others) > 20 else ""
    return f"its topics: {', '.join(others[:20]) or 'none'}{more}"


def _only_colour(found: list[str], path: Path) -> list[str]:
    """The one camera of a bag: its raw topic where both forms were recorded."""
    colour = [topic for topic in found if "depth" not in topic.lower()]
    twins = {f"{topic}/compressed" for topic in colour}
    cameras = [topic for topic in colour if topic not in twins]
    if not cameras:
        what = "only a depth topic" if len(found) == 1 else "only depth topics"
        raise DatasetError(
            f"{path} holds {what} ({', '.join(found)}); pictures of a colour camera are segmented. If it is one all "
            f"the same, name it: --topic {found[0]}"
        )
    if len(cameras) > 1:
        raise DatasetError(
            f"{path} holds several image topics; choose with --topic (repeat it for several): {', '.join(found)}"
        )
    return cameras
