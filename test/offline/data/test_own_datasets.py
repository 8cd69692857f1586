"""Data sets of one's own, by a YAML file: all three kinds, and what is wrong, named before hours are spent."""

import json
import os
import pickle
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from ovseg_ros.core.errors import ConfigError, DatasetError, OvsegError
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb
from ovseg_ros.offline.data.instances import InstancesFiles
from ovseg_ros.offline.data.open import dataset_info, open_dataset, shipped_datasets
from ovseg_ros.offline.data.panoptic import PanopticFiles
from ovseg_ros.offline.data.semantic import CategorySegments, SemanticFiles
from ovseg_ros.offline.data.types import IGNORE, PanopticSample

SIZE = (6, 8)
SEMANTIC = {
    "kind": "semantic",
    "train": {"images": "train/images", "masks": "train/masks"},
    "classes": {1: "sky", 4: {"name": "car", "synonyms": ["automobile"]}},
    "ignore": [9],
}
PANOPTIC = {"kind": "panoptic", "train": {"images": "i", "masks": "m", "annotations": "a.json"}}
INSTANCES = {"kind": "instances", "train": {"images": "i", "annotations": "a.json"}}
CARS = np.array([[1] * 8, [1, 4, 1, 1, 4, 4, 1, 9], [4, 1, 1, 1, 1, 1, 1, 9]] + [[1] * 8] * 3, np.uint8)
"""Two cars, of which one touches itself only at a corner, below the sky."""


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def describe(folder: Path, /, form: Mapping[str, Any], **changes: Any) -> str:
    """Writes the data set's file, without the keys that change to None; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own.yaml"
    values = {key: value for key, value in {**form, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return str(path)


def semantic(folder: Path, /, labels: np.ndarray = CARS, count: int = 1, **changes: Any) -> str:
    for number in range(count):
        save(folder / f"train/images/{number}.jpg", np.zeros((*SIZE, 3), np.uint8))
        save(folder / f"train/masks/{number}.png", labels)
    return describe(folder, SEMANTIC, **changes)


def panoptic(folder: Path, edit: Callable[[dict[str, Any]], object] = dict, **changes: Any) -> str:
    """Segment 7 is road, 70000 a crack; the table is not in the order of its ids."""
    ids = np.full(SIZE, 7)
    ids[:2] = 70000
    save(folder / "i/x.png", np.zeros((*SIZE, 3), np.uint8))
    save(folder / "m/x.png", ids_to_rgb(ids))
    segments = [{"id": 7, "category_id": 5, "area": 32}, {"id": 70000, "category_id": 2, "area": 16}]
    index = {
        "images": [{"id": 77, "file_name": "x.png", "width": SIZE[1], "height": SIZE[0]}],
        "annotations": [{"image_id": 77, "file_name": "x.png", "segments_info": segments}],
        "categories": [
            {"id": 5, "name": "road", "isthing": 0, "supercategory": "ground", "color": [1, 2, 3]},
            {"id": 2, "name": "crack", "isthing": 1, "synonyms": ["fissure"]},
        ],
    }
    edit(index)
    (folder / "a.json").write_text(json.dumps(index))
    return describe(folder, PANOPTIC, **changes)


def rle(mask: np.ndarray, *, text: bool) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if text:
        return {"size": list(SIZE), "counts": code["counts"].decode()}
    flat = mask.flatten(order="F").astype(int)
    bounds = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *bounds, flat.size]).tolist()
    return {"size": list(SIZE), "counts": [0, *counts] if flat[0] else counts}


def instances(folder: Path, edit: Callable[[dict[str, Any]], object] = dict, **changes: Any) -> str:
    """A small bolt lies on a large nut, both on a crowd of nuts; ids as large as COCO's."""
    save(folder / "i/x.png", np.zeros((*SIZE, 3), np.uint8))
    crowd = np.ones(SIZE, bool)
    crowd[:, 6:] = False
    annotations = [
        {"id": 900100000005, "category_id": 3, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]], "bbox": [1, 1, 2, 2]},
        {"id": 2, "category_id": 1, "segmentation": rle(np.tri(*SIZE, k=2).astype(bool), text=True), "iscrowd": 0},
        {"id": 3, "category_id": 1, "segmentation": rle(crowd, text=False), "iscrowd": 1},
    ]
    index = {
        "images": [{"id": 5, "file_name": "x.png", "width": SIZE[1], "height": SIZE[0]}],
        "annotations": [{"image_id": 5, **annotation} for annotation in annotations],
        "categories": [{"id": 1, "name": "nut"}, {"id": 3, "name": "bolt"}],
    }
    edit(index)
    (folder / "a.json").write_text(json.dumps(index))
    return describe(folder, INSTANCES, **changes)


