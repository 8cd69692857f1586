"""Data sets with a category for every pixel: an image folder and a folder of label maps with the same names.

Without instances, every category of an image is one region.
"""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.forms import LARGEST_LABEL, SemanticForm
from ovseg_ros.offline.data.layouts import Files
from ovseg_ros.offline.data.pixels import read_image, read_labels
from ovseg_ros.offline.data.types import (
    IGNORE,
    VOID,
    DatasetCategory,
    OwnNames,
    PanopticDataset,
    PanopticSample,
    SegmentLabel,
    SemanticDataset,
    SemanticSample,
)

logger = logging.getLogger(__name__)


class SemanticFiles(SemanticDataset):
    """One split as pairs of an image and a label map.

    Args:
        name, root, split, categories: see `Dataset`; a category's value in the label maps is its `dataset_id`.
        parts: the label maps and the images.
        form: what the data set's file says of values and bits.

    Raises:
        DatasetError: a folder is missing, both are empty, or no image has a label map.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        split: str,
        categories: Sequence[DatasetCategory],
        parts: Sequence[Files],
        form: SemanticForm,
    ) -> None:
        super().__init__(name, root, split, categories)
        labels, images = parts
        self._pairs = _pairs(labels, images, root)
        self._folders = (labels.place(root), images.place(root))
        self._bits = form.bits
        self.no_category = min(form.ignore, default=None)
        # From a value in the file to a category's index; -1 where it means nothing.
        self._index_of = np.full(LARGEST_LABEL + 1, -1, dtype=np.int32)
        self._index_of[list(form.ignore)] = IGNORE
        self._index_of[[category.dataset_id for category in categories]] = np.arange(len(categories), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._pairs)

    def name_of(self, index: int) -> str:
        return self._pairs[index][0]

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file and the annotation file of sample `index`; they need not exist."""
        _, image, labels = self._pairs[index]
        return image, labels

    def own_names(self, index: int) -> OwnNames:
        labels, images = self._folders
        _, image_path, label_path = self._pairs[index]
        own, truth = image_path.relative_to(images).as_posix(), label_path.relative_to(labels).as_posix()
        return OwnNames(index + 1, own, truth, image_path)

    def __getitem__(self, index: int) -> SemanticSample:
        self._require(index)
        name, image_path, label_path = self._pairs[index]
        image = read_image(image_path)
        labels = read_labels(label_path, image.shape[:2], bits=self._bits)
        indices = self._index_of[labels]
        if indices.size and int(indices.min()) < 0:
            values, pixels = np.unique(labels[indices < 0], return_counts=True)
            shown = ", ".join(f"{v} ({p} pixels)" for v, p in zip(values[:5].tolist(), pixels.tolist(), strict=False))
            raise DatasetError(
                f"the annotation {label_path}: {len(values)} of its labels are unknown: {shown}; say in the "
                "data set's file, under classes or ignore, what they are"
            )
        return SemanticSample(image, indices, name)


def _pairs(labels: Files, images: Files, root: Path) -> list[tuple[str, Path, Path]]:
    """Name, image and label map for every name in either folder, sorted: a missing file is that sample's fault.

    Raises:
        DatasetError: a folder is missing, both are empty, or nothing pairs.
    """
    folders = [(files, files.place(root)) for files in (images, labels)]
    missing = [str(folder) for _, folder in folders if not folder.is_dir()]
    if missing:
        raise DatasetError(f"the folder {' and the folder '.join(missing)} is missing; see docs/datasets.md")
    of_images, of_labels = (files.pictures(root) for files, _ in folders)
    names = sorted({*of_images, *of_labels})
    if not names:
        raise DatasetError(" and ".join(f"{folder} has no {files.glob(root)}" for files, folder in folders))
    # What a file that is missing would be called; its suffix may be any.
    image_of, labels_of = (
        {name: paths.get(name, folder / f"{name}{files.suffix(root) or '.*'}") for name in names}
        for paths, (files, folder) in zip((of_images, of_labels), folders, strict=True)
    )
    if of_images.keys().isdisjoint(of_labels):
        lacking = [
            f"the {what} {next(paths[name] for name in names if name not in there)} is missing"
            for what, paths, there in (("image", image_of, of_images), ("annotation", labels_of, of_labels))
            if len(there) < len(names)
        ]
        raise DatasetError(
            f"none of {len(of_images)} images and {len(of_labels)} masks pair: {'; '.join(lacking)}. Both need one "
            "name; what all masks end in may stand in the data set's file, such as masks: 'masks/*_mask.png'"
        )
    for what, there in (("image", of_images), ("mask", of_labels)):
        if lacking := [name for name in names if name not in there]:
            shown = ", ".join(lacking[:8]) + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else "")
            logger.warning("%d of %d samples in %s have no %s: %s", len(lacking), len(names), root, what, shown)
    return [(name, image_of[name], labels_of[name]) for name in names]


class CategorySegments(PanopticDataset):
    """A semantic data set with segments: the regions of its categories, of `separate` ones each area that touches no
    other of its category.

    Args:
        dataset: the data set; its errors are this one's.
        separate: indices of categories.
        smallest_area: in pixels; smaller areas of these are void.
    """

    def __init__(self, dataset: SemanticFiles, separate: Collection[int] = (), smallest_area: int = 0) -> None:
        super().__init__(dataset.name, dataset.root, dataset.split, dataset.categories)
        self._dataset, self._separate, self._smallest_area = dataset, separate, smallest_area
        self.no_category = dataset.no_category

    def __len__(self) -> int:
        return len(self._dataset)

    def own_names(self, index: int) -> OwnNames:
        return self._dataset.own_names(index)

    def name_of(self, index: int) -> str:
        return self._dataset.name_of(index)

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file and the annotation file of sample `index`; they need not exist."""
        return self._dataset.paths_of(index)

    def __getitem__(self, index: int) -> PanopticSample:
        sample = self._dataset[index]
        ids, category_of = regions(sample.labels)
        for category in self._separate:
            if category_of.pop(category + 1, None) is not None:
                self._tell_apart(ids, category, category_of)
        areas = np.bincount(ids.ravel()).tolist()
        segments = tuple(
            SegmentLabel(i, category, self.categories[category].is_thing, False, area=areas[i], declared_area=areas[i])
            for i, category in category_of.items()
        )
        return PanopticSample(sample.image, ids, segments, sample.name)

    def _tell_apart(self, ids: np.ndarray, category: int, category_of: dict[int, int]) -> None:
        """Gives each area of a category an id of its own, in `ids` and `category_of`."""
        whole = ids == category + 1
        count, place, facts, _ = cv2.connectedComponentsWithStats(whole.astype(np.uint8), connectivity=8)
        new_ids = np.zeros(count, dtype=np.int32)
        large = np.flatnonzero(facts[1:, cv2.CC_STAT_AREA] >= self._smallest_area) + 1
        first = max(len(self.categories), *category_of, 0) + 1
        new_ids[large] = np.arange(first, first + len(large))
        ids[whole] = new_ids[place[whole]]
        category_of.update(dict.fromkeys(new_ids[large].tolist(), category))


def regions(labels: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Every category of a map (H, W) as one segment: ids (H, W) int32, 0 = void, and the category of each id."""
    ids = np.where(labels == IGNORE, VOID, labels.astype(np.int32) + 1)
    return ids, {i: i - 1 for i in np.unique(ids[ids != VOID]).tolist()}
