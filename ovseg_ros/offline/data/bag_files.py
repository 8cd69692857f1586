"""The files of a recording: a rosbag2 folder with or without its metadata.yaml, or one file."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.bag_storage import MCAP_MAGIC
from ovseg_ros.offline.data.kinds import Kind, bag_suffix, files_below, kind_of

METADATA_NAME = "metadata.yaml"
_KEY = "rosbag2_bagfile_information"
_SUFFIX_OF_STORAGE = {"mcap": ".mcap", "sqlite3": ".db3"}
_SQLITE_HEADER = 100
_SQLITE_MAGIC, _BAG_MAGIC = b"SQLite format 3\0", b"#ROSBAG V"


@dataclass(frozen=True, slots=True)
class Recording:
    """What is known of a recording before its files are opened.

    Attributes:
        path: as it was given.
        files: of the recording, in order, with the suffix that says what each is: .mcap, .db3 or .bag.
        announced: messages of each topic as metadata.yaml counts them; {} without it.
        faults: what is missing of it.
        notes: what is unusual, and lost nothing.
    """

    path: Path
    files: tuple[tuple[Path, str], ...]
    announced: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def is_bag(path: Path) -> bool:
    """Whether a path is a bag: a file with a bag's suffix, or a folder with metadata.yaml or only files of rosbag2."""
    if path.is_file():
        return bool(bag_suffix(path))
    if not path.is_dir():
        return False
    metadata = path / METADATA_NAME
    if metadata.is_file() and (_KEY in metadata.read_text(encoding="utf-8", errors="replace")):
        return True
    return bool(_storage_files(path)) and not any(
        kind_of(file) is Kind.PICTURE for file in files_below(path, closed=True)
    )