def names_of(sample: PanopticSample, dataset: Any) -> list[str]:
    return [dataset.categories[segment.category].name for segment in sample.segments]


# What is read


def test_each_class_of_a_semantic_set_is_one_segment(tmp_path: Path) -> None:
    dataset = open_dataset(semantic(tmp_path), None, "train")
    assert isinstance(dataset, CategorySegments) and dataset.name == str(tmp_path / "own.yaml")
    assert [(c.dataset_id, c.name, c.synonyms, c.is_thing) for c in dataset.categories] == [
        (1, "sky", (), False),
        (4, "car", ("automobile",), False),
    ]
    (sample,) = dataset
    assert names_of(sample, dataset) == ["sky", "car"]
    assert [segment.area for segment in sample.segments] == [42, 4]
    np.testing.assert_array_equal(sample.segment_ids == 0, CARS == 9)


def test_areas_of_things_that_do_not_touch_are_instances(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"segments": "components", "classes": {1: "sky", 4: {"name": "car", "is_thing": True}}}
    path = semantic(tmp_path, **changes)
    (sample,) = dataset = open_dataset(path, None, "train")
    assert names_of(sample, dataset) == ["sky", "car", "car"]
    assert [(segment.area, segment.is_thing) for segment in sample.segments] == [(42, False), (2, True), (2, True)]
    left = sample.segment_ids[1, 1]
    assert left == sample.segment_ids[2, 0] != sample.segment_ids[1, 4] != 0
    # Named instead, with the sky; small ones are void.
    path = semantic(tmp_path, segments="components", things=["Car", "sky"], smallest_area=3)
    (sample,) = dataset = open_dataset(path, None, "train")
    assert names_of(sample, dataset) == ["sky"] and sample.segments[0].is_thing
    np.testing.assert_array_equal(sample.segment_ids == 0, CARS != 1)


@pytest.mark.parametrize("depth", ["8", "palette", "16", "1"])
def test_label_maps_of_any_depth(tmp_path: Path, depth: str) -> None:
    labels = {"8": CARS, "palette": CARS, "16": CARS.astype(np.uint16) * 250, "1": CARS == 4}[depth]
    classes: Any = {int(value): f"class {value}" for value in np.unique(labels)}
    path = semantic(tmp_path, labels, classes=classes, ignore=None, segments="none")
    if depth == "palette":
        picture = Image.fromarray(labels)
        picture.putpalette([7] * 768)
        picture.save(tmp_path / "train/masks/0.png")
    (sample,) = dataset = open_dataset(path, None, "train")
    assert isinstance(dataset, SemanticFiles)
    np.testing.assert_array_equal(sample.labels, np.searchsorted(np.unique(labels), labels))


def test_a_thousand_classes_and_one(tmp_path: Path) -> None:
    labels = np.arange(48, dtype=np.uint16).reshape(SIZE) * 21
    (sample,) = dataset = open_dataset(
        semantic(tmp_path, labels, classes=[f"part {i}" for i in range(1000)], ignore=None), None, "train"
    )
    assert len(dataset.vocabulary().categories) == 1000 and len(sample.segments) == 48
    (sample,) = open_dataset(semantic(tmp_path, CARS * 0, classes=["all"], ignore=None), None, "train")
    assert [segment.area for segment in sample.segments] == [48]


