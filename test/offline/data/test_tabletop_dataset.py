"""The tabletop as a data set: rendered, written, stopped, resumed and read back."""

import json

import cv2
import numpy as np
import pytest

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data import tabletop_dataset
from ovseg_ros.offline.data.open import open_dataset
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, RenderedTabletop, write_dataset
from ovseg_ros.sim.categories import SEEN
from ovseg_ros.sim.simulator import TabletopSimulator

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
    read, rendered = open_dataset("tabletop", written), RenderedTabletop(CONFIG)
    assert len(read) == len(rendered) == 2 and read.split == rendered.split == "test"
    assert read.scenes == rendered.scenes == {"seed": 5, "width": 80, "height": 60}
    assert read.categories == rendered.categories
    for mine, other in zip(read, rendered, strict=True):
        np.testing.assert_array_equal(mine.image, other.image)
        np.testing.assert_array_equal(mine.segment_ids, other.segment_ids)
        assert mine.segment_ids.dtype == other.segment_ids.dtype == np.int32
        assert (mine.segments, mine.name) == (other.segments, other.name) and len(mine.segments) > 2
    with pytest.raises(IndexError, match="there is no image 2"):
        rendered[2]


def test_depth_and_camera_are_the_simulators(written):
    entries = json.loads((written / "panoptic.json").read_text())["images"]
    for number, entry in enumerate(entries):
        with TabletopSimulator(CONFIG.seed + number, width=80, height=60) as simulator:
            frame = simulator.render()
        depth = cv2.imread(str(written / "depth" / entry["depth_file_name"]), cv2.IMREAD_UNCHANGED)
        near = frame.depth < 65
        assert depth.dtype == np.uint16 and near.any() and not depth[~near].any()
        assert np.abs(depth / 1000 - frame.depth)[near].max() <= 0.0006
        np.testing.assert_allclose(entry["camera_matrix"], frame.camera_matrix)
        assert entry["scene_seed"] == CONFIG.seed + number


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
    with pytest.raises(DatasetError, match=r"panoptic\.json is missing"):
        open_dataset("tabletop", copied)
    rendered = []
    original = tabletop_dataset._render
    monkeypatch.setattr(tabletop_dataset, "_render", lambda c, n: rendered.append(n) or original(c, n))
    write_dataset(CONFIG, copied, workers=1)
    assert rendered == [1]
    assert len(list(open_dataset("tabletop", copied))) == 2


def test_a_folder_of_another_configuration_is_refused(copied):
    with pytest.raises(ConfigError, match="choose another --out"):
        write_dataset(DatasetConfig("test", count=2, seed=6, width=80, height=60), copied, workers=1)


def test_a_damaged_record_is_named(copied):
    (copied / "records" / "000001.json").write_text("{")
    with pytest.raises(DatasetError, match=r"000001\.json cannot be read"):
        write_dataset(CONFIG, copied, workers=1)


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
    assert len(list(open_dataset("tabletop", tmp_path / "d", "val"))) == 2


def test_an_unknown_split_is_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:  # as for every wrong command line
        main(["dataset", "tabletop", "--split", "tset", "--count", "1", "--out", str(tmp_path / "d")])
    assert ended.value.code == 2
    assert "'tset' (choose from 'train'" in capsys.readouterr().err
