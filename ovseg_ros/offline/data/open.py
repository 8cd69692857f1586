"""The data sets that ovseg knows, and the one way to open them. Folders are named as for detectron2."""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.data.categories import CITYSCAPES_IDS, COCO_IDS, COCO_STUFF_VALUES, load_categories
from ovseg_ros.offline.data.layouts import Files, PanopticLayout, SemanticLayout
from ovseg_ros.offline.data.panoptic import PanopticFiles
from ovseg_ros.offline.data.semantic import SemanticFiles
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym

ROOT_VARIABLE = "OVSEG_DATASETS"
"""Environment variable with the folder that holds a folder for each data set, where no root is given."""


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a data set before it is opened.

    Attributes:
        vocabulary: its file in `config/vocabularies`, without suffix.
        dataset_ids: the ids of its categories in its own files, in the vocabulary's order.
        folder: its folder below `OVSEG_DATASETS`.
        images: the splits that it has, with the number of images in each as published; 0 where there is no number.
        layout: what each split needs.
        groups: names of categories whose figures are of interest by themselves, by the group's name.
        held_out: for some ways of renaming, a name for each category that no training text contains.
    """

    vocabulary: str
    dataset_ids: Sequence[int]
    folder: str
    images: Mapping[str, int]
    layout: PanopticLayout | SemanticLayout
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    held_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it has."""
        return tuple(self.images)

    def categories(self) -> tuple[DatasetCategory, ...]:
        """Its categories; reads the vocabulary file."""
        return load_categories(self.vocabulary, self.dataset_ids)


def _with_jpg(file_name: str) -> str:
    """Mapillary's index may name the image after its annotation."""
    return str(Path(file_name).with_suffix(".jpg"))


def _cityscapes_image(file_name: str) -> str:
    """createPanopticImgs.py writes aachen_0_1_gtFine_leftImg8bit.png for aachen/aachen_0_1_leftImg8bit.png."""
    return f"{file_name.partition('_')[0]}/{file_name.replace('_gtFine', '')}"


def _images(train: int, val: int) -> dict[str, int]:
    return {"train": train, "val": val}


_ADE20K, _CONTEXT = "ADEChallengeData2016", "pascal_ctx_d2"
_LONG_IMAGES = Files("images/{long}/*.jpg")
_CITYSCAPES_IMAGES = Files("leftImg8bit/{split}/*/*_leftImg8bit.png")

