"""The index of a data set in COCO's panoptic format: images, their segments, and the table of categories.

    {"images": [{"id", "file_name", "width", "height"}, ...],
     "annotations": [{"image_id", "file_name", "segments_info": [{"id", "category_id", "iscrowd", "area"}, ...]}, ...],
     "categories": [{"id", "name", "isthing"}, ...]}

A fault in one image's entry is kept and raised when that image is read, so that one bad entry does not cost the rest.
COCO's train split has 118,287 images and 1.3 million segments; they are held in flat arrays, which processes share.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.vocabulary import normalize_name
from ovseg_ros.offline.data.categories import own_categories, short
from ovseg_ros.offline.data.files import read_json
from ovseg_ros.offline.data.types import DatasetCategory

_LARGEST_ID = (1 << 24) - 1
_LARGEST_AREA = (1 << 31) - 1
IGNORED = -1
"""Category index of a segment whose pixels are void."""


class CocoIndex(ABC):
    """What COCO's formats have in common: images, annotations and categories.

    Args:
        path: the JSON file.
        categories: those that it must have; none where it says them itself.
        ignored_ids: category ids that it may have besides; no others.
        things: whether all its categories are things, so that it need not say which are.

    Attributes:
        categories: of the data set.
        files: of each image its file's name and its annotation's, as written; "" where it has none.
        image_ids: of each image its own id; "" where it has none.
        texts: of each category, by its id, its `name` and `supercategory` as the file has them.
        info: what the file says of itself; may be empty.

    Raises:
        DatasetError: the file is missing or not an index, or its table of categories is another one.
    """

    expected = ""

    def __init__(
        self,
        path: Path,
        categories: Sequence[DatasetCategory],
        ignored_ids: Sequence[int] = (),
        *,
        things: bool = False,
    ) -> None:
        self.path = path
        content = read_json(path, "it may be incomplete: get it again; docs/datasets.md says how it is made")
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise DatasetError(f"{path} has no list {key!r}; expected {self.expected}")
        self._refuse_other_format(content["annotations"])
        if categories:
            faults = category_faults(content["categories"], categories, ignored_ids, things=things)
            if faults:
                more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
                raise DatasetError(
                    f"{path} has another table of categories: {'; '.join(faults[:3])}{more}; if they are your own, "
                    "describe them in a file of your own (docs/datasets.md)"
                )
        self.categories = tuple(categories) or own_categories(
            content["categories"], str(path), ignored_ids, things=things
        )
        self.info: Mapping[str, Any] = content["info"] if isinstance(content.get("info"), dict) else {}
        self.texts = {
            entry["id"]: {key: entry[key] for key in ("name", "supercategory") if isinstance(entry.get(key), str)}
            for entry in content["categories"]
        }
        self._index_of = dict.fromkeys(ignored_ids, IGNORED)
        self._index_of.update({category.dataset_id: category.index for category in self.categories})
        self._problems: dict[int, str] = {}
        self.files: list[tuple[str, str]] = []
        self.image_ids: list[int | str] = []
        self._parse(content["images"], content["annotations"])

    def __len__(self) -> int:
        return len(self.files)

    @abstractmethod
    def _refuse_other_format(self, annotations: Sequence[Any]) -> None:
        """DatasetError for another of COCO's formats."""

    @abstractmethod
    def _parse(self, images: list[Any], annotations: list[Any]) -> None:
        """Fills `files`, `image_ids` and what the format has besides."""

    def _images(self, images: list[Any]) -> Iterator[tuple[int, Mapping[str, Any], int | str | None]]:
        """Place, entry and id of every image."""
        names: set[str] = set()
        seen: set[int | str] = set()
        for position, image in enumerate(images):
            if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
                raise DatasetError(f"{self.path}: images[{position}] is {short(image)}; expected one with a file_name")
            name = str(Path(image["file_name"]).with_suffix(""))
            if name in names:
                raise DatasetError(f"{self.path}: two images have the name {name!r}; take one of them out")
            names.add(name)
            identity = image.get("id") if isinstance(image.get("id"), (int, str)) else None
            if identity is not None and identity in seen:
                raise DatasetError(f"{self.path}: two images have the id {short(identity)}; give each one of its own")
            if identity is not None:
                seen.add(identity)
            self.image_ids.append("" if identity is None else identity)
            yield position, image, identity

    def _require_known(self, left: Mapping[Any, Any]) -> None:
        """DatasetError for annotations of no image, which `left` has by their image_id."""
        if left:
            raise DatasetError(
                f"{self.path}: {len(left)} annotations belong to no image, the first with image_id "
                f"{short(next(iter(left)))}; the file is incomplete, get it again"
            )

    def _require_sound(self, index: int) -> None:
        """DatasetError if an image's entry has a fault."""
        if index in self._problems:
            raise DatasetError(f"{self.path}: {self.files[index][0]}: {self._problems[index]}")

    def _category(self, what: str, category: Any) -> int:
        if not isinstance(category, int) or category not in self._index_of:
            raise ValueError(
                f"{what} has the unknown category_id {short(category)}; name it among the categories, or under "
                "ignore in the data set's file"
            )
        return self._index_of[category]