def test_classes_from_files(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("sky\ncar\n")
    (tmp_path / "numbers.yaml").write_text("{7: sky, 3: {name: car, synonyms: [auto]}}")
    (tmp_path / "coco.json").write_text(json.dumps({"categories": [{"id": 9, "name": "sky", "isthing": 0}]}))
    found = {
        source: [(c.dataset_id, c.name) for c in dataset_info(describe(tmp_path, SEMANTIC, **changes)).categories()]
        for source, changes in {
            "text": {"classes": "names.txt"},
            "mapping": {"classes": "numbers.yaml"},
            "coco": {"classes": "coco.json", "ignore": None},
            "other ids": {"classes": "names.txt", "ids": "4-5"},
            "bundled": {"classes": "cityscapes", "ids": "0-7, 10-20"},
            "as Ultralytics": {"classes": None, "names": {0: "sky"}},
        }.items()
    }
    assert found.pop("bundled")[8] == (10, "vegetation")
    assert found == {
        "text": [(0, "sky"), (1, "car")],
        "mapping": [(7, "sky"), (3, "car")],
        "coco": [(9, "sky")],
        "other ids": [(4, "sky"), (5, "car")],
        "as Ultralytics": [(0, "sky")],
    }


def test_panoptic_categories_come_from_the_annotations_in_the_order_of_their_ids(tmp_path: Path) -> None:
    dataset = open_dataset(panoptic(tmp_path), None, "train")
    assert isinstance(dataset, PanopticFiles) and dataset.index.image_ids == [77]
    assert [(c.dataset_id, c.name, c.synonyms, c.is_thing) for c in dataset.categories] == [
        (2, "crack", ("fissure",), True),
        (5, "road", (), False),
    ]
    (sample,) = pickle.loads(pickle.dumps(dataset))
    assert names_of(sample, dataset) == ["road", "crack"]
    (sample,) = dataset = open_dataset(panoptic(tmp_path, ignore=2), None, "train")
    assert [c.name for c in dataset.categories] == names_of(sample, dataset) == ["road"]
    assert int((sample.segment_ids == 0).sum()) == 16


def test_instances_lie_above_each_other_the_smallest_on_top(tmp_path: Path) -> None:
    dataset = open_dataset(instances(tmp_path), None, "train")
    assert isinstance(dataset, InstancesFiles) and dataset.index.image_ids == [5]
    assert all(category.is_thing for category in dataset.categories)
    (sample,) = pickle.loads(pickle.dumps(dataset))
    nut = np.tri(*SIZE, k=2).astype(bool)
    expected = np.where(nut, 2, 3)
    expected[:, 6:] = np.where(nut[:, 6:], 2, 0)
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(sample.segment_ids, expected)
    assert names_of(sample, dataset) == ["bolt", "nut", "nut"]
    assert [(s.id, s.is_crowd, s.area, s.declared_area) for s in sample.segments] == [
        (number, number == 3, area, area) for number, area in enumerate(np.bincount(expected.ravel())[1:].tolist(), 1)
    ]
    # Left out by its id; an image without annotations has nothing.
    (sample,) = open_dataset(instances(tmp_path, ignore=[1]), None, "train")
    assert np.unique(sample.segment_ids).tolist() == [0, 1]
    (sample,) = open_dataset(instances(tmp_path, lambda c: c["annotations"].clear()), None, "train")
    assert sample.is_void


def test_paths_start_at_the_file_and_root_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    semantic(tmp_path / "data")
    path = describe(tmp_path / "about", SEMANTIC, path="../data", test={"images": "train/images", "masks": "none"})
    monkeypatch.chdir(tmp_path / "about")
    for name in (path, "own.yaml", os.path.relpath(path, tmp_path / "about")):
        dataset = open_dataset(name, None, "train")
        assert (len(dataset), dataset.name, dataset[0].image.shape) == (1, name, (*SIZE, 3))
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("about/own.yaml", None, "train")) == 1
    semantic(tmp_path / "more", count=3)
    assert len(open_dataset(path, tmp_path / "more", "train")) == 3
    with pytest.raises(DatasetError, match="the folder .*data/none is missing"):
        open_dataset(path, None, "test")
    assert (
        dataset_info(path).digest
        == dataset_info(describe(tmp_path, SEMANTIC, test={"images": "train/images", "masks": "none"})).digest
        != dataset_info(describe(tmp_path, SEMANTIC)).digest
    )