_COCO = PanopticLayout(
    Files("annotations/panoptic_{split}2017.json"),
    # Beside annotations/ or, as the download unpacks, inside it.
    Files("panoptic_{split}2017/*.png", or_else="annotations/panoptic_{split}2017/*.png"),
    Files("{split}2017/*.jpg"),
)
# In images/ as COCO-Stuff's authors and CAT-Seg have them.
_COCO_IMAGES = Files("{split}2017/*.jpg", or_else="images/{split}2017/*.jpg")
# As prepare_coco_stuff_164k_sem_seg.py (SimSeg) or prepare_coco_stuff.py (CAT-Seg) leaves it.
_COCO_STUFF = SemanticLayout(
    Files(
        "stuffthingmaps_detectron2/{split}2017/*.png",
        or_else="annotations_detectron2/{split}2017/*.png",
        note="8-bit, 0 to 170, 255 = ignore",
    ),
    _COCO_IMAGES,
    8,
    (255,),
)
# As downloaded, in a folder of its own: in the archive, folders are called as those of the photographs.
_COCO_STUFF_DOWNLOAD = SemanticLayout(
    Files(
        "stuffthingmaps/{split}2017/*.png",
        or_else="annotations/{split}2017/*.png",
        note="8-bit, 0 to 181, 255 = ignore",
    ),
    _COCO_IMAGES,
    8,
    (255,),
)
# As prepare_ade20k_pan_seg.py leaves it.
_ADE20K_PANOPTIC = PanopticLayout(
    Files("ade20k_panoptic_{split}.json"), Files("ade20k_panoptic_{split}/*.png"), _LONG_IMAGES
)
# As downloaded.
_ADE20K_SEMANTIC = SemanticLayout(
    Files("annotations/{long}/*.png", note="8-bit, 1 to 150, 0 = ignore"), _LONG_IMAGES, 8, (0,)
)
# As prepare_ade20k_full_sem_seg.py leaves it.
_ADE20K_FULL = SemanticLayout(
    Files("annotations_detectron2/{long}/*.tif", note="16-bit, 0 to 846, 65535 = ignore"),
    Files("images_detectron2/{long}/*.jpg"),
    16,
    (65535,),
)
# As prepare_pascal_ctx_sem_seg.py and prepare_pascal_ctx_full_sem_seg.py leave it.
_CONTEXT_59 = SemanticLayout(
    Files("annotations_ctx59/{long}/*.png", note="8-bit, 0 to 58, 255 = ignore"), _LONG_IMAGES, 8, (255,)
)
_CONTEXT_459 = SemanticLayout(
    Files("annotations_ctx459/{long}/*.tif", note="16-bit, 0 to 458, 65535 = ignore"), _LONG_IMAGES, 16, (65535,)
)
# Version 1.2, by itself or inside the download of version 2.0, which holds both; 66 is "Unlabeled".
_VISTAS = PanopticLayout(
    Files("{long}/panoptic/panoptic_2018.json", or_else="{long}/v1.2/panoptic/panoptic_2018.json"),
    Files("{long}/panoptic/*.png", or_else="{long}/v1.2/panoptic/*.png"),
    Files("{long}/images/*.jpg"),
    _with_jpg,
    ignored_ids=(66,),
)
# As createPanopticImgs.py leaves it, with label ids (its default), not train ids.
_CITIES_PANOPTIC = PanopticLayout(
    Files("gtFine/cityscapes_panoptic_{split}.json"),
    Files("gtFine/cityscapes_panoptic_{split}/*_gtFine_panoptic.png"),
    _CITYSCAPES_IMAGES,
    _cityscapes_image,
)
# As downloaded; the names hold the city's folder.
_CITIES_SEMANTIC = SemanticLayout(
    Files("gtFine/{split}/*/*_gtFine_labelIds.png", note="8-bit, 0 to 33"),
    _CITYSCAPES_IMAGES,
    8,
    [label for label in range(34) if label not in CITYSCAPES_IDS],
)

DATASETS: dict[str, DatasetInfo] = {
    "coco_panoptic": DatasetInfo("coco_133", COCO_IDS, "coco", _images(118287, 5000), _COCO),
    "coco_stuff": DatasetInfo("coco_stuff_171", range(171), "coco", _images(118287, 5000), _COCO_STUFF),
    "coco_stuff_download": DatasetInfo(
        "coco_stuff_171", COCO_STUFF_VALUES, "coco", _images(118287, 5000), _COCO_STUFF_DOWNLOAD
    ),
    "ade20k_panoptic": DatasetInfo("ade20k_150", range(150), _ADE20K, _images(20210, 2000), _ADE20K_PANOPTIC),
    "ade20k_semantic": DatasetInfo("ade20k_150", range(1, 151), _ADE20K, _images(20210, 2000), _ADE20K_SEMANTIC),
    "ade20k_full": DatasetInfo("ade20k_847", range(847), "ADE20K_2021_17_01", _images(25574, 2000), _ADE20K_FULL),
    "pascal_context_59": DatasetInfo("pascal_context_59", range(59), _CONTEXT, _images(4998, 5105), _CONTEXT_59),
    "pascal_context_459": DatasetInfo("pascal_context_459", range(459), _CONTEXT, _images(4998, 5105), _CONTEXT_459),
    "mapillary_vistas": DatasetInfo(
        "mapillary_vistas", range(1, 66), "mapillary_vistas", _images(18000, 2000), _VISTAS
    ),
    "cityscapes_panoptic": DatasetInfo(
        "cityscapes", CITYSCAPES_IDS, "cityscapes", _images(2975, 500), _CITIES_PANOPTIC
    ),
    "cityscapes_semantic": DatasetInfo(
        "cityscapes", CITYSCAPES_IDS, "cityscapes", _images(2975, 500), _CITIES_SEMANTIC
    ),
    "tabletop": DatasetInfo(
        "tabletop",
        range(1, 101),
        "tabletop",
        dict.fromkeys(("train", "val", "test", "captions"), 0),
        PanopticLayout(Files("panoptic.json"), Files("panoptic/*.png"), Files("images/*.png")),
        groups={"seen": SEEN, "unseen": UNSEEN},
        held_out={
            "synonyms": tuple(held_out_synonym(spec.name) for spec in TABLETOP_SPECS),
            "synonyms_and_colors": tuple(held_out_synonym(spec.name, replace_color=True) for spec in TABLETOP_SPECS),
        },
    ),
}
"""Every data set by its name. The root of all but the tabletop holds all splits; a tabletop folder is one split."""


