"""Where each data set's files are, below its own folder. The folders' names are those of detectron2's data sets."""

from pathlib import Path

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.panoptic import PanopticLayout

_CITYSCAPES_IMAGE = "_leftImg8bit.png"
_CITYSCAPES_LABELS = "_gtFine_labelIds.png"
_LONG_SPLIT = {"train": "training", "val": "validation"}

Pairs = list[tuple[str, Path, Path]]
"""Name, image and label map of every image, sorted by name."""


def coco(root: Path, split: str) -> PanopticLayout:
    """COCO panoptic, 2017; the folder of PNGs lies beside `annotations/` or, as the download unpacks, inside it."""
    pngs = f"panoptic_{split}2017"
    return PanopticLayout(
        index=root / "annotations" / f"{pngs}.json",
        images=root / f"{split}2017",
        annotations=_first_folder(root / pngs, root / "annotations" / pngs),
    )


def ade20k_panoptic(root: Path, split: str) -> PanopticLayout:
    """ADE20K-150 as prepare_ade20k_pan_seg.py leaves it."""
    return PanopticLayout(
        index=root / f"ade20k_panoptic_{split}.json",
        images=root / "images" / _LONG_SPLIT[split],
        annotations=root / f"ade20k_panoptic_{split}",
    )


def ade20k_semantic(root: Path, split: str) -> Pairs:
    """ADE20K-150 as downloaded."""
    folder = _LONG_SPLIT[split]
    return _pairs(root / "images" / folder, root / "annotations" / folder, ".jpg", ".png")


def ade20k_full(root: Path, split: str) -> Pairs:
    """ADE20K-847 as prepare_ade20k_full_sem_seg.py leaves it."""
    folder = _LONG_SPLIT[split]
    return _pairs(root / "images_detectron2" / folder, root / "annotations_detectron2" / folder, ".jpg", ".tif")


def pascal_context(root: Path, split: str, categories: int) -> Pairs:
    """PASCAL Context as prepare_pascal_ctx_sem_seg.py (59) or prepare_pascal_ctx_full_sem_seg.py (459) leaves it."""
    folder = _LONG_SPLIT[split]
    suffix = ".png" if categories == 59 else ".tif"
    return _pairs(root / "images" / folder, root / f"annotations_ctx{categories}" / folder, ".jpg", suffix)


def mapillary_vistas(root: Path, split: str) -> PanopticLayout:
    """Mapillary Vistas 1.2, by itself or inside the download of version 2.0, which holds both."""
    folder = root / _LONG_SPLIT[split]
    annotations = _first_folder(folder / "panoptic", folder / "v1.2" / "panoptic")
    return PanopticLayout(annotations / "panoptic_2018.json", folder / "images", annotations, _with_jpg)


def cityscapes_panoptic(root: Path, split: str) -> PanopticLayout:
    """Cityscapes as createPanopticImgs.py leaves it, with label ids (its default), not train ids."""
    fine = root / "gtFine"
    name = f"cityscapes_panoptic_{split}"
    return PanopticLayout(fine / f"{name}.json", root / "leftImg8bit" / split, fine / name, _cityscapes_image)


def cityscapes_semantic(root: Path, split: str) -> Pairs:
    """Cityscapes as downloaded; the names hold the city's folder."""
    return _pairs(root / "leftImg8bit" / split, root / "gtFine" / split, _CITYSCAPES_IMAGE, _CITYSCAPES_LABELS, "*/*")


def tabletop(root: Path) -> PanopticLayout:
    """What `ovseg dataset tabletop` writes."""
    return PanopticLayout(root / "panoptic.json", root / "images", root / "panoptic")


def _pairs(images: Path, labels: Path, image_suffix: str, label_suffix: str, pattern: str = "*") -> Pairs:
    """A pair for every name in either folder: that the other file is missing is a fault of that one sample.

    Raises:
        DatasetError: a folder is missing, or both are empty.
    """
    missing = [str(folder) for folder in (images, labels) if not folder.is_dir()]
    if missing:
        raise DatasetError(f"the folder {' and the folder '.join(missing)} is missing; see docs/datasets.md")
    names = {
        path.relative_to(folder).as_posix().removesuffix(suffix)
        for folder, suffix in ((images, image_suffix), (labels, label_suffix))
        for path in folder.glob(f"{pattern}{suffix}")
    }
    if not names:
        raise DatasetError(f"{images} has no {pattern}{image_suffix} and {labels} has no {pattern}{label_suffix}")
    return [(name, images / f"{name}{image_suffix}", labels / f"{name}{label_suffix}") for name in sorted(names)]


def _first_folder(*candidates: Path) -> Path:
    """The first that is a folder; the first of all if none is."""
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def _with_jpg(file_name: str) -> str:
    """Mapillary's index may name the image after its annotation."""
    return str(Path(file_name).with_suffix(".jpg"))


def _cityscapes_image(file_name: str) -> str:
    """createPanopticImgs.py writes aachen_0_1_gtFine_leftImg8bit.png for aachen/aachen_0_1_leftImg8bit.png."""
    return f"{file_name.partition('_')[0]}/{file_name.replace('_gtFine', '')}"
