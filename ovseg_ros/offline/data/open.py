"""The data sets that ovseg knows, and the one way to open them."""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.data import layouts
from ovseg_ros.offline.data.categories import CITYSCAPES_IDS, COCO_IDS, load_categories
from ovseg_ros.offline.data.panoptic import PanopticFiles, PanopticLayout
from ovseg_ros.offline.data.semantic import LabelTable, SemanticFiles
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym

ROOT_VARIABLE = "OVSEG_DATASETS"
"""Environment variable with the folder that holds a folder for each data set, where no root is given."""


@dataclass(frozen=True, slots=True)
class LayoutPart:
    """Files that a split needs.

    Attributes:
        patterns: where they may be below the data set's folder, as globs; one of them must match. {split} stands for
            train or val, {long} for training or validation.
        note: what the files hold, where that is not obvious.
    """

    patterns: tuple[str, ...]
    note: str = ""


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
    layout: tuple[LayoutPart, ...]
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    held_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it has."""
        return tuple(self.images)

    def categories(self) -> tuple[DatasetCategory, ...]:
        """Its categories; reads the vocabulary file."""
        return load_categories(self.vocabulary, self.dataset_ids)

    def parts(self, split: str) -> tuple[LayoutPart, ...]:
        """`layout` with the split's names filled in."""
        long = {"train": "training", "val": "validation"}.get(split, split)
        return tuple(
            LayoutPart(tuple(pattern.format(split=split, long=long) for pattern in part.patterns), part.note)
            for part in self.layout
        )

    def expected_layout(self, split: str) -> tuple[str, ...]:
        """What a split needs, in words, a line for each part."""
        return tuple(
            ", or ".join(part.patterns) + (f" ({part.note})" if part.note else "") for part in self.parts(split)
        )


_ADE20K = "ADEChallengeData2016"
_LONG_IMAGES = LayoutPart(("images/{long}/*.jpg",))
_CITYSCAPES_IMAGES = LayoutPart(("leftImg8bit/{split}/*/*_leftImg8bit.png",))

