"""The tabletop data set: written, stopped, resumed, read back and damaged."""

import json

import numpy as np
import pytest

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data import tabletop_dataset
from ovseg_ros.offline.data.files import write_image
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, TabletopDataset, render_frames, write_dataset
from ovseg_ros.sim.categories import SEEN

CONFIG = DatasetConfig("test", count=2, seed=5, width=80, height=60)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "tabletop"
    write_dataset(CONFIG, folder, workers=1)
    return folder


@pytest.fixture
def copied(written, tmp_path):
    for path in written.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(written)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


def test_what_is_read_is_what_was_rendered(written):
    dataset = TabletopDataset(written)
    assert len(dataset) == 2 and dataset.info["split"] == "test"
    for read, rendered in zip(dataset.frames(), render_frames(CONFIG), strict=True):
        np.testing.assert_array_equal(read.image, rendered.image)
        np.testing.assert_array_equal(read.segment_ids, rendered.segment_ids)
        assert read.segment_ids.dtype == np.uint16 and read.depth.dtype == np.float32
        assert read.segments == rendered.segments
        near = rendered.depth < 65
        assert near.any() and np.abs(read.depth - rendered.depth)[near].max() <= 0.0006
        np.testing.assert_allclose(read.camera_matrix, rendered.camera_matrix)


def test_index_is_coco_panoptic_with_the_splits(written):
    index = json.loads((written / "panoptic.json").read_text())
    assert len(index["categories"]) == 100
    categories = {entry["id"]: entry for entry in index["categories"]}
    assert {entry["name"] for entry in index["categories"] if entry["seen"]} == SEEN
    assert {entry["name"] for entry in index["categories"] if not entry["isthing"]} == {"table", "floor", "wall", "mat"}
    for annotation in index["annotations"]:
        for info in annotation["segments_info"]:
            x, y, width, height = info["bbox"]
            assert x >= 0 and x + width <= 80 and y >= 0 and y + height <= 60
            assert 0 < info["area"] <= width * height and info["category_id"] in categories and info["iscrowd"] == 0


def test_a_stopped_run_goes_on_and_keeps_what_is_done(copied, monkeypatch):
    (copied / "records" / "000001.json").unlink()
    (copied / "panoptic.json").unlink()
    with pytest.raises(DatasetError, match="finish writing"):
        TabletopDataset(copied)
    rendered = []
    original = tabletop_dataset._render
    monkeypatch.setattr(tabletop_dataset, "_render", lambda c, n: rendered.append(n) or original(c, n))
    write_dataset(CONFIG, copied, workers=1)
    assert rendered == [1]
    assert len(list(TabletopDataset(copied).frames())) == 2


def test_a_folder_of_another_configuration_is_refused(copied):
    with pytest.raises(ConfigError, match="choose another --out"):
        write_dataset(DatasetConfig("test", count=2, seed=6, width=80, height=60), copied, workers=1)


def test_damage_is_named(copied):
    write_image(copied / "panoptic" / "000000.png", np.zeros((60, 80, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"000000\.png: the panoptic map has segments"):
        TabletopDataset(copied).frame(0)
    (copied / "depth" / "000001.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"depth of 000001\.png"):
        TabletopDataset(copied).frame(1)
    write_image(copied / "images" / "000000.png", np.zeros((6, 8, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"image of 000000\.png is \(6, 8\), but the index says \(60, 80\)"):
        TabletopDataset(copied).frame(0)
    for content, reason in (('{"images": []}', "malformed"), ("[]", "list"), ("{", "cannot be read")):
        (copied / "panoptic.json").write_text(content)
        with pytest.raises(DatasetError, match=reason):
            TabletopDataset(copied)


@pytest.mark.parametrize("change", [{"split": "tset"}, {"count": 0}, {"seed": -1}, {"width": 4}])
def test_wrong_configurations_are_refused(change):
    with pytest.raises(ConfigError):
        DatasetConfig(**{"split": "test", "count": 1, **change})


def test_two_processes_by_the_command(tmp_path):
    arguments = [
        "dataset",
        "tabletop",
        "--split",
        "val",
        "--count",
        "2",
        "--out",
        str(tmp_path / "d"),
        "--workers",
        "2",
    ]
    assert main([*arguments, "--size", "80x60"]) == 0
    assert len(list(TabletopDataset(tmp_path / "d").frames())) == 2


def test_an_unknown_split_is_exit_code_2(tmp_path, capsys):
    assert main(["dataset", "tabletop", "--split", "tset", "--count", "1", "--out", str(tmp_path / "d")]) == 2
    assert "test" in capsys.readouterr().err
