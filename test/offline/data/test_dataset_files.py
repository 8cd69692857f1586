"""Which files belong to a data set: one rule for opening and checking it, and other formats called what they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.open import dataset_info, open_dataset
from ovseg_ros.offline.tools.check_dataset import check_split

SHAPE = (4, 6)


def write(path: Path, *channels: int, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SHAPE, *channels), value, np.uint8)).save(path)


def write_coco(root: Path, image: str, **changes: Any) -> None:
    """One image that is all person."""
    write(root / "val2017" / image, 3, value=100)
    png = Path(image).with_suffix(".png").as_posix()
    write(root / "panoptic_val2017" / png, 3, value=1)
    segment = {"id": 1 + 256 + 65536, "category_id": 1, "area": 24}
    index = {
        "categories": [
            {"id": category.dataset_id, "name": category.name, "isthing": int(category.is_thing)}
            for category in dataset_info("coco_panoptic").categories()
        ],
        "images": [{"id": 0, "file_name": image, "height": SHAPE[0], "width": SHAPE[1]}],
        "annotations": [{"image_id": 0, "file_name": png, "segments_info": [segment]}],
    } | changes
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(index))


def write_ade20k(root: Path, image: str) -> None:
    write(root / "images/validation" / image, 3, value=100)
    write(root / "annotations/validation" / Path(image).with_suffix(".png"), value=1)


LAYOUTS = {"coco_panoptic": (write_coco, "val2017"), "ade20k_semantic": (write_ade20k, "images/validation")}


@pytest.mark.parametrize("image", ["a.JPG", "a.jpeg", "a.png", "sub/a.jpg", "sub/a.TIFF"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_photographs_of_any_suffix_and_in_subfolders_are_used_and_checked_alike(
    tmp_path: Path, name: str, image: str
) -> None:
    build, photographs = LAYOUTS[name]
    build(tmp_path, image)
    for folder in (photographs, "annotations", "annotations/validation"):  # as macOS leaves them
        (tmp_path / folder).mkdir(exist_ok=True)
        for hidden in ("._a.jpg", "._a.png", ".DS_Store"):
            (tmp_path / folder / hidden).write_bytes(b"x")
    dataset = open_dataset(name, tmp_path, "val")
    assert [sample.image.shape[:2] for sample in dataset] == [SHAPE]
    report = check_split(name, tmp_path, "val")
    assert (report.is_faultless, report.images, report.unlisted) == (True, 1, [])


def test_of_two_photographs_of_one_name_the_published_kind_counts(tmp_path: Path) -> None:
    write_ade20k(tmp_path, "a.jpg")
    write(tmp_path / "images/validation/a.bmp", 3, value=5)
    dataset = open_dataset("ade20k_semantic", tmp_path, "val")
    assert len(dataset) == 1 and int(dataset[0].image[0, 0, 0]) == 100


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": [], "bbox": [0, 0, 1, 1], "category_id": 1}, "is an instances file: an annotation for each"),
        ({"caption": "a cat"}, "is a captions file"),
        ({"label": 3}, r"no annotation with segments_info; the first holds \['image_id', 'label'\]"),
    ],
)
def test_another_of_cocos_formats_is_called_what_it_is(tmp_path: Path, annotation: dict[str, Any], said: str) -> None:
    write_coco(tmp_path, "a.jpg", annotations=[{"image_id": 0, **annotation}] * 2)
    with pytest.raises(DatasetError, match=f"panoptic_val2017.json .*{said}.*expected COCO's panoptic format"):
        open_dataset("coco_panoptic", tmp_path, "val")


def test_a_table_without_isthing_says_so_once(tmp_path: Path) -> None:
    table = [{"id": c.dataset_id, "name": c.name} for c in dataset_info("coco_panoptic").categories()]
    write_coco(tmp_path, "a.jpg", categories=table)
    with pytest.raises(DatasetError, match="categories: its categories have no isthing; add it to each: 1 for things"):
        open_dataset("coco_panoptic", tmp_path, "val")
    table[0] = {**table[0], "isthing": 1}
    write_coco(tmp_path, "a.jpg", categories=table)
    with pytest.raises(DatasetError, match=r"category 2 \(bicycle\) has no isthing; expected 1"):
        open_dataset("coco_panoptic", tmp_path, "val")
