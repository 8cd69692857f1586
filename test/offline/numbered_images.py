"""A data set in memory: image n is grey n. Of some images, all is void, or the file is damaged."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample, SegmentLabel


class Numbered(PanopticDataset):
    """Cityscapes' 19 categories. An image has a stuff segment on the left, a crowd and void on the right."""

    def __init__(self, count: int, damaged: Sequence[int] = (), void: Sequence[int] = ()) -> None:
        super().__init__("numbered", Path("nowhere"), "train", dataset_info("cityscapes_panoptic").categories())
        self.count, self.damaged, self.void = count, damaged, void

    def __len__(self) -> int:
        return self.count

    def name_of(self, index: int) -> str:
        return f"folder/image{index}.jpg"

    def __getitem__(self, index: int) -> PanopticSample:
        if index in self.damaged:
            raise DatasetError(f"image{index} is torn")
        ids = np.zeros((12, 16), dtype=np.int32)
        ids[:, :8], ids[:3, 8:] = 70_000, 5
        segments = (
            SegmentLabel(70_000, 3, is_thing=False, is_crowd=False, area=96, declared_area=96),
            SegmentLabel(5, 11, is_thing=True, is_crowd=True, area=24, declared_area=24),
        )
        if index in self.void:
            ids[:], segments = 0, ()
        return PanopticSample(np.full((12, 16, 3), index, dtype=np.uint8), ids, segments, self.name_of(index))


class Striped(Numbered):
    """Image n has n + 1 segments, upright stripes of different categories, 32 pixels high and 48 wide."""

    def __getitem__(self, index: int) -> PanopticSample:
        ids = np.tile(np.arange(48) * (index + 1) // 48 + 1, (32, 1)).astype(np.int32)
        areas = np.bincount(ids.ravel()).tolist()
        segments = tuple(
            SegmentLabel(number, (5 * index + number) % 19, True, False, areas[number], areas[number])
            for number in range(1, index + 2)
        )
        colours = np.random.default_rng(index).integers(0, 255, (index + 2, 3), dtype=np.uint8)
        return PanopticSample(colours[ids], ids, segments, self.name_of(index))
