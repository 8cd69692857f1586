"""Data sets with a category for every pixel: an image folder and a folder of label maps with the same names.

Without instances, every category of an image is one region.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.layouts import SemanticLayout
from ovseg_ros.offline.data.pixels import read_image, read_labels
from ovseg_ros.offline.data.types import (
    IGNORE,
    VOID,
    DatasetCategory,
    PanopticDataset,
    PanopticSample,
    SegmentLabel,
    SemanticDataset,
    SemanticSample,
)


class SemanticFiles(SemanticDataset):
    """One split as pairs of an image and a label map.

    Args:
        name, root, split, categories: see `Dataset`; a category's value in the label maps is its `dataset_id`.
        layout: where the files are.

    Raises:
        DatasetError: a folder is missing, or both are empty.
    """

    def __init__(
        self, name: str, root: Path, split: str, categories: Sequence[DatasetCategory], layout: SemanticLayout
    ) -> None:
        super().__init__(name, root, split, categories)
        self._pairs = layout.pairs(root, split)
        self._bits = layout.bits
        # From a value in the file to a category's index; -1 where it means nothing.
        self._index_of = np.full(1 << layout.bits, -1, dtype=np.int32)
        self._index_of[list(layout.ignored)] = IGNORE
        self._index_of[[category.dataset_id for category in categories]] = np.arange(len(categories), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._pairs)

    def name_of(self, index: int) -> str:
        return self._pairs[index][0]

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file and the annotation file of sample `index`; they need not exist."""
        _, image, labels = self._pairs[index]
        return image, labels

    def __getitem__(self, index: int) -> SemanticSample:
        self._require(index)
        name, image_path, label_path = self._pairs[index]
        image = read_image(image_path)
        labels = read_labels(label_path, image.shape[:2], bits=self._bits)
        indices = self._index_of[labels]
        if indices.size and int(indices.min()) < 0:
            values, pixels = np.unique(labels[indices < 0], return_counts=True)
            shown = ", ".join(f"{v} ({p} pixels)" for v, p in zip(values[:5].tolist(), pixels.tolist(), strict=False))
            raise DatasetError(f"the annotation {label_path}: {len(values)} of its labels are unknown: {shown}")
        return SemanticSample(image, indices, name)


class CategorySegments(PanopticDataset):
    """A semantic data set whose segments are the regions of its categories, for what learns categories alone.

    Args:
        dataset: the data set; its errors are this one's.
    """

    def __init__(self, dataset: SemanticDataset) -> None:
        super().__init__(dataset.name, dataset.root, dataset.split, dataset.categories)
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def name_of(self, index: int) -> str:
        return self._dataset.name_of(index)

    def __getitem__(self, index: int) -> PanopticSample:
        sample = self._dataset[index]
        ids, category_of = regions(sample.labels)
        areas = np.bincount(ids.ravel()).tolist()
        segments = tuple(
            SegmentLabel(i, category, self.categories[category].is_thing, False, area=areas[i], declared_area=areas[i])
            for i, category in category_of.items()
        )
        return PanopticSample(sample.image, ids, segments, sample.name)


def regions(labels: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Every category of a map (H, W) as one segment: ids (H, W) int32, 0 = void, and the category of each id."""
    ids = np.where(labels == IGNORE, VOID, labels.astype(np.int32) + 1)
    return ids, {i: i - 1 for i in np.unique(ids[ids != VOID]).tolist()}
