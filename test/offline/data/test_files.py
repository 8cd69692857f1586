"""Atomic writes and the panoptic PNG's encoding."""

import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.weights.files import sha256_of
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb, rgb_to_ids, tight_box
from ovseg_ros.offline.data.files import (
    OutputError,
    check_outputs,
    read_json,
    write_bytes,
    write_image,
    write_json,
)
from ovseg_ros.offline.data.images import load_image


def test_ids_survive_the_png(tmp_path):
    ids = np.array([[0, 1, 255], [256, 65535, (1 << 24) - 1]])
    assert ids_to_rgb(ids)[1, 0].tolist() == [0, 1, 0]
    write_image(tmp_path / "sub" / "a.png", ids_to_rgb(ids))
    np.testing.assert_array_equal(rgb_to_ids(load_image(tmp_path / "sub" / "a.png")), ids)


@pytest.mark.parametrize("value", [-1, 1 << 24])
def test_ids_that_do_not_fit_are_refused(value):
    with pytest.raises(ValueError, match="segment ids"):
        ids_to_rgb(np.array([[value]]))


def test_tight_box():
    mask = np.zeros((5, 6), dtype=bool)
    assert tight_box(mask) == [0, 0, 0, 0]
    mask[1, 2] = mask[3, 4] = True
    assert tight_box(mask) == [2, 1, 3, 3]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OutputError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "is missing"), (b"{", "cannot be read as JSON"), (b"\xff", "cannot be read"), (b"[1]", "holds a list")],
)
def test_json_that_cannot_be_used_says_what_to_do(tmp_path, content, reason):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json {reason}.*; make it again"):
        read_json(path, "make it again")
    write_json(path, {"a": [1, None]})
    assert read_json(path, "make it again") == {"a": [1, None]}


# Outputs are tried before the work


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Every write of a file fails as on a place that is read-only or full."""

    def fail(path: Path, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EROFS, "make the folder writable"), (errno.ENOSPC, "free some space"), (errno.EACCES, "writable")],
)
def test_places_that_cannot_be_written_are_refused_with_the_option(tmp_path, monkeypatch, number, remedy):
    refuse(monkeypatch, number)
    for kind in ("files", "folders"):
        with pytest.raises(OutputError, match=f"--x .*{os.strerror(number)}.*{remedy} or choose another --x"):
            check_outputs(**{"files": {}, kind: {"--x": tmp_path / "new" / "a.json"}})


def test_a_folder_that_is_there_and_takes_no_files_is_not_called_missing(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOENT)
    with pytest.raises(OutputError) as raised:
        check_outputs(files={"--json": tmp_path / "x.json"})
    assert str(raised.value) == (
        f"--json {tmp_path / 'x.json'} cannot be written: {tmp_path} takes no new files; choose another --json"
    )


def test_what_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "a.json").write_text("old")
    check_outputs(
        files={"--json": tmp_path / "a.json", "--none": None, "--new": tmp_path / "b" / "c" / "d.json"},
        folders={"--out": tmp_path / "new" / "out", "--there": tmp_path},
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]
    check_outputs(files={"--json": Path("/dev/null")})


def test_wrong_kinds_of_places_and_long_names_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match=r"^--out \S*/file is a file; expected a folder, give another path$"):
        check_outputs(folders={"--out": tmp_path / "file"}, files={})
    with pytest.raises(
        OutputError, match=r"^--out \S* cannot be made: \S*/file is a file; expected a folder, give another path$"
    ):
        check_outputs(folders={"--out": tmp_path / "file" / "sub"}, files={})
    with pytest.raises(OutputError, match=r"--json .* cannot be made: .*/file is a file"):
        check_outputs(files={"--json": tmp_path / "file" / "a.json"})
    with pytest.raises(OutputError, match="--json .* is a folder; expected a file"):
        check_outputs(files={"--json": tmp_path})
    with pytest.raises(OutputError, match="is a link to nothing"):
        check_outputs(folders={"--out": tmp_path / "nowhere"}, files={})
    with pytest.raises(OutputError) as raised:
        check_outputs(folders={"--out": Path("/dev/null")}, files={})
    assert str(raised.value) == "--out /dev/null is a device; expected a folder, give another path"
    for name in ("a" * 256, "ä" * 128):
        for path in (tmp_path / name, tmp_path / "missing" / name / "out"):
            with pytest.raises(OutputError, match="name of 256 bytes .*at most 255; choose a shorter one"):
                check_outputs(folders={"--out": path}, files={})


def test_the_longest_name_that_the_file_system_takes_is_written(tmp_path):
    write_bytes(tmp_path / ("a" * 255), b"x")
    with pytest.raises(OutputError, match="too long") as raised:
        write_bytes(tmp_path / ("a" * 256), b"x")
    assert raised.value.by_name
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


def test_a_device_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", {"a": 1})
    assert json.loads(os.read(reader, 100)) == {"a": 1}
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