def find_recording(path: Path) -> Recording:
    """The files of a bag.

    Args:
        path: as in `is_bag`.

    Raises:
        DatasetError: none of its files is there, or it holds several recordings.
    """
    if not path.is_dir():
        return Recording(path, ((path, bag_suffix(path)),))
    beside = _storage_files(path)
    information, problem = _read_metadata(path / METADATA_NAME)
    if information is None:
        return _without_metadata(path, beside, problem)
    try:
        names = [PurePosixPath(str(name)).name for name in information["relative_file_paths"]]
        announced = Counter[str]()
        for topic in information.get("topics_with_message_count") or ():
            announced[topic["topic_metadata"]["name"]] += int(topic["message_count"])
        suffix = _SUFFIX_OF_STORAGE.get(information.get("storage_identifier") or "", "")
        mode, packing = (str(information.get(f"compression_{key}") or "").lower() for key in ("mode", "format"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return _without_metadata(path, beside, f"is damaged ({type(error).__name__}: {error})")
    if mode in ("file", "message") and packing != "zstd":
        raise DatasetError(f"{path} is compressed by {packing!r}; expected 'zstd'; convert it with `ros2 bag convert`")
    # Foxy lists x.db3 where the file is x.db3.zstd.
    listed = {name: next((f for f in (path / name, path / f"{name}.zstd") if f.is_file()), None) for name in names}
    found = [file for file in listed.values() if file is not None]
    faults = [
        f"{path / name} is missing, which {METADATA_NAME} lists; copy it there"
        for name, file in listed.items()
        if file is None
    ]
    if not found and not beside:
        raise DatasetError("; ".join(faults) or f"{path / METADATA_NAME} lists no file of a recording")
    if stray := [file for file in beside if file not in found]:
        names_of_stray = ", ".join(file.name for file in stray[:5]) + (" and more" if len(stray) > 5 else "")
        faults.append(
            f"{names_of_stray} in {path} {'is' if len(stray) == 1 else 'are'} not listed in {METADATA_NAME} and not "
            f"read; `ros2 bag reindex {path}` lists all files"
        )
    files = tuple((file, bag_suffix(file) or suffix or ".db3") for file in found)
    return Recording(path, files, announced, tuple(faults))


def remedy(path: Path, suffix: str, *, opened: bool) -> str:
    """What may help against a damaged file, as the end of a sentence; "" where nothing is known to.

    Args:
        opened: whether its index was good enough to open it.
    """
    with path.open("rb") as file:
        start = file.read(16)
    match suffix:
        case ".mcap" if start.startswith(MCAP_MAGIC):
            return f"; `mcap recover {path} -o recovered.mcap` (MCAP's command line tool) saves what can be read"
        case ".db3" if start == _SQLITE_MAGIC:
            return f"; `sqlite3 {path} .recover | sqlite3 recovered.db3` saves what can be read"
        case ".bag" if start.startswith(_BAG_MAGIC) and not opened:
            return f"; `rosbag reindex {path}` (of ROS 1) repairs an index that is missing or damaged"
        case ".bag":
            return "; what was read is kept; copy the file again if its original is whole"
    return ""


def shortcoming(path: Path, suffix: str) -> str:
    """What can be said of a file that does not open, better than its parser does; "" for nothing."""
    size = path.stat().st_size
    if not size:
        return "it is empty"
    with path.open("rb") as file:
        start = file.read(_SQLITE_HEADER)
        file.seek(max(0, size - len(MCAP_MAGIC)))
        end = file.read()
    magic = {".mcap": MCAP_MAGIC, ".db3": _SQLITE_MAGIC, ".bag": _BAG_MAGIC}[suffix]
    if not start.startswith(magic):
        return f"it does not begin as a {suffix} file ({start[: len(magic)]!r}, expected {magic!r})"
    if suffix == ".mcap" and end != MCAP_MAGIC:
        return "it has no end: the recording was killed, or the copy cut short"
    if suffix == ".db3":  # its header counts its pages; 1 stands for the size that 16 bits do not hold
        page = int.from_bytes(start[16:18], "big") if start[16:18] != b"\0\1" else 1 << 16
        if size < (whole := page * int.from_bytes(start[28:32], "big")):
            return f"it has {size} of its {whole} bytes: the copy was cut short"
    return ""


def _read_metadata(path: Path) -> tuple[dict[str, Any] | None, str]:
    """What metadata.yaml says, or None and why not."""
    if not path.is_file():
        return None, "is missing (the recording was killed, or only a part was copied)"
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, ValueError, yaml.YAMLError) as error:
        return None, f"cannot be read ({' '.join(str(error).split())[:120]})"
    information = content.get(_KEY) if isinstance(content, dict) else None
    return (information, "") if isinstance(information, dict) else (None, f"has no {_KEY}")


def _without_metadata(path: Path, files: list[Path], problem: str) -> Recording:
    """A folder by its files; those of one recording are called NAME_0, NAME_1 and so on."""
    if not files:
        raise DatasetError(f"{path / METADATA_NAME} {problem}, and no .mcap or .db3 is beside it; nothing to read")
    recordings = {re.sub(r"_\d+$", "", file.name.partition(".")[0]) + bag_suffix(file) for file in files}
    if len(recordings) > 1:
        shown = ", ".join(file.name for file in files[:5]) + (" and more" if len(files) > 5 else "")
        raise DatasetError(f"{path} holds {len(recordings)} recordings ({shown}); give one file at a time")
    note = (
        f"{path / METADATA_NAME} {problem}; reading {', '.join(file.name for file in files)}. "
        f"`ros2 bag reindex {path}` writes it anew"
    )
    return Recording(path, tuple((file, bag_suffix(file)) for file in files), notes=(note,))


def _storage_files(folder: Path) -> list[Path]:
    """The files of rosbag2 in a folder, part 10 after part 9."""
    found = [
        file
        for file in folder.iterdir()
        if bag_suffix(file) in (".mcap", ".db3") and not file.name.startswith(".") and file.is_file()
    ]
    return sorted(found, key=lambda file: [(int(n or -1), t) for n, t in re.findall(r"(\d*)(\D*)", file.name)])
