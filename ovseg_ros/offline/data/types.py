"""What every data set gives: categories, and samples of uint8 RGB images with exact ground truth.

Category indices are contiguous, 0 to K - 1, in the order of the data set's file in `config/vocabularies`. They are
therefore also the category ids of a vocabulary that is built of that file first of all, such as `Dataset.vocabulary`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

VOID = 0
"""Segment id of pixels that belong to no segment."""

IGNORE = NO_CATEGORY
"""Label of pixels without a category in a `SemanticSample`: 65535, as in a `PanopticResult`."""


@dataclass(frozen=True, slots=True)
class DatasetCategory:
    """One category of a data set.

    Attributes:
        index: 0 to K - 1, contiguous.
        dataset_id: the id in the data set's own files.
        name: as published.
        synonyms: other phrases for it.
        is_thing: thing or stuff.
    """

    index: int
    dataset_id: int
    name: str
    synonyms: tuple[str, ...]
    is_thing: bool


@dataclass(frozen=True, slots=True)
class SegmentLabel:
    """One segment of the ground truth.

    Attributes:
        id: its value in `PanopticSample.segment_ids`; 1 to 2^24 - 1.
        category: index into `Dataset.categories`.
        is_thing: thing or stuff.
        is_crowd: a region of several things that were not told apart.
        area: its pixels in `PanopticSample.segment_ids`; 0 where other segments were drawn over all of it, as happens
            to stuff in ADE20K.
        declared_area: its pixels as the annotation file says; panopticapi takes this one for the union.
    """

    id: int
    category: int
    is_thing: bool
    is_crowd: bool
    area: int
    declared_area: int


@dataclass(frozen=True, slots=True)
class PanopticSample:
    """An image with its segments.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        segment_ids: (H, W) int32; 0 = void, every other value is the id of exactly one of `segments`.
        segments: in the order of the annotation, with those that have no pixel left (`area` 0).
        name: of the image in its data set, unique within the split.
    """

    image: np.ndarray
    segment_ids: np.ndarray
    segments: tuple[SegmentLabel, ...]
    name: str

    @property
    def is_void(self) -> bool:
        """Whether no pixel has a label."""
        return not any(segment.area for segment in self.segments)


@dataclass(frozen=True, slots=True)
class SemanticSample:
    """An image with a category for every pixel.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) int32 category indices; `IGNORE` (65535) where there is none.
        name: of the image in its data set, unique within the split.
    """

    image: np.ndarray
    labels: np.ndarray
    name: str

    @property
    def is_void(self) -> bool:
        """Whether no pixel has a label."""
        return bool((self.labels == IGNORE).all())


@dataclass(frozen=True, slots=True)
class OwnNames:
    """What a data set's own files call an image.

    Attributes:
        id: in its index; the place, from 1, where there is no index.
        image, truth: paths of the photograph and of the annotation, each below the folder of all of them.
        file: where the photograph is; None where it is rendered.
    """

    id: int | str
    image: str
    truth: str
    file: Path | None = None


Sample = TypeVar("Sample", PanopticSample, SemanticSample)


class Dataset(ABC, Generic[Sample]):
    """One split of a data set, read image by image; opening it reads no image. May be sent to another process.

    Attributes:
        name: as `open_dataset` takes it.
        root: the data set's folder; None where images are rendered.
        split: as `open_dataset` takes it.
        categories: K categories; `categories[i].index == i`.
        scenes: of a simulated data set, what made it: `seed` of the first scene, `width` and `height` in pixels.
        no_category: of label maps, the value that says so; None if there is none.
    """

    no_category: int | None = None

    def __init__(
        self,
        name: str,
        root: Path | None,
        split: str,
        categories: Sequence[DatasetCategory],
        scenes: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.root = root
        self.split = split
        self.categories = tuple(categories)
        self.scenes = dict(scenes or {})

    @abstractmethod
    def __len__(self) -> int:
        """Number of images in the split."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Read one sample.

        Raises:
            DatasetError: a file is missing, damaged or malformed; the message names it.
            IndexError: `index` is not in 0 to len - 1.
        """

    @abstractmethod
    def name_of(self, index: int) -> str:
        """The name that sample `index` has, without reading it."""

    def own_names(self, index: int) -> OwnNames:
        """What the data set's own files call sample `index`, without reading it; of rendered ones, what is written."""
        name = f"{self.name_of(index)}.png"
        return OwnNames(index + 1, name, name)

    def category_table(self) -> list[dict[str, Any]]:
        """The categories as an index in COCO's panoptic format lists them, in this data set's order."""
        return [{"id": c.dataset_id, "name": c.name, "isthing": int(c.is_thing)} for c in self.categories]

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            yield self[index]

    def _require(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} {self.split} has {len(self)} images; there is no image {index}")

    def vocabulary(self) -> Vocabulary:
        """The data set's own vocabulary; its category ids are the categories' indices."""
        specs = [CategorySpec(c.name, c.synonyms, c.is_thing) for c in self.categories]
        return Vocabulary.build(specs, max_categories=len(specs))


class PanopticDataset(Dataset[PanopticSample], ABC):
    """A data set that gives `PanopticSample`."""


class SemanticDataset(Dataset[SemanticSample], ABC):
    """A data set that gives `SemanticSample`."""
