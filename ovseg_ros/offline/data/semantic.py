"""Data sets with a category for every pixel: an image folder and a folder of label maps with the same names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.pixels import read_image, read_labels
from ovseg_ros.offline.data.types import IGNORE, DatasetCategory, SemanticDataset, SemanticSample


class LabelTable:
    """Translates the values of a label map into category indices.

    Args:
        values: the value in the file of each category, in the order of the categories.
        ignored: values of pixels without a category; any other value is a fault.
        bits: of the label map, 8 or 16.
    """

    def __init__(self, values: Sequence[int], ignored: Sequence[int], *, bits: int) -> None:
        self.bits = bits
        self._index_of = np.full(1 << bits, -1, dtype=np.int32)
        self._index_of[list(ignored)] = IGNORE
        self._index_of[list(values)] = np.arange(len(values), dtype=np.int32)

    def translate(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) int32 values of the file to (H, W) int32 category indices or `IGNORE`.

        Raises:
            DatasetError: a value means nothing.
        """
        indices = self._index_of[labels]
        if indices.size and int(indices.min()) < 0:
            values, pixels = np.unique(labels[indices < 0], return_counts=True)
            shown = ", ".join(f"{v} ({p} pixels)" for v, p in zip(values[:5].tolist(), pixels.tolist(), strict=False))
            raise DatasetError(f"{len(values)} of its labels are unknown: {shown}")
        return indices


class SemanticFiles(SemanticDataset):
    """One split as pairs of an image and a label map.

    Args:
        name, root, split, categories: see `Dataset`.
        pairs: name, image and label map of every image, in order.
        table: what the label maps' values mean.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        split: str,
        categories: Sequence[DatasetCategory],
        pairs: Sequence[tuple[str, Path, Path]],
        table: LabelTable,
    ) -> None:
        super().__init__(name, root, split, categories)
        self.pairs = tuple(pairs)
        self.table = table

    def __len__(self) -> int:
        return len(self.pairs)

    def name_of(self, index: int) -> str:
        return self.pairs[index][0]

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file and the annotation file of sample `index`; they need not exist."""
        _, image, labels = self.pairs[index]
        return image, labels

    def __getitem__(self, index: int) -> SemanticSample:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} {self.split} has {len(self)} images; there is no image {index}")
        name, image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        labels = read_labels(label_path, image.shape[:2], bits=self.table.bits)
        try:
            indices = self.table.translate(labels)
        except DatasetError as error:
            raise DatasetError(f"the annotation {label_path}: {error}") from error
        return SemanticSample(image, indices, name)
