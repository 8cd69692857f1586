"""Atomic writes and the panoptic PNG's encoding."""

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb, rgb_to_ids, tight_box
from ovseg_ros.offline.data.files import OutputError, read_json, sha256_of, write_bytes, write_image, write_json
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
