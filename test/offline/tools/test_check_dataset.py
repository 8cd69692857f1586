"""`ovseg check-dataset`: every fault named by file, everything counted, exit codes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, write_dataset
from ovseg_ros.offline.tools.check_dataset import check_split

ROAD, CAR = 7, 26  # label ids of Cityscapes, whose table of categories is the shortest
SIZE = (4, 6)


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_cityscapes(root: Path, count: int) -> None:
    """Semantic label maps: road above, car below."""
    labels = np.full(SIZE, ROAD, np.uint8)
    labels[2:] = CAR
    for number in range(count):
        write_image(root / f"leftImg8bit/val/a/a_{number}_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
        write_image(root / f"gtFine/val/a/a_{number}_gtFine_labelIds.png", labels)


def write_tabletop(root: Path, count: int) -> None:
    """Panoptic: segment 1 is a red cube, segment 2 the table; void between them."""
    categories = dataset_info("tabletop").categories()
    ids = np.zeros((*SIZE, 3), np.uint8)
    ids[0, :, 0], ids[3, :, 0] = 1, 2
    images, annotations = [], []
    for number in range(count):
        name = f"{number:06d}.png"
        write_image(root / "images" / name, np.zeros((*SIZE, 3), np.uint8))
        write_image(root / "panoptic" / name, ids)
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        segments = [{"id": 1, "category_id": 1, "area": 6}, {"id": 2, "category_id": 97, "area": 6, "iscrowd": 1}]
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    table = [{"id": c.dataset_id, "name": c.name, "isthing": int(c.is_thing)} for c in categories]
    index = {"info": {"split": "test"}, "images": images, "annotations": annotations, "categories": table}
    (root / "panoptic.json").write_text(json.dumps(index))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["check-dataset", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def report_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["splits"][0]


def test_a_faultless_panoptic_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tabletop(tmp_path, 3)
    code, out, err = run(capsys, "tabletop", "--root", str(tmp_path), "--json", str(tmp_path / "out.json"))
    assert code == 0
    assert "3 images, 0 with faults" in out
    assert "tabletop test" in err  # the progress bar, with the split that the folder holds
    report = report_of(tmp_path / "out.json")
    assert report["faultless"]
    assert (report["images"], report["segments"], report["crowd_segments"]) == (3, 6, 3)
    assert {name: n for name, n in report["images_of_category"].items() if n} == {"red cube": 3, "table": 3}


def test_every_fault_is_named_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cityscapes(tmp_path, 8)
    images, labels = tmp_path / "leftImg8bit/val/a", tmp_path / "gtFine/val/a"
    (images / "a_0_leftImg8bit.png").unlink()
    (labels / "a_1_gtFine_labelIds.png").unlink()
    (images / "a_2_leftImg8bit.png").write_bytes((images / "a_3_leftImg8bit.png").read_bytes()[:45])
    write_image(labels / "a_3_gtFine_labelIds.png", np.zeros((4, 5), np.uint8))
    write_image(labels / "a_4_gtFine_labelIds.png", np.full(SIZE, 200, np.uint8))
    write_image(labels / "a_5_gtFine_labelIds.png", np.full(SIZE, 7, np.uint16))
    write_image(labels / "a_6_gtFine_labelIds.png", np.zeros(SIZE, np.uint8))
    json_path = tmp_path / "out.json"
    code, out, _ = run(
        capsys, "cityscapes_semantic", "--root", str(tmp_path), "--json", str(json_path), "--workers", "1"
    )
    assert code == 1
    assert "8 images, 6 with faults" in out
    report = report_of(json_path)
    faults = {entry["name"]: entry["faults"] for entry in report["faults"]}
    reasons = {
        "a/a_0": "a_0_leftImg8bit.png is missing",
        "a/a_1": "a_1_gtFine_labelIds.png is missing",
        "a/a_2": "a_2_leftImg8bit.png cannot be decoded",
        "a/a_3": "is 5x4 (width x height); expected 6x4",
        "a/a_4": "unknown: 200 (24 pixels)",
        "a/a_5": "is 16-bit grey; expected 8-bit",
    }
    assert list(faults) == list(reasons)
    for name, reason in reasons.items():
        assert len(faults[name]) == 1
        assert reason in faults[name][0]
        assert reason in out
    assert report["void"] == ["a/a_6"]
    assert report["images_of_category"]["car"] == 1


def test_both_files_of_an_image_are_reported(tmp_path: Path) -> None:
    write_tabletop(tmp_path, 1)
    (tmp_path / "images/000000.png").write_bytes(b"no image")
    (tmp_path / "panoptic/000000.png").write_bytes(b"no annotation")
    (faults,) = check_split("tabletop", tmp_path, "test").faults.values()
    assert len(faults) == 2
    assert "panoptic/000000.png cannot be decoded" in faults[0]
    assert "images/000000.png" in faults[1]


def test_coco_stuff_as_downloaded_and_as_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.full(SIZE, 255, np.uint8)
    values[0], values[1] = 89, 181  # a toothbrush, and wood
    for number in range(2):
        write_image(tmp_path / f"val2017/{number}.jpg", np.zeros((*SIZE, 3), np.uint8))
        write_image(tmp_path / f"stuffthingmaps/val2017/{number}.png", values)
    code, out, _ = run(capsys, "coco_stuff_download", "--root", str(tmp_path))
    assert code == 0 and "2 images, 0 with faults" in out and "5000 images are in the published split" in out
    report = check_split("coco_stuff_download", tmp_path, "val", workers=1)
    assert {name: n for name, n in report.images_of_category.items() if n} == {"toothbrush": 2, "wood": 2}
    code, out, _ = run(capsys, "coco_stuff", "--root", str(tmp_path), "--split", "val")
    assert code == 1
    assert "missing: stuffthingmaps_detectron2/val2017/*.png, or annotations_detectron2/val2017/*.png\n" in out
    # The download under the other's name is found out by its values.
    (tmp_path / "stuffthingmaps").rename(tmp_path / "stuffthingmaps_detectron2")
    code, out, _ = run(capsys, "coco_stuff", "--root", str(tmp_path), "--split", "val")
    assert code == 1 and "2 images, 2 with faults" in out and "unknown: 181 (6 pixels)" in out


def test_counts_that_are_no_faults(tmp_path: Path) -> None:
    write_tabletop(tmp_path, 2)
    write_image(tmp_path / "images/stray.png", np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "images/notes.txt").write_text("not an image")
    only_table = np.zeros((*SIZE, 3), np.uint8)
    only_table[..., 0] = 2
    write_image(tmp_path / "panoptic/000001.png", only_table)
    report = check_split("tabletop", tmp_path, "test")
    assert report.is_faultless
    assert report.unlisted == [str(tmp_path / "images/stray.png")]
    assert (report.counts["empty_segments"], report.counts["segments_with_another_area"]) == (1, 2)


@pytest.mark.parametrize("missing", ["images", "panoptic", "panoptic.json"])
def test_missing_parts_show_the_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str) -> None:
    write_tabletop(tmp_path, 1)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    code, out, _ = run(capsys, "tabletop", "--root", str(tmp_path), "--split", "test")
    assert code == 1
    assert f"missing: {missing}" in out
    assert "expected in that folder:\n    panoptic.json\n    panoptic/*.png\n    images/*.png\n" in out


def test_a_table_of_categories_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tabletop(tmp_path, 1)
    index = json.loads((tmp_path / "panoptic.json").read_text())
    index["categories"][0]["name"], index["categories"][1]["isthing"] = "red dice", 0
    (tmp_path / "panoptic.json").write_text(json.dumps(index))
    code, out, _ = run(capsys, "tabletop", "--root", str(tmp_path))
    assert code == 1
    assert "category 1 (red cube) is called 'red dice'; category 2 (orange cube) is stuff" in out


def test_splits_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cityscapes(tmp_path, 1)
    code, out, _ = run(capsys, "cityscapes_semantic", "--root", str(tmp_path))
    assert code == 0
    assert "cityscapes_semantic train" in out
    assert "not checked" in out
    assert "500 images are in the published split" in out
    # Asked for by name, or with nothing there at all, it is a fault.
    assert run(capsys, "cityscapes_semantic", "--root", str(tmp_path), "--split", "train")[0] == 1
    (tmp_path / "empty").mkdir()
    code, out, _ = run(capsys, "cityscapes_semantic", "--root", str(tmp_path / "empty"))
    assert code == 1
    assert out.count("cannot be used") == 2


def test_wrong_command_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OVSEG_DATASETS", raising=False)
    code, _, err = run(capsys, "citiscapes_semantic", "--root", str(tmp_path))
    assert code == 2
    assert err.startswith(
        "ovseg: error: there is no data set 'citiscapes_semantic' (did you mean 'cityscapes_semantic'?)"
    )
    assert run(capsys, "coco_panoptic", "--root", str(tmp_path), "--split", "test")[0] == 2
    code, _, err = run(capsys, "coco_panoptic")
    assert code == 2
    assert "set OVSEG_DATASETS" in err


def test_what_ovseg_dataset_writes_is_faultless(tmp_path: Path) -> None:
    write_dataset(DatasetConfig("val", 2, width=48, height=32), tmp_path, workers=1)
    report = check_split("tabletop", tmp_path, "val")
    assert report.is_faultless
    assert (report.images, report.unlisted) == (2, [])
    assert (report.counts["empty_segments"], report.counts["segments_with_another_area"]) == (0, 0)
    assert report.images_of_category["table"] == 2


def test_several_processes_report_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_ros.offline.tools.check_dataset._IMAGES_PER_PROCESS", 4)
    write_cityscapes(tmp_path, 12)
    (tmp_path / "leftImg8bit/val/a/a_3_leftImg8bit.png").unlink()
    alone = check_split("cityscapes_semantic", tmp_path, "val", workers=1)
    assert check_split("cityscapes_semantic", tmp_path, "val", workers=2) == alone
    assert list(alone.faults) == ["a/a_3"]


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name, problem in (("nowhere", "is missing"), ("file", "is a file")):
        code, out, err = run(capsys, "coco_panoptic", "--root", str(tmp_path / name))
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert f"the folder {tmp_path / name} of coco_panoptic {problem}; expected in it: " in err


OWN = """
kind: semantic
train: {images: train, masks: train_labels}
val: {images: val, masks: val_labels}
classes: {7: road, 26: car, 30: train}
ignore: 0
"""


def test_of_somebodys_own_set_classes_are_listed_and_shared_images_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.full(SIZE, ROAD, np.uint8)
    labels[1:, 2:] = CAR
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            write_image(tmp_path / f"{split}/{split}{number}.png", np.full((*SIZE, 3), number, np.uint8))
            write_image(tmp_path / f"{split}_labels/{split}{number}.png", labels)
    write_image(tmp_path / "train/left_over.png", np.full((*SIZE, 3), 9, np.uint8))
    (tmp_path / "own.yaml").write_text(OWN)
    code, out, _ = run(capsys, str(tmp_path / "own.yaml"), "--json", str(tmp_path / "out.json"))
    assert code == 1 and "train_labels/left_over.* is missing" in out
    assert "1 categories do not occur: train\n" in out
    assert "    7 road                       stuff       3         3  50.00%\n" in out
    assert "1 images of train are in val too, so that figures would be of images that were learned: train0\n" in out
    assert report_of(tmp_path / "out.json")["pixels_of_category"] == {"road": 36, "car": 36, "train": 0}


def test_splits_of_other_categories_are_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    form = "kind: instances\n"
    for split, name in (("train", "bolt"), ("val", "nut")):
        form += f"{split}: {{images: {split}, annotations: {split}.json}}\n"
        write_image(tmp_path / split / "a.png", np.full((*SIZE, 3), len(name), np.uint8))
        image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
        annotation = {"id": 1, "image_id": 1, "category_id": 4, "segmentation": [[0, 0, 3, 0, 3, 3]]}
        content = {"images": [image], "annotations": [annotation], "categories": [{"id": 4, "name": name}]}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    (tmp_path / "own.yaml").write_text(form)
    code, out, _ = run(capsys, str(tmp_path / "own.yaml"))
    assert code == 1 and out.count("1 images, 0 with faults") == 2 and "no image of this split" not in out
    assert "own.yaml: train and val differ in categories: 4 (bolt), 4 (nut); give both annotation files one list" in out
