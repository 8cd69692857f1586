"""Every published layout, written small by the test and read back; and what happens when files are bad."""

import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb
from ovseg_ros.offline.data.open import ROOT_VARIABLE, dataset_info, open_dataset, shipped_datasets
from ovseg_ros.offline.data.types import IGNORE, PanopticDataset, SemanticDataset

HEIGHT, WIDTH = 6, 8


def write_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), *, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def write_map(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def segment_map() -> np.ndarray:
    """Void in the last column; ids 7 and 70000 above and below."""
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[:2, :-1] = 7
    ids[2:, :-1] = 70000
    return ids


def table_of(name: str) -> list[dict[str, Any]]:
    return [
        {"id": category.dataset_id, "name": category.name, "isthing": int(category.is_thing)}
        for category in dataset_info(name).categories()
    ]


@cache
def tabletop_table() -> list[dict[str, Any]]:
    return table_of("tabletop")


def index_of(name: str, images: list[str], pngs: list[str], category_ids: tuple[int, int]) -> dict[str, Any]:
    """One image for each file name, each with `segment_map`; its second segment is a crowd."""
    return {
        "info": {"split": "val"},
        "categories": table_of(name),
        "images": [
            {"id": number, "file_name": file, "width": WIDTH, "height": HEIGHT} for number, file in enumerate(images)
        ],
        "annotations": [
            {
                "image_id": number,
                "file_name": png,
                "segments_info": [
                    {"id": 7, "category_id": category_ids[0], "iscrowd": 0, "area": 14},
                    {"id": 70000, "category_id": category_ids[1], "iscrowd": 1, "area": 28},
                ],
            }
            for number, png in enumerate(pngs)
        ],
    }


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_coco(root: Path, count: int = 1) -> Path:
    """Returns the index's path."""
    names = [f"{number:012d}" for number in range(count)]
    for name in names:
        write_image(root / "val2017" / f"{name}.jpg")
        write_map(root / "panoptic_val2017" / f"{name}.png", ids_to_rgb(segment_map()))
    index = index_of("coco_panoptic", [f"{n}.jpg" for n in names], [f"{n}.png" for n in names], (200, 1))
    write_json(root / "annotations" / "panoptic_val2017.json", index)
    return root / "annotations" / "panoptic_val2017.json"


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    write_json(path, content)


# Reading each layout


def assert_two_segments(dataset: PanopticDataset, categories: tuple[str, str]) -> None:
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample.image.shape == (HEIGHT, WIDTH, 3)
    assert sample.image.dtype == np.uint8
    assert sample.segment_ids.dtype == np.int32
    np.testing.assert_array_equal(sample.segment_ids, segment_map())
    assert [segment.id for segment in sample.segments] == [7, 70000]
    assert tuple(dataset.categories[segment.category].name for segment in sample.segments) == categories
    assert [segment.is_thing for segment in sample.segments] == [
        dataset.categories[segment.category].is_thing for segment in sample.segments
    ]
    assert [segment.is_crowd for segment in sample.segments] == [False, True]
    assert [segment.area for segment in sample.segments] == [14, 28]


def test_coco(tmp_path: Path) -> None:
    write_coco(tmp_path)
    dataset = open_dataset("coco_panoptic", tmp_path, "val")
    assert_two_segments(dataset, ("rug-merged", "person"))
    assert open_dataset("coco_panoptic", tmp_path).split == "val"
    assert dataset.name_of(0) == "000000000000"
    assert [c.dataset_id for c in dataset.categories][10:13] == [11, 13, 14]
    assert len(dataset.categories) == 133


def test_coco_pngs_as_the_download_unpacks_them(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "panoptic_val2017").rename(tmp_path / "annotations" / "panoptic_val2017")
    assert_two_segments(open_dataset("coco_panoptic", tmp_path, "val"), ("rug-merged", "person"))


def test_ade20k_panoptic(tmp_path: Path) -> None:
    write_image(tmp_path / "images/validation/ADE_val_00000001.jpg")
    write_map(tmp_path / "ade20k_panoptic_val/ADE_val_00000001.png", ids_to_rgb(segment_map()))
    index = index_of("ade20k_panoptic", ["ADE_val_00000001.jpg"], ["ADE_val_00000001.png"], (0, 12))
    index["categories"][6]["name"] = "road, route"  # as the preparation script writes them
    index["categories"][8]["name"] = "window "
    write_json(tmp_path / "ade20k_panoptic_val.json", index)
    assert_two_segments(open_dataset("ade20k_panoptic", tmp_path, "val"), ("wall", "person"))


@pytest.mark.parametrize("panoptic", ["panoptic", "v1.2/panoptic"])
def test_mapillary_vistas_and_its_unlabeled_category(tmp_path: Path, panoptic: str) -> None:
    write_image(tmp_path / "validation/images/a.jpg")
    ids = segment_map()
    ids[:, -1] = 9
    write_map(tmp_path / "validation" / panoptic / "a.png", ids_to_rgb(ids))
    index = index_of("mapillary_vistas", ["a.jpg"], ["a.png"], (1, 65))
    index["categories"].append({"id": 66, "name": "Unlabeled", "isthing": 0})
    index["annotations"][0]["segments_info"].append({"id": 9, "category_id": 66, "iscrowd": 0, "area": 6})
    write_json(tmp_path / "validation" / panoptic / "panoptic_2018.json", index)
    assert_two_segments(open_dataset("mapillary_vistas", tmp_path, "val"), ("Bird", "Ego Vehicle"))


def test_cityscapes_panoptic(tmp_path: Path) -> None:
    name = "badtown_000001_000019"
    write_image(tmp_path / f"leftImg8bit/val/badtown/{name}_leftImg8bit.png")
    write_map(tmp_path / f"gtFine/cityscapes_panoptic_val/{name}_gtFine_panoptic.png", ids_to_rgb(segment_map()))
    index = index_of(
        "cityscapes_panoptic", [f"{name}_gtFine_leftImg8bit.png"], [f"{name}_gtFine_panoptic.png"], (7, 24)
    )
    write_json(tmp_path / "gtFine/cityscapes_panoptic_val.json", index)
    assert_two_segments(open_dataset("cityscapes_panoptic", tmp_path, "val"), ("road", "person"))


def test_cityscapes_panoptic_with_train_ids_is_told_apart(tmp_path: Path) -> None:
    write_image(tmp_path / "leftImg8bit/val/a/a_leftImg8bit.png")
    index = index_of("cityscapes_panoptic", ["a_gtFine_leftImg8bit.png"], ["a_gtFine_panoptic.png"], (0, 11))
    for train_id, category in enumerate(index["categories"]):
        category["id"] = train_id
    write_json(tmp_path / "gtFine/cityscapes_panoptic_val.json", index)
    with pytest.raises(DatasetError, match="another table of categories"):
        open_dataset("cityscapes_panoptic", tmp_path, "val")


def test_tabletop(tmp_path: Path) -> None:
    write_image(tmp_path / "images/000000.png")
    write_map(tmp_path / "panoptic/000000.png", ids_to_rgb(segment_map()))
    write_json(tmp_path / "panoptic.json", index_of("tabletop", ["000000.png"], ["000000.png"], (97, 1)))
    assert_two_segments(open_dataset("tabletop", tmp_path, "val"), ("table", "red cube"))
    with pytest.raises(DatasetError, match="holds the split 'val'; expected 'train'"):
        open_dataset("tabletop", tmp_path, "train")
    assert open_dataset("tabletop", tmp_path).split == "val"
    change(tmp_path / "panoptic.json", lambda content: content["info"].pop("split"))
    with pytest.raises(DatasetError, match="holds the split None; expected 'train' or 'val' or 'test' or 'captions'"):
        open_dataset("tabletop", tmp_path)


SEMANTIC = {
    # name: image, label map, dtype, value -> category name or None
    "coco_stuff": (
        "val2017/a.jpg",
        "stuffthingmaps_detectron2/val2017/a.png",
        np.uint8,
        {255: None, 0: "person", 11: "stop sign", 79: "toothbrush", 80: "banner", 170: "wood"},
    ),
    "coco_stuff_download": (  # one less than the id in the published list, which has gaps
        "val2017/a.jpg",
        "stuffthingmaps/val2017/a.png",
        np.uint8,
        {255: None, 0: "person", 12: "stop sign", 89: "toothbrush", 91: "banner", 156: "sky-other", 181: "wood"},
    ),
    "ade20k_semantic": (
        "images/validation/a.jpg",
        "annotations/validation/a.png",
        np.uint8,
        {0: None, 1: "wall", 2: "building", 150: "flag"},
    ),
    "ade20k_full": (
        "images_detectron2/validation/a.jpg",
        "annotations_detectron2/validation/a.tif",
        np.uint16,
        {65535: None, 0: "wall", 846: "adding machine"},
    ),
    "pascal_context_59": (
        "images/validation/a.jpg",
        "annotations_ctx59/validation/a.png",
        np.uint8,
        {255: None, 0: "aeroplane", 58: "wood"},
    ),
    "pascal_context_459": (
        "images/validation/a.jpg",
        "annotations_ctx459/validation/a.tif",
        np.uint16,
        {65535: None, 0: "accordion", 458: "wool"},
    ),
    "cityscapes_semantic": (
        "leftImg8bit/val/b/b_1_2_leftImg8bit.png",
        "gtFine/val/b/b_1_2_gtFine_labelIds.png",
        np.uint8,
        {0: None, 9: None, 7: "road", 33: "bicycle", 29: None},
    ),
}


@pytest.mark.parametrize("name", SEMANTIC)
def test_semantic(tmp_path: Path, name: str) -> None:
    image, labels, dtype, meaning = SEMANTIC[name]
    write_image(tmp_path / image)
    values = np.resize(np.array(list(meaning), dtype), (HEIGHT, WIDTH))
    write_map(tmp_path / labels, values)
    dataset = open_dataset(name, tmp_path, "val")
    sample = dataset[0]
    index_of_name = {category.name: category.index for category in dataset.categories}
    expected = [[IGNORE if meaning[v] is None else index_of_name[meaning[v]] for v in row] for row in values.tolist()]
    np.testing.assert_array_equal(sample.labels, expected)
    assert sample.labels.dtype == np.int32
    assert not sample.is_void
    assert dataset.name_of(0) == sample.name == ("b/b_1_2" if name == "cityscapes_semantic" else "a")


@pytest.mark.parametrize(("name", "folder"), [("coco_stuff", "_detectron2"), ("coco_stuff_download", "")])
def test_coco_stuff_where_cat_seg_has_it(tmp_path: Path, name: str, folder: str) -> None:
    write_image(tmp_path / "images/val2017/a.jpg")
    write_map(tmp_path / f"annotations{folder}/val2017/a.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    (sample,) = open_dataset(name, tmp_path, "val")
    assert (sample.name, sample.labels.tolist()) == ("a", [[0] * WIDTH] * HEIGHT)


@pytest.mark.parametrize("unused", [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182])
def test_a_value_that_coco_stuff_does_not_use_is_a_fault(tmp_path: Path, unused: int) -> None:
    write_image(tmp_path / "val2017/a.jpg", (1, 2))
    write_map(tmp_path / "stuffthingmaps/val2017/a.png", np.array([[0, unused]], np.uint8))
    with pytest.raises(DatasetError, match=rf"1 of its labels are unknown: {unused} \(1 pixels\)"):
        open_dataset("coco_stuff_download", tmp_path, "val")[0]


def test_the_ids_of_coco_stuff_are_all_but_eleven() -> None:
    converted, downloaded = (dataset_info(name).categories() for name in ("coco_stuff", "coco_stuff_download"))
    assert [c.dataset_id for c in converted] == list(range(171)) and len(downloaded) == 171
    assert [c.dataset_id for c in downloaded][80:] == list(range(91, 182))
    assert [c.dataset_id + 1 for c in downloaded][:80] == [
        c.dataset_id for c in dataset_info("coco_panoptic").categories()
    ][:80]
    assert [(c.name, c.synonyms, c.is_thing) for c in converted] == [
        (c.name, c.synonyms, c.is_thing) for c in downloaded
    ]


def test_ade20k_values_that_uint8_arithmetic_would_wrap(tmp_path: Path) -> None:
    write_image(tmp_path / "images/validation/a.jpg", (1, 3))
    write_map(tmp_path / "annotations/validation/a.png", np.array([[0, 1, 150]], np.uint8))
    assert open_dataset("ade20k_semantic", tmp_path, "val")[0].labels.tolist() == [[IGNORE, 0, 149]]


def test_a_palette_png_holds_labels_not_colours(tmp_path: Path) -> None:
    write_image(tmp_path / "images/validation/a.jpg", (1, 2))
    path = tmp_path / "annotations_ctx59/validation/a.png"
    path.parent.mkdir(parents=True)
    picture = Image.fromarray(np.array([[3, 255]], np.uint8), mode="P")
    picture.putpalette([7] * 768)
    picture.save(path)
    assert open_dataset("pascal_context_59", tmp_path, "val")[0].labels.tolist() == [[3, IGNORE]]


def test_a_vocabulary_of_a_data_set_has_its_indices_as_ids(tmp_path: Path) -> None:
    write_coco(tmp_path)
    dataset = open_dataset("coco_panoptic", tmp_path, "val")
    assert [c.id for c in dataset.vocabulary().categories] == [c.index for c in dataset.categories]


def test_a_data_set_can_be_sent_to_a_process(tmp_path: Path) -> None:
    write_coco(tmp_path, 2)
    dataset = pickle.loads(pickle.dumps(open_dataset("coco_panoptic", tmp_path, "val")))
    assert [sample.name for sample in dataset] == ["000000000000", "000000000001"]


def test_groups_and_held_out_names_are_of_the_categories() -> None:
    for info in map(dataset_info, shipped_datasets()):
        names = [category.name for category in info.categories()] if info.groups else []
        assert all(group < set(names) for group in info.groups.values())
        assert all(len(set(renamed)) == len(names) for renamed in info.held_out.values())
    tabletop = dataset_info("tabletop")
    first = {key: renamed[0] for key, renamed in tabletop.held_out.items()}
    assert tabletop.categories()[0].name == "red cube"
    assert first == {"synonyms": "red block", "synonyms_and_colors": "crimson block"}
    assert [len(tabletop.groups[name]) for name in ("seen", "unseen")] == [64, 36]


# Opening


def test_root_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path / "coco")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert open_dataset("coco_panoptic", None, "val").root == tmp_path / "coco"
    monkeypatch.delenv(ROOT_VARIABLE)
    with pytest.raises(ConfigError, match=f"--root DIR of evaluate .*, or set {ROOT_VARIABLE}"):
        open_dataset("coco_panoptic", None, "val")


def test_names_and_splits_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'coco_panoptic'"):
        open_dataset("coco_panoptik", tmp_path, "val")
    with pytest.raises(ConfigError, match="no split 'validation'; expected train, val"):
        open_dataset("coco_panoptic", tmp_path, "validation")
    with pytest.raises(DatasetError, match="is missing; expected in it: annotations/panoptic_val2017.json"):
        open_dataset("coco_panoptic", tmp_path / "nowhere", "val")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="file of coco_panoptic is a file; expected in it: annotations/"):
        open_dataset("coco_panoptic", tmp_path / "file", "val")