DATASETS: dict[str, DatasetInfo] = {
    "coco_panoptic": DatasetInfo(
        "coco_133",
        COCO_IDS,
        "coco",
        {"train": 118287, "val": 5000},
        (
            LayoutPart(("annotations/panoptic_{split}2017.json",)),
            LayoutPart(("panoptic_{split}2017/*.png", "annotations/panoptic_{split}2017/*.png")),
            LayoutPart(("{split}2017/*.jpg",)),
        ),
    ),
    "ade20k_panoptic": DatasetInfo(
        "ade20k_150",
        range(150),
        _ADE20K,
        {"train": 20210, "val": 2000},
        (LayoutPart(("ade20k_panoptic_{split}.json",)), LayoutPart(("ade20k_panoptic_{split}/*.png",)), _LONG_IMAGES),
    ),
    "ade20k_semantic": DatasetInfo(
        "ade20k_150",
        range(1, 151),
        _ADE20K,
        {"train": 20210, "val": 2000},
        (LayoutPart(("annotations/{long}/*.png",), "8-bit, 1 to 150, 0 = ignore"), _LONG_IMAGES),
    ),
    "ade20k_full": DatasetInfo(
        "ade20k_847",
        range(847),
        "ADE20K_2021_17_01",
        {"train": 25574, "val": 2000},
        (
            LayoutPart(("annotations_detectron2/{long}/*.tif",), "16-bit, 0 to 846, 65535 = ignore"),
            LayoutPart(("images_detectron2/{long}/*.jpg",)),
        ),
    ),
    "pascal_context_59": DatasetInfo(
        "pascal_context_59",
        range(59),
        "pascal_ctx_d2",
        {"train": 4998, "val": 5105},
        (LayoutPart(("annotations_ctx59/{long}/*.png",), "8-bit, 0 to 58, 255 = ignore"), _LONG_IMAGES),
    ),
    "pascal_context_459": DatasetInfo(
        "pascal_context_459",
        range(459),
        "pascal_ctx_d2",
        {"train": 4998, "val": 5105},
        (LayoutPart(("annotations_ctx459/{long}/*.tif",), "16-bit, 0 to 458, 65535 = ignore"), _LONG_IMAGES),
    ),
    "mapillary_vistas": DatasetInfo(
        "mapillary_vistas",
        range(1, 66),
        "mapillary_vistas",
        {"train": 18000, "val": 2000},
        (
            LayoutPart(("{long}/panoptic/panoptic_2018.json", "{long}/v1.2/panoptic/panoptic_2018.json")),
            LayoutPart(("{long}/panoptic/*.png", "{long}/v1.2/panoptic/*.png")),
            LayoutPart(("{long}/images/*.jpg",)),
        ),
    ),
    "cityscapes_panoptic": DatasetInfo(
        "cityscapes",
        CITYSCAPES_IDS,
        "cityscapes",
        {"train": 2975, "val": 500},
        (
            LayoutPart(("gtFine/cityscapes_panoptic_{split}.json",)),
            LayoutPart(("gtFine/cityscapes_panoptic_{split}/*_gtFine_panoptic.png",)),
            _CITYSCAPES_IMAGES,
        ),
    ),
    "cityscapes_semantic": DatasetInfo(
        "cityscapes",
        CITYSCAPES_IDS,
        "cityscapes",
        {"train": 2975, "val": 500},
        (LayoutPart(("gtFine/{split}/*/*_gtFine_labelIds.png",), "8-bit, 0 to 33"), _CITYSCAPES_IMAGES),
    ),
    "tabletop": DatasetInfo(
        "tabletop",
        range(1, 101),
        "tabletop",
        {"train": 0, "val": 0, "test": 0, "captions": 0},
        (LayoutPart(("panoptic.json",)), LayoutPart(("panoptic/*.png",)), LayoutPart(("images/*.png",))),
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
    if not root.is_dir():
        raise DatasetError(
            f"the folder {root} of {name} is missing; expected in it: {'; '.join(info.expected_layout(split))}"
        )
    categories = info.categories()

    def panoptic(layout: PanopticLayout, ignored_ids: Sequence[int] = ()) -> PanopticFiles:
        return PanopticFiles(name, root, split, categories, layout, ignored_ids)

    def semantic(pairs: layouts.Pairs, ignored: Sequence[int], bits: int) -> SemanticFiles:
        return SemanticFiles(name, root, split, categories, pairs, LabelTable(info.dataset_ids, ignored, bits=bits))

    match name:
        case "coco_panoptic":
            return panoptic(layouts.coco(root, split))
        case "ade20k_panoptic":
            return panoptic(layouts.ade20k_panoptic(root, split))
        case "ade20k_semantic":
            return semantic(layouts.ade20k_semantic(root, split), (0,), 8)
        case "ade20k_full":
            return semantic(layouts.ade20k_full(root, split), (65535,), 16)
        case "pascal_context_59":
            return semantic(layouts.pascal_context(root, split, 59), (255,), 8)
        case "pascal_context_459":
            return semantic(layouts.pascal_context(root, split, 459), (65535,), 16)
        case "mapillary_vistas":
            # 66 is "Unlabeled".
            return panoptic(layouts.mapillary_vistas(root, split), (66,))
        case "cityscapes_panoptic":
            return panoptic(layouts.cityscapes_panoptic(root, split))
        case "cityscapes_semantic":
            ignored = [label for label in range(34) if label not in CITYSCAPES_IDS]
            return semantic(layouts.cityscapes_semantic(root, split), ignored, 8)
        case "tabletop":
            return _tabletop(panoptic(layouts.tabletop(root)))
        case _:
            raise AssertionError(f"{name} is in DATASETS but cannot be opened")


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
            f"where is {name}? Give --root DIR, or set {ROOT_VARIABLE} to the folder that holds "
            f"{dataset_info(name).folder}/"
        )
    return Path(parent) / dataset_info(name).folder


def _tabletop(files: PanopticFiles) -> PanopticFiles:
    """Refuses a folder that holds another split: they are made of other scenes, and all look alike."""
    info = files.index.info
    found, expected = info.get("split"), [files.split] if files.split else DATASETS["tabletop"].splits
    if found not in expected:
        expected_splits = " or ".join(map(repr, expected))
        raise DatasetError(f"{files.layout.index} holds the split {found!r}; expected {expected_splits}")
    files.split = str(found)
    files.scenes = {key: info[key] for key in ("seed", "width", "height") if isinstance(info.get(key), int)}
    return files