def test_what_does_not_pair_is_told_when_the_set_is_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = semantic(tmp_path, count=3)
    (tmp_path / "train/masks/1.png").unlink()
    (tmp_path / "train/images/2.jpg").rename(tmp_path / "train/images/3.jpg")
    assert len(open_dataset(path, None, "train")) == 4
    told = [record.message.partition(f" in {tmp_path} ")[::2] for record in caplog.records]
    assert told == [("1 of 4 samples", "have no image: 2"), ("2 of 4 samples", "have no mask: 1, 3")]


def test_names_may_end_otherwise(tmp_path: Path) -> None:
    save(tmp_path / "all/a_rgb.png", np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "all/a_label.png", CARS)
    split = {"images": "all/*_rgb.png", "masks": ["labels/*.png", "all/*_label.png"]}
    (sample,) = open_dataset(describe(tmp_path, SEMANTIC, train=split), None, "train")
    assert sample.name == "a"


def test_an_umlaut_of_macos_is_the_same_name(tmp_path: Path) -> None:
    save(tmp_path / "train/images" / (unicodedata.normalize("NFC", "Tür") + ".png"), np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "train/masks" / (unicodedata.normalize("NFD", "Tür") + ".png"), CARS)
    (sample,) = open_dataset(describe(tmp_path, SEMANTIC), None, "train")
    assert sample.name == unicodedata.normalize("NFC", "Tür")


@pytest.mark.parametrize("folder", ["i/", "/data/upload/", "C:\\labels\\", "https://example.org/"])
def test_folders_in_an_index_that_are_elsewhere_are_told_with_what_to_write(tmp_path: Path, folder: str) -> None:
    for write in (panoptic, instances):

        def rename(content: dict[str, Any]) -> None:
            content["images"][0]["file_name"] = f"{folder}x.png"

        with pytest.raises(DatasetError, match="none of the 1 is in .*, but .*x.png is; write .*image_name: ") as told:
            open_dataset(write(tmp_path, rename), None, "train")
        advised = yaml.safe_load(re.search(r"image_name: ({.*?})", str(told.value))[1])  # type: ignore[index]
        dataset = open_dataset(write(tmp_path, rename, image_name=advised), None, "train")
        assert not dataset[0].is_void and dataset.own_names(0).truth == "x.png"


def test_the_shipped_files_are_of_the_same_form() -> None:
    for name in shipped_datasets():
        info = dataset_info(name)
        assert not info.is_own and info.form.folder
        assert {split.published > 0 for split in info.splits.values()} == {name != "tabletop"}
        assert bool(info.categories()) == (name != "coco_instances")