@pytest.mark.parametrize("name", shipped_datasets())
def test_an_empty_folder_is_refused_by_every_data_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="missing"):
        open_dataset(name, tmp_path, "val")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"images": {}}', '{"images": [], "annotations": []}', "[" * 10**5]
)
def test_a_garbage_index(tmp_path: Path, content: str) -> None:
    write_coco(tmp_path).write_text(content)
    with pytest.raises(DatasetError, match="panoptic_val2017.json"):
        open_dataset("coco_panoptic", tmp_path, "val")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c["categories"].pop(), r"category 200 \(rug-merged\) is missing"),
        (lambda c: c["categories"][0].update(name="cat"), r"category 1 \(person\) is called 'cat'"),
        (lambda c: c["categories"][0].update(isthing=0), r"category 1 \(person\) is stuff; expected a thing"),
        (lambda c: c["categories"].append({"id": 12, "name": "hat"}), r"category 12 \('hat'\) is unknown"),
        (lambda c: c["categories"].append(3), "category 3 has no id"),
        (lambda c: c["annotations"].append({"image_id": 5, "file_name": "x.png"}), "belong to no image"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "two annotations have the image_id 0"),
        (lambda c: c["annotations"].append(None), "has no image_id"),
        (lambda c: c["images"][0].update(id=[]), "1 annotations belong to no image, the first with image_id 0"),
        (lambda c: c["images"].append({"id": 4}), "expected one with a file_name"),
        (lambda c: (c["images"].clear(), c["annotations"].clear()), "lists no image"),
    ],
)
def test_a_faulty_index_is_refused_whole(tmp_path: Path, edit: Callable[[dict[str, Any]], object], reason: str) -> None:
    change(write_coco(tmp_path), edit)
    with pytest.raises(DatasetError, match=reason):
        open_dataset("coco_panoptic", tmp_path, "val")


