"""One image's ground truth in the form that every figure needs, from a panoptic or a semantic sample."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.offline.data.semantic import regions
from ovseg_ros.offline.data.types import PanopticSample, SemanticSample


@dataclass(frozen=True, slots=True)
class Truth:
    """What is in an image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        segment_ids: (H, W) int32, 0 = void. Of a semantic sample, every category is one segment.
        categories: category index of each segment, in the annotation's order; some may have no pixel.
        crowd_ids: segments that are crowd regions.
        areas: pixels of each segment as a panoptic annotation declares them.
        labels: (H, W) uint16 category index, `NO_CATEGORY` where there is none. Crowd regions have their category.
        is_panoptic: False where segments are not instances, so that only semantic figures mean something.
        name: unique within the split.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    categories: Mapping[int, int]
    crowd_ids: frozenset[int]
    areas: Mapping[int, int]
    labels: np.ndarray
    is_panoptic: bool
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.segment_ids.shape[0], self.segment_ids.shape[1]

    @property
    def visible(self) -> list[int]:
        """The segments with a pixel, crowd regions too, in the annotation's order."""
        present = set(np.unique(self.segment_ids).tolist())
        return [segment for segment in self.categories if segment in present]

    @property
    def is_void(self) -> bool:
        """Whether there is nothing to find: no labelled pixel, nor a segment that the annotation lists without one."""
        return not self.categories and not self.segment_ids.any()

    def without_names(self) -> "Truth":
        """The same with all segments of one category, 0, and its crowd regions as one, as quality remembers no more."""
        kept = frozenset(sorted(self.crowd_ids)[:1])
        ids = self.segment_ids
        if len(self.crowd_ids) > 1:
            ids = np.where(np.isin(ids, list(self.crowd_ids)), min(kept), ids)
        categories = {i: 0 for i in self.categories if i in kept or i not in self.crowd_ids}
        return replace(self, segment_ids=ids, categories=categories, crowd_ids=kept)

    def without_crowd(self) -> np.ndarray:
        """`segment_ids` with crowd regions void."""
        if not self.crowd_ids:
            return self.segment_ids
        return np.where(np.isin(self.segment_ids, list(self.crowd_ids)), 0, self.segment_ids)


def truth_of(sample: PanopticSample | SemanticSample) -> Truth:
    """The truth of a sample.

    Raises:
        DatasetError: the annotation has another size than the image.
    """
    map_size = (sample.segment_ids if isinstance(sample, PanopticSample) else sample.labels).shape
    if map_size != sample.image.shape[:2]:
        raise DatasetError(
            f"the annotation of {sample.name} is {map_size} (height, width), but the image is "
            f"{sample.image.shape[:2]}; correct one of the files"
        )
    if isinstance(sample, SemanticSample):
        ids, categories = regions(sample.labels)
        labels = sample.labels.astype(np.uint16)
        return Truth(sample.image, ids, categories, frozenset(), {}, labels, False, sample.name)
    present, index = np.unique(sample.segment_ids, return_inverse=True)
    categories = {segment.id: segment.category for segment in sample.segments}
    table = np.array([categories.get(int(i), NO_CATEGORY) for i in present], dtype=np.uint16)
    return Truth(
        sample.image,
        sample.segment_ids,
        categories,
        frozenset(segment.id for segment in sample.segments if segment.is_crowd),
        {segment.id: segment.declared_area for segment in sample.segments},
        table[index.reshape(sample.segment_ids.shape)],
        True,
        sample.name,
    )