# What is wrong


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": None}, r"own.yaml: missing kind; write kind: semantic \(label maps\), panoptic"),
        ({"kind": "yolo"}, "unknown kind 'yolo'; write kind: semantic"),
        ({"train": None}, "has no split; add train, val or test, such as train: {images"),
        ({"train": "images/train"}, "train is 'images/train'; say where images and labels are, such as train: .images"),
        ({"train": {"images": "i"}}, "train: missing masks"),
        ({"train": {"images": 3, "masks": "m"}}, "train.images: expected a list, got 3"),
        ({"valid": {"images": "i", "masks": "m"}}, "unknown key 'valid'; write val"),
        ({"nc": 2}, "unknown key 'nc'; leave it out"),
        ({"ignore_classes": [9]}, "unknown key 'ignore_classes'; write ignore"),
        ({"segment": "none"}, "unknown key 'segment'; did you mean 'segments'"),
        ({"segments": "parts"}, "unknown segments 'parts'; expected one of stuff, components, none"),
        ({"classes": None}, "missing classes; say which number means what, such as classes: {0: sky"),
        ({"classes": {-1: "sky"}}, "classes has the key '-1', which is no whole number from 0; write number: name"),
        ({"classes": {}}, "classes has no categories; add at least one name"),
        ({"classes": []}, "classes has no categories"),
        ({"classes": 7}, "classes is 7 .int.; expected numbers with names"),
        ({"classes": {"sky": 3}}, "has the key 'sky', which is no whole number from 0; write number: name, such as 3"),
        ({"classes": {1: "sky", 2: "Sky"}}, "classes: 1 and 2 are both called 'Sky'; rename one"),
        ({"classes": {1: "sky", 2: {"name": "heaven", "synonyms": ["sky"]}}}, "1 and 2 are both called 'sky'"),
        ({"classes": {1: {"title": "sky"}}}, "classes: 1 has the unknown key 'title'"),
        ({"classes": {1: 5}}, "classes: 1 is 5 .int.; expected a name"),
        ({"classes": "nowhere.txt"}, "classes is 'nowhere.txt', neither a file beside it nor one of ade20k"),
        ({"classes": {70000: "sky"}}, "the number 70000 does not fit into a map; expected 0 to 65535"),
        ({"classes": {300: "sky"}, "bits": 8}, "the number 300 does not fit into a map; expected 0 to 255"),
        ({"ignore": [4]}, "4 is a class and under ignore"),
        ({"ignore": "7-3"}, "ignore: '7-3' is no number nor range"),
        ({"ids": "1-3"}, "there are 2 classes and 3 ids"),
        ({"ids": [3, 3]}, "ids have 3 twice"),
        ({"things": ["car"]}, "'car' is a thing, but without instances every class is one segment; write"),
        ({"classes": {4: {"name": "car", "is_thing": True}}}, "'car' is a thing, but without instances"),
        ({"segments": "components"}, "components needs things"),
        ({"segments": "components", "things": ["bus"]}, "things: 'bus' is no class"),
        ({"path": "x", "folder": "y"}, "has path and folder; keep path"),
        ({"path": "nowhere"}, "nowhere of .*own.yaml is missing; correct path in .*own.yaml, or give --root"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(OvsegError, match=reason):
        open_dataset(semantic(tmp_path, **changes), None, "train")


def test_other_refusals(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("kind: semantic\nclasses: {1: sky, 1: car}\n")
    with pytest.raises(ConfigError, match="twice.yaml, line 2, column 19 is not valid YAML: key '1' appears twice"):
        dataset_info(str(tmp_path / "twice.yaml"))
    (tmp_path / "null.yaml").write_text("kind: semantic\ntrain: {images: i, masks: m}\nclasses:\n")
    with pytest.raises(ConfigError, match="null.yaml: missing classes"):
        dataset_info(str(tmp_path / "null.yaml")).categories()
    with pytest.raises(ConfigError, match="there is no data set '.*none.yaml'"):
        dataset_info(str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="has no split 'val'; expected train"):
        open_dataset(semantic(tmp_path), None)
    with pytest.raises(ConfigError, match="image_name: .*missing \\)"):
        dataset_info(describe(tmp_path, PANOPTIC, image_name={"pattern": "(", "to": ""}))
    with pytest.raises(ConfigError, match="classes: 5 does not say is_thing; add it, or leave classes out"):
        open_dataset(panoptic(tmp_path, classes={5: "road"}), None, "train")
    with pytest.raises(DatasetError, match="a.json: all its categories are under ignore; take those out"):
        open_dataset(panoptic(tmp_path, ignore=[2, 5]), None, "train")
    with pytest.raises(ConfigError, match="ids are those of classes, which are missing"):
        open_dataset(panoptic(tmp_path, ids=[5]), None, "train")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: save(f / "train/masks/0.png", CARS + 3), r"2 of its .* unknown: 7 \(4 pixels\), 12 .*classes or"),
        (lambda f: save(f / "train/masks/0.png", CARS[:, :5]), "is 5x6 .width x height.; expected 8x6"),
        (lambda f: save(f / "train/masks/0.png", np.zeros((*SIZE, 3), np.uint8)), "is 8-bit RGB; expected 8- or 16"),
        (lambda f: (f / "train/masks/0.png").rename(f / "train/masks/0_m.png"), "none of 1 images and 1 masks pair"),
        (lambda f: save(f / "train/images/0.png", CARS), "0.jpg and .*0.png have one name; keep one of them, or say"),
        (lambda f: (f / "train/images/0.jpg").rename(f / "0.jpg"), "train/images has no [*]|none of 0 images"),
    ],
)  # fmt: skip
def test_faults_of_semantic_files(tmp_path: Path, spoil: Callable[[Path], object], reason: str) -> None:
    path = semantic(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DatasetError, match=reason):
        open_dataset(path, None, "train")[0]


