"""Every data set in COCO's panoptic format: an index in JSON, and a PNG of segment ids for each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.panoptic_index import IGNORED, PanopticIndex
from ovseg_ros.offline.data.pixels import read_image, read_segment_ids
from ovseg_ros.offline.data.types import VOID, DatasetCategory, PanopticDataset, PanopticSample, SegmentLabel


@dataclass(frozen=True, slots=True)
class PanopticLayout:
    """Where one split's files are.

    Attributes:
        index: the JSON file.
        images: folder of the images.
        annotations: folder of the PNGs.
        image_path: an image's path in `images`, from its file name in the index.
    """

    index: Path
    images: Path
    annotations: Path
    image_path: Callable[[str], str] = str


class PanopticFiles(PanopticDataset):
    """One split in COCO's panoptic format.

    Args:
        name, root, split, categories: see `Dataset`.
        layout: where the files are.
        ignored_ids: category ids in the index whose segments are void.

    Raises:
        DatasetError: the index is missing or malformed, its categories differ, or it has no image.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        split: str,
        categories: Sequence[DatasetCategory],
        layout: PanopticLayout,
        ignored_ids: Sequence[int] = (),
    ) -> None:
        super().__init__(name, root, split, categories)
        self.layout = layout
        self.index = PanopticIndex(layout.index, categories, ignored_ids)
        if not len(self.index):
            raise DatasetError(f"{layout.index} lists no image")

    def __len__(self) -> int:
        return len(self.index)

    def name_of(self, index: int) -> str:
        return str(Path(self.index.image_file(index)).with_suffix(""))

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file and the annotation file of sample `index`; they need not exist."""
        image = self.layout.images / self.layout.image_path(self.index.image_file(index))
        return image, self.layout.annotations / self.index.annotation_file(index)

    def __getitem__(self, index: int) -> PanopticSample:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} {self.split} has {len(self)} images; there is no image {index}")
        entry = self.index.entry(index)
        image_path, annotation_path = self.paths_of(index)
        segment_ids = read_segment_ids(annotation_path, entry.size)
        present, areas = np.unique(segment_ids[segment_ids != VOID], return_counts=True)
        area_of = dict(zip(present.tolist(), areas.tolist(), strict=True))
        segments = tuple(
            SegmentLabel(
                id=segment,
                category=category,
                is_thing=self.categories[category].is_thing,
                is_crowd=bool(crowd),
                area=area_of.pop(segment, 0),
                declared_area=declared,
            )
            for segment, category, crowd, declared in entry.segments.tolist()
            if category != IGNORED
        )
        ignored = [segment for segment, category, *_ in entry.segments.tolist() if category == IGNORED]
        if ignored:
            segment_ids[np.isin(segment_ids, ignored)] = VOID
            area_of = {segment: area for segment, area in area_of.items() if segment not in ignored}
        if area_of:
            raise DatasetError(
                f"the annotation {annotation_path} has the segment ids {_listed(area_of)}, which {self.layout.index} "
                "does not describe"
            )
        return PanopticSample(read_image(image_path, entry.size), segment_ids, segments, self.name_of(index))


def _listed(ids: dict[int, int]) -> str:
    shown = ", ".join(str(identity) for identity in sorted(ids)[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"