# Faults of one image


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda c: c["annotations"].pop(0), "it has no annotation"),
        (lambda c: c["images"][0].pop("width"), "it has no 'width'"),
        (lambda c: c["images"][0].update(width=-1), "its size is -1 x 6"),
        (lambda c: c["images"][0].update(width=9), "is 8x6 .*; expected 9x6"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=12), "unknown category_id 12"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=0), "segment id 0 is not 1 to"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=70000), "two segments have the id 70000"),
        (lambda c: c["annotations"][0]["segments_info"].pop(0), "has the segment ids 7, which"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("area"), "it has no 'area'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(area=float("nan")), "segment 7 has the area nan"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(area=10**30), "segment 7 has the area 1000"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=[1]), r"unknown category_id \[1\]"),
        (lambda c: c["annotations"][0].update(segments_info=7), "not iterable"),
        (lambda c: c["annotations"][0].update(file_name="none.png"), "none.png is missing"),
        (lambda c: c["images"][0].update(file_name="none.jpg"), "none.jpg is missing"),
    ],
)
def test_a_faulty_entry_costs_only_its_image(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    change(write_coco(tmp_path, 3), edit)
    dataset = open_dataset("coco_panoptic", tmp_path, "val")
    with pytest.raises(DatasetError, match=reason):
        dataset[0]
    assert dataset.name_of(0)
    assert [dataset[index].name for index in (1, 2)] == ["000000000001", "000000000002"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_16_bit(path: Path) -> None:
    write_map(path, np.full((HEIGHT, WIDTH), 300, np.uint16))


@pytest.mark.parametrize("file", ["val2017/000000000000.jpg", "panoptic_val2017/000000000000.png"])
@pytest.mark.parametrize(
    "damage", [truncate, lambda path: path.write_bytes(b""), lambda path: path.write_text("<html>")]
)
def test_damaged_files_of_a_panoptic_set(tmp_path: Path, file: str, damage: Callable[[Path], object]) -> None:
    write_coco(tmp_path)
    damage(tmp_path / file)
    with pytest.raises(DatasetError, match=Path(file).name):
        open_dataset("coco_panoptic", tmp_path, "val")[0]


def test_a_panoptic_png_of_another_kind(tmp_path: Path) -> None:
    write_coco(tmp_path)
    as_16_bit(tmp_path / "panoptic_val2017/000000000000.png")
    with pytest.raises(DatasetError, match="is 16-bit grey; expected 8-bit RGB"):
        open_dataset("coco_panoptic", tmp_path, "val")[0]


def write_ade20k(root: Path) -> tuple[Path, Path]:
    image, labels = root / "images/validation/a.jpg", root / "annotations/validation/a.png"
    write_image(image)
    write_map(labels, np.ones((HEIGHT, WIDTH), np.uint8))
    return image, labels


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda image, labels: truncate(labels), "a.png cannot be decoded"),
        (lambda image, labels: truncate(image), "a.jpg cannot be decoded"),
        (lambda image, labels: labels.write_text("x"), "a.png cannot be decoded"),
        (lambda image, labels: labels.rename(labels.with_name("b.png")), "a.png is missing"),
        (lambda image, labels: image.rename(image.with_name("b.jpg")), "a.jpg is missing"),
        (lambda image, labels: as_16_bit(labels), "is 16-bit grey; expected 8-bit with one channel"),
        (lambda image, labels: write_image(labels), "is 8-bit RGB; expected 8-bit with one channel"),
        (lambda image, labels: write_image(image, (3, 4)), "is 8x6 .*; expected 4x3"),
        (
            lambda image, labels: write_map(labels, np.full((HEIGHT, WIDTH), 151, np.uint8)),
            r"unknown: 151 \(48 pixels\)",
        ),
    ],
)
def test_faults_of_a_semantic_set(tmp_path: Path, damage: Callable[[Path, Path], object], reason: str) -> None:
    damage(*write_ade20k(tmp_path))
    with pytest.raises(DatasetError, match=reason):
        open_dataset("ade20k_semantic", tmp_path, "val")[0]