def category(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["categories"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (category(id=2), "two categories have the id 2; give each one of its own"),
        (category(name="Crack"), "2 and 5 are both called 'Crack'; rename one of them, or ignore its id"),
        (category(name=""), "category 5: name '' is empty"),
        (category(isthing=7), r"category 5 \(road\) has the isthing 7; expected 1 for a thing"),
        (category(isthing=None), r"category 5 \(road\) has the isthing None"),
        (lambda c: [entry.pop("isthing") for entry in c["categories"]], "have no isthing; add it to each"),
        (lambda c: c["categories"].clear(), "has no categories; add them"),
        (lambda c: c["categories"].append({"id": 3}), "the category {'id': 3} has no id or no name"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "two annotations have the image_id 77; take one out"),
        (lambda c: c["images"].append({**c["images"][0], "id": 3}), "two images have the name 'x'"),
        (lambda c: c["images"].append({**c["images"][0], "file_name": "y.png"}), "two images have the id 77"),
    ],
)
def test_faults_of_a_panoptic_index(tmp_path: Path, edit: Callable[[dict[str, Any]], object], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        open_dataset(panoptic(tmp_path, edit), None, "train")


def first(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["annotations"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c.pop("images"), "has no list 'images'; expected COCO's instances format"),
        (first(segments_info=[]), "is a panoptic file; write kind: panoptic"),
        (lambda c: [a.pop("segmentation") for a in c["annotations"]], "has no annotation with a segmentation"),
        (first(image_id=6), "1 annotations belong to no image, the first with image_id 6"),
        (first(id=2), "two annotations have the id 2"),
        (first(category_id=2), "x.png: annotation 900100000005 has the unknown category_id 2"),
        (first(segmentation=[]), r"annotation 900100000005: its segmentation is \[\]; expected polygons"),
        (first(segmentation=[[1, 1, 3, 3]]), "has 4 numbers; expected x, y of 3 or more points"),
        (first(segmentation=[[1, 1, 3, 3, 2]]), "has 5 numbers"),
        (first(segmentation=[[1, 1, 3, "3", 2, 1]]), "is no list of numbers"),
        (first(segmentation=[[1, 1, 3, 3, 2, float("nan")]]), "is no list of numbers"),
        (first(segmentation=[[9, 1, 12, 1, 9, 3]]), r"is outside the image of 8x6 .*: x is 9 to 12"),
        (first(segmentation=[[1, 1, 3, 1, 1e9, 3]]), r"is outside the image of 8x6 .*: x is 1 to 1e\+09"),
        (first(segmentation={"counts": [40, 9], "size": [6, 8]}), r"\[40, 9\] are not those of 6 x 8 pixels"),
        (first(segmentation={"counts": "n0", "size": [6, 8]}), "are not those of 6 x 8"),
        (first(segmentation={"counts": "1\x7f", "size": [6, 8]}), "none of its run lengths"),
        (first(segmentation={"counts": "Z", "size": [6, 8]}), "end early"),
        (first(segmentation={"counts": [48], "size": [8, 6]}), r"are of size \[8, 6\]; expected \[6, 8\]"),
        (first(segmentation={"size": [6, 8]}), "it has no 'counts'"),
        (lambda c: c["images"][0].update(height=7), "of size .6, 8.; expected .7, 8."),
        (lambda c: c["images"][0].pop("height"), "x.png: it has no 'height'"),
    ],
)
def test_faults_of_an_instances_index(tmp_path: Path, edit: Callable[[dict[str, Any]], object], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        open_dataset(instances(tmp_path, edit), None, "train")[0]


def test_run_lengths_are_read_as_pycocotools_writes_them(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((20, *SIZE)) < np.linspace(0, 1, 20)[:, None, None]
    for mask in masks:
        for text in (False, True):
            alone = {"image_id": 5, "category_id": 1, "segmentation": rle(mask, text=text)}
            path = instances(tmp_path, lambda content, alone=alone: content.update(annotations=[alone]))  # type: ignore[misc]
            np.testing.assert_array_equal(open_dataset(path, None, "train")[0].segment_ids == 1, mask)


def test_ignored_values_are_void(tmp_path: Path) -> None:
    (sample,) = open_dataset(semantic(tmp_path, segments="none"), None, "train")
    np.testing.assert_array_equal(sample.labels == IGNORE, CARS == 9)