class PanopticIndex(CocoIndex):
    """The index of COCO's panoptic format."""

    expected = "COCO's panoptic format with images, annotations, categories"

    def _refuse_other_format(self, annotations: Sequence[Any]) -> None:
        if other := _other_format(annotations):
            raise DatasetError(
                f"{self.path} {other}; expected COCO's panoptic format, in which each image has one annotation with "
                "segments_info and a PNG (panoptic_train2017.json, panoptic_val2017.json)"
            )

    def entry(self, index: int) -> tuple[tuple[int, int], np.ndarray]:
        """An image's (height, width), and its segments.

        Returns:
            Of the segments (S, 4) int64: id, category index or `IGNORED`, whether crowd (0 or 1), declared area.

        Raises:
            DatasetError: the entry has a fault.
        """
        self._require_sound(index)
        height, width = self._sizes[index].tolist()
        return (height, width), self._segments[self._offsets[index] : self._offsets[index + 1]]

    def _parse(self, images: list[Any], annotations: list[Any]) -> None:
        annotation_of: dict[Any, Any] = {}
        for annotation in annotations:
            if not isinstance(annotation, dict) or not isinstance(annotation.get("image_id"), (int, str)):
                raise DatasetError(f"{self.path}: the annotation {short(annotation)} has no image_id")
            if annotation_of.setdefault(annotation["image_id"], annotation) is not annotation:
                image_id = short(annotation["image_id"])
                raise DatasetError(f"{self.path}: two annotations have the image_id {image_id}; take one out")
        sizes: list[tuple[int, int]] = []
        counts: list[int] = [0]
        rows: list[list[int]] = []
        for position, image, identity in self._images(images):
            described = annotation_of.pop(identity, None)
            try:
                size = image_size(image)
                segments, annotation_file = self._segments_of(described)
            except (KeyError, TypeError, ValueError) as error:
                self._problems[position] = entry_fault(error)
                said = described.get("file_name") if isinstance(described, dict) else ""
                size, segments, annotation_file = (0, 0), [], said if isinstance(said, str) else ""
            self.files.append((image["file_name"], annotation_file))
            sizes.append(size)
            rows += segments
            counts.append(len(segments))
        self._require_known(annotation_of)
        self._sizes = np.array(sizes, dtype=np.int32).reshape(-1, 2)
        self._offsets = np.cumsum(counts, dtype=np.int64)
        self._segments = np.array(rows, dtype=np.int64).reshape(-1, 4)

    def _segments_of(self, annotation: Any) -> tuple[list[list[int]], str]:
        """Rows as in `entry`, and the PNG's name, or ValueError, KeyError or TypeError with what is wrong."""
        if annotation is None:
            raise ValueError("it has no annotation")
        rows, seen = [], set()
        for info in annotation["segments_info"]:
            segment = info["id"]
            if not isinstance(segment, int) or not 0 < segment <= _LARGEST_ID:
                raise ValueError(f"segment id {short(segment)} is not 1 to {_LARGEST_ID}")
            if segment in seen:
                raise ValueError(f"two segments have the id {segment}")
            category = self._category(f"segment {segment}", info["category_id"])
            area = info["area"]
            if not isinstance(area, (int, float)) or not 0 <= area <= _LARGEST_AREA:
                raise ValueError(f"segment {segment} has the area {short(area)}")
            seen.add(segment)
            rows.append([segment, category, int(bool(info.get("iscrowd", 0))), int(area)])
        return rows, str(annotation["file_name"])


def _other_format(annotations: Sequence[Any]) -> str:
    """Which other one of COCO's formats these annotations have; "" for none."""
    known = [annotation for annotation in annotations if isinstance(annotation, dict)]
    if not known or any("segments_info" in annotation for annotation in known):
        return ""
    if "caption" in known[0]:
        return "is a captions file"
    if {"segmentation", "bbox"} & known[0].keys():
        return "is an instances file: an annotation for each object, with segmentation and bbox"
    return f"has no annotation with segments_info; the first holds {short(sorted(map(str, known[0])))}"


def category_faults(
    table: Sequence[Any],
    categories: Sequence[DatasetCategory],
    ignored_ids: Sequence[int] = (),
    *,
    things: bool = False,
) -> list[str]:
    """How a file's table of categories differs from the expected one, a sentence for each difference.

    Of `things`, a table need not say that they are.
    """
    faults = []
    says_things = any(isinstance(entry, dict) and "isthing" in entry for entry in table)
    if table and not says_things and not things:
        faults.append("its categories have no isthing; add it to each: 1 for things, 0 for stuff")
    found: dict[Any, Mapping[str, Any]] = {}
    for entry in table:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int):
            faults.append(f"the category {short(entry)} has no id")
        else:
            found[entry["id"]] = entry
    for category in categories:
        entry = found.pop(category.dataset_id, None)
        where = f"category {category.dataset_id} ({category.name})"
        if entry is None:
            faults.append(f"{where} is missing")
            continue
        if not _names_agree(str(entry.get("name")), category):
            faults.append(f"{where} is called {short(entry.get('name'))}")
        if says_things and "isthing" not in entry:
            faults.append(f"{where} has no isthing; expected {int(category.is_thing)}")
        elif says_things and bool(entry["isthing"]) != category.is_thing:
            expected, got = ("a thing", "stuff") if category.is_thing else ("stuff", "a thing")
            faults.append(f"{where} is {got}; expected {expected}")
    faults += [
        f"category {identity} ({short(entry.get('name'))}) is unknown"
        for identity, entry in found.items()
        if identity not in ignored_ids
    ]
    return faults


def entry_fault(error: KeyError | TypeError | ValueError) -> str:
    """What is wrong with an entry, by what reading it raised."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def image_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of an image's entry; KeyError or ValueError if it has none."""
    height, width = image["height"], image["width"]
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height < 1 << 20 and 0 < width < 1 << 20):
        raise ValueError(f"its size is {short(width)} x {short(height)}")
    return height, width


def _names_agree(found: str, category: DatasetCategory) -> bool:
    """ADE20K's tables hold all of a category's names, separated by commas or semicolons, or only some of them."""
    known = {normalize_name(name) for name in (category.name, *category.synonyms)}
    phrases = {normalize_name(phrase) for phrase in (found, *found.replace(";", ",").split(","))}
    return not known.isdisjoint(phrases)