def test_8_bits_where_16_are_expected(tmp_path: Path) -> None:
    write_image(tmp_path / "images_detectron2/training/a.jpg")
    write_map(tmp_path / "annotations_detectron2/training/a.tif", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DatasetError, match="is 8-bit grey; expected 16-bit"):
        open_dataset("ade20k_full", tmp_path, "train")[0]


def test_indices_out_of_range(tmp_path: Path) -> None:
    write_coco(tmp_path)
    write_ade20k(tmp_path)
    for name in ("coco_panoptic", "ade20k_semantic"):
        dataset = open_dataset(name, tmp_path, "val")
        assert len(dataset) == 1
        for index in (-1, 1):
            with pytest.raises(IndexError, match="has 1 images"):
                dataset[index]


# Without labels, and with odd ones


def make_void(content: dict[str, Any]) -> None:
    content["annotations"][0]["segments_info"] = []


def test_an_all_void_panoptic_image_is_counted_not_a_fault(tmp_path: Path) -> None:
    change(write_coco(tmp_path, 2), make_void)
    write_map(tmp_path / "panoptic_val2017/000000000000.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    dataset = open_dataset("coco_panoptic", tmp_path, "val")
    assert [sample.is_void for sample in dataset] == [True, False]


def test_an_all_ignored_semantic_image_is_void(tmp_path: Path) -> None:
    _, labels = write_ade20k(tmp_path)
    write_map(labels, np.zeros((HEIGHT, WIDTH), np.uint8))
    dataset = open_dataset("ade20k_semantic", tmp_path, "val")
    assert isinstance(dataset, SemanticDataset)
    assert dataset[0].is_void


def test_a_segment_that_others_were_drawn_over_stays_with_its_declared_area(tmp_path: Path) -> None:
    write_coco(tmp_path)
    write_map(tmp_path / "panoptic_val2017/000000000000.png", ids_to_rgb(np.full((HEIGHT, WIDTH), 70000, np.int32)))
    sample = open_dataset("coco_panoptic", tmp_path, "val")[0]
    assert [(segment.area, segment.declared_area) for segment in sample.segments] == [(0, 14), (48, 28)]


@given(
    ids=arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 256, 65536])),
    crowds=st.sets(st.sampled_from([1, 256, 65536])),
)
@settings(max_examples=30, deadline=None)
def test_any_map_comes_back_as_it_was_written(ids: np.ndarray, crowds: set[int]) -> None:
    height, width = ids.shape
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_image(root / "images/a.png", ids.shape)
        write_map(root / "panoptic/a.png", ids_to_rgb(ids))
        areas = {int(i): int((ids == i).sum()) for i in np.unique(ids) if i}
        segments = [{"id": i, "category_id": 5, "iscrowd": int(i in crowds), "area": a} for i, a in areas.items()]
        index = {
            "info": {"split": "test"},
            "categories": tabletop_table(),
            "images": [{"id": "a", "file_name": "a.png", "width": width, "height": height}],
            "annotations": [{"image_id": "a", "file_name": "a.png", "segments_info": segments}],
        }
        write_json(root / "panoptic.json", index)
        sample = open_dataset("tabletop", root, "test")[0]
    np.testing.assert_array_equal(sample.segment_ids, ids)
    assert {segment.id: segment.area for segment in sample.segments} == areas
    assert {segment.id for segment in sample.segments if segment.is_crowd} == crowds & set(areas)
    assert sample.is_void == (not areas)


def test_ids_above_16_bits_survive(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    largest = (1 << 24) - 1
    change(path, lambda c: c["annotations"][0]["segments_info"][1].update(id=largest))
    ids = np.where(segment_map() == 70000, largest, segment_map())
    write_map(tmp_path / "panoptic_val2017/000000000000.png", ids_to_rgb(ids))
    assert open_dataset("coco_panoptic", tmp_path, "val")[0].segments[1].id == largest
