"""Every data set in COCO's panoptic format: an index in JSON, and a PNG of segment ids for each image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.forms import PanopticForm
from ovseg_ros.offline.data.indexed import IndexedImages
from ovseg_ros.offline.data.layouts import Files
from ovseg_ros.offline.data.panoptic_index import IGNORED, PanopticIndex
from ovseg_ros.offline.data.pixels import read_image, read_segment_ids
from ovseg_ros.offline.data.types import (
    VOID,
    DatasetCategory,
    OwnNames,
    PanopticSample,
    SegmentLabel,
)


class PanopticFiles(IndexedImages[PanopticIndex]):
    """One split in COCO's panoptic format.

    Args:
        name, root, split: see `Dataset`.
        categories: those that the index must have; none where it says them itself.
        parts: the index, the annotations and the images.
        form: what the data set's file says of ids that are void, and of names.

    Raises:
        DatasetError: the index is missing or malformed, its categories differ, or it has no image; see `require_place`.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        split: str,
        categories: Sequence[DatasetCategory],
        parts: Sequence[Files],
        form: PanopticForm,
    ) -> None:
        index, self._annotations, images = (part.place(root) for part in parts)
        parsed = PanopticIndex(index, categories, form.ignore)
        super().__init__(name, root, split, parsed, images, form.image_name)

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file and the annotation file of sample `index`; they need not exist."""
        return self.image_path(index), self._annotations / self.index.files[index][1]

    def own_names(self, index: int) -> OwnNames:
        image, annotation = self.index.files[index]
        return OwnNames(self.index.image_ids[index], image, annotation, self.image_path(index))

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