def open_dataset(name: str, root: Path | None, split: str = "") -> PanopticFiles | SemanticFiles:
    """Open one split of a data set; no image is read.

    Args:
        name: a key of `DATASETS`.
        root: the data set's own folder; if None, its folder below `$OVSEG_DATASETS`.
        split: one of the data set's splits; "" is the one that a tabletop folder holds, and val of all others.

    Raises:
        ConfigError: an unknown name or split, or no root.
        DatasetError: a folder or an index is missing or malformed.
    """
    info = dataset_info(name)
    if split:
        require_split(name, split)
    elif name != "tabletop":
        split = "val"
    root = dataset_root(name, root)
    require_root(name, root, split)
    if isinstance(info.layout, SemanticLayout):
        return SemanticFiles(name, root, split, info.categories(), info.layout)
    files = PanopticFiles(name, root, split, info.categories(), info.layout)
    if name == "tabletop":
        _require_tabletop(files, [split] if split else info.splits)
    return files


def _require_tabletop(files: PanopticFiles, splits: Sequence[str]) -> None:
    """Refuses a folder that holds another split: they are made of other scenes, and all look alike."""
    info = files.index.info
    if info.get("split") not in splits:
        expected = " or ".join(map(repr, splits))
        raise DatasetError(f"{files.index.path} holds the split {info.get('split')!r}; expected {expected}")
    files.split = str(info["split"])
    files.scenes = {key: info[key] for key in ("seed", "width", "height") if isinstance(info.get(key), int)}


def dataset_info(name: str) -> DatasetInfo:
    """What is known of the data set `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(DATASETS)}"
        raise ConfigError(f"unknown data set {name!r}; {hint}")
    return DATASETS[name]


def require_split(name: str, split: str) -> None:
    """Raises ConfigError unless the data set `name` has the split."""
    splits = dataset_info(name).splits
    if split not in splits:
        raise ConfigError(f"{name} has no split {split!r}; expected {', '.join(splits)}")


def require_root(name: str, root: Path, split: str) -> None:
    """Raises DatasetError unless the data set's folder is there."""
    if not root.is_dir():
        problem = "is a file" if root.exists() else "is missing"
        expected = "; ".join(part.expected for part in dataset_info(name).layout.parts(split))
        raise DatasetError(f"the folder {root} of {name} {problem}; expected in it: {expected}")


def dataset_root(name: str, root: Path | None) -> Path:
    """The data set's folder: `root`, or the one below `$OVSEG_DATASETS`; it need not exist.

    Raises:
        ConfigError: neither is given.
    """
    if root is not None:
        return root
    parent = os.environ.get(ROOT_VARIABLE)
    if not parent:
        raise ConfigError(
            f"where is {name}? Give its folder (--root DIR of evaluate and check-dataset, --data DIR of train), or set "
            f"{ROOT_VARIABLE} to the folder that holds {dataset_info(name).folder}/"
        )
    return Path(parent) / dataset_info(name).folder
