"""Every data set in COCO's panoptic format: an index in JSON, and a PNG of segment ids for each image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.layouts import PanopticLayout
from ovseg_ros.offline.data.panoptic_index import IGNORED, PanopticIndex
from ovseg_ros.offline.data.pixels import read_image, read_segment_ids
from ovseg_ros.offline.data.types import VOID, DatasetCategory, PanopticDataset, PanopticSample, SegmentLabel


class PanopticFiles(PanopticDataset):
    """One split in COCO's panoptic format.

    Args:
        name, root, split, categories: see `Dataset`.
        layout: where the files are.

    Raises:
        DatasetError: the index is missing or malformed, its categories differ, or it has no image.
    """

    def __init__(
        self, name: str, root: Path, split: str, categories: Sequence[DatasetCategory], layout: PanopticLayout
    ) -> None:
        super().__init__(name, root, split, categories)
        index, self._annotations, self._images = (part.place(root) for part in layout.parts(split))
        self._image_path = layout.image_path
        self.index = PanopticIndex(index, categories, layout.ignored_ids)
        if not len(self.index):
            raise DatasetError(f"{index} lists no image")

    def __len__(self) -> int:
        return len(self.index)

    def name_of(self, index: int) -> str:
        return str(Path(self.index.files[index][0]).with_suffix(""))

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file and the annotation file of sample `index`; they need not exist."""
        image, annotation = self.index.files[index]
        return self._images / self._image_path(image), self._annotations / annotation

    def __getitem__(self, index: int) -> PanopticSample:
        self._require(index)
        size, described = self.index.entry(index)
        image_path, annotation_path = self.paths_of(index)
        segment_ids = read_segment_ids(annotation_path, size)
        present, areas = np.unique(segment_ids[segment_ids != VOID], return_counts=True)
        area_of = dict(zip(present.tolist(), areas.tolist(), strict=True))
        segments = []
        for segment, category, crowd, declared in described.tolist():
            area = area_of.pop(segment, 0)
            if category == IGNORED:
                segment_ids[segment_ids == segment] = VOID
            else:
                is_thing = self.categories[category].is_thing
                segments.append(SegmentLabel(segment, category, is_thing, bool(crowd), area, declared))
        if area_of:
            shown = ", ".join(map(str, sorted(area_of)[:5])) + (
                f" and {len(area_of) - 5} more" if len(area_of) > 5 else ""
            )
            raise DatasetError(
                f"the annotation {annotation_path} has the segment ids {shown}, which {self.index.path} does not "
                "describe"
            )
        return PanopticSample(read_image(image_path, size), segment_ids, tuple(segments), self.name_of(index))
