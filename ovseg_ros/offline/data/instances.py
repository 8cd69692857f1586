"""Every data set in COCO's instances format: things alone, as polygons or run lengths in one JSON file.

    {"images": [{"id", "file_name", "width", "height"}, ...],
     "annotations": [{"image_id", "category_id", "segmentation", "iscrowd"}, ...],
     "categories": [{"id", "name"}, ...]}

An image's instances become one map of segments: crowds first, then larger ones, so that smaller ones lie above them and
stay visible. Pixels of no instance are void. As in panoptic indices, a fault costs its image alone.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.categories import short
from ovseg_ros.offline.data.forms import InstancesForm
from ovseg_ros.offline.data.indexed import IndexedImages
from ovseg_ros.offline.data.layouts import Files
from ovseg_ros.offline.data.panoptic_index import IGNORED, CocoIndex, entry_fault, image_size
from ovseg_ros.offline.data.pixels import read_image
from ovseg_ros.offline.data.types import VOID, DatasetCategory, OwnNames, PanopticSample, SegmentLabel

Rle = Mapping[str, Any]


class InstancesIndex(CocoIndex):
    """The index of COCO's instances format. Segmentations are kept as text, since COCO has 860,000 of them."""

    expected = "COCO's instances format with images, annotations, categories"

    def entry(self, index: int) -> tuple[tuple[int, int], list[tuple[int, bool, Rle]]]:
        """An image's (height, width), and its instances: category index or `IGNORED`, whether crowd, and mask.

        Raises:
            DatasetError: the entry has a fault.
        """
        self._require_sound(index)
        height, width = self._sizes[index]
        found = []
        for number, annotation in enumerate(json.loads(self._annotations[index])):
            what = f"annotation {short(annotation.get('id', number))}"
            try:
                category = self._category(what, annotation["category_id"])
                rle = _rle_of(annotation.get("segmentation"), height, width)
            except (KeyError, TypeError, ValueError) as error:
                reason = entry_fault(error)
                told = reason if reason.startswith(what) else f"{what}: {reason}"
                raise DatasetError(f"{self.path}: {self.files[index][0]}: {told}") from error
            found.append((category, bool(annotation.get("iscrowd", 0)), rle))
        return (height, width), found

    def _refuse_other_format(self, annotations: Sequence[Any]) -> None:
        known = [annotation for annotation in annotations if isinstance(annotation, dict)]
        if any("segments_info" in annotation for annotation in known):
            raise DatasetError(f"{self.path} is a panoptic file; write kind: panoptic, and where its masks are")
        if known and not any(annotation.get("segmentation") for annotation in known):
            raise DatasetError(
                f"{self.path} has no annotation with a segmentation, as a file of boxes or captions has none; expected "
                "polygons or run lengths"
            )

    def _parse(self, images: list[Any], annotations: list[Any]) -> None:
        annotations_of: dict[Any, list[Mapping[str, Any]]] = {}
        ids: set[Any] = set()
        for annotation in annotations:
            if not isinstance(annotation, dict) or not isinstance(annotation.get("image_id"), (int, str)):
                raise DatasetError(f"{self.path}: the annotation {short(annotation)} has no image_id")
            identity = annotation.get("id")
            if isinstance(identity, (int, str)):
                if identity in ids:
                    raise DatasetError(f"{self.path}: two annotations have the id {short(identity)}; take one out")
                ids.add(identity)
            annotations_of.setdefault(annotation["image_id"], []).append(annotation)
        self._sizes: list[tuple[int, int]] = []
        self._annotations: list[bytes] = []
        for position, image, identity in self._images(images):
            size = (0, 0)
            try:
                size = image_size(image)
            except (KeyError, ValueError) as error:
                self._problems[position] = entry_fault(error)
            self.files.append((image["file_name"], ""))
            self._sizes.append(size)
            self._annotations.append(json.dumps(annotations_of.pop(identity, [])).encode())
        self._require_known(annotations_of)


class InstancesFiles(IndexedImages[InstancesIndex]):
    """One split in COCO's instances format.

    Args:
        name, root, split: see `Dataset`.
        categories: those that the index must have; none where it says them itself.
        parts: the index and the images.
        form: what the data set's file says of ids that are left out, and of names.

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
        form: InstancesForm,
    ) -> None:
        index, images = (part.place(root) for part in parts)
        parsed = InstancesIndex(index, categories, form.ignore, things=True)
        super().__init__(name, root, split, parsed, images, form.image_name)

    def paths_of(self, index: int) -> tuple[Path, Path]:
        """The image file of sample `index`, which need not exist, and the index."""
        return self.image_path(index), self.index.path

    def own_names(self, index: int) -> OwnNames:
        truth = str(Path(self.image_name(index)).with_suffix(".png"))
        return OwnNames(self.index.image_ids[index], self.index.files[index][0], truth, self.image_path(index))

    def __getitem__(self, index: int) -> PanopticSample:
        self._require(index)
        size, every = self.index.entry(index)
        instances = [instance for instance in every if instance[0] != IGNORED]
        areas = [int(coco_mask.area(rle)) for *_, rle in instances]
        segment_ids = np.full(size, VOID, dtype=np.int32)
        for place in sorted(range(len(instances)), key=lambda i: (not instances[i][1], -areas[i])):
            segment_ids[coco_mask.decode(instances[place][2]).astype(bool)] = place + 1
        visible = np.bincount(segment_ids.ravel(), minlength=len(instances) + 1).tolist()
        segments = tuple(
            SegmentLabel(number, category, is_thing=True, is_crowd=crowd, area=area, declared_area=area)
            for number, ((category, crowd, _), area) in enumerate(zip(instances, visible[1:], strict=True), start=1)
        )
        return PanopticSample(read_image(self.image_path(index), size), segment_ids, segments, self.name_of(index))


def _rle_of(segmentation: Any, height: int, width: int) -> Rle:
    """COCO's compressed run lengths of a segmentation in any of COCO's forms; ValueError for anything else."""
    if isinstance(segmentation, list) and segmentation:
        for polygon in segmentation:
            _require_polygon(polygon, height, width)
        rle: Rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        return rle
    if not isinstance(segmentation, dict):
        raise ValueError(f"its segmentation is {short(segmentation)}; expected polygons or run lengths, no box alone")
    counts, size = segmentation["counts"], segmentation.get("size", [height, width])
    if size != [height, width]:
        raise ValueError(f"its run lengths are of size {short(size)}; expected [{height}, {width}] (height, width)")
    if isinstance(counts, list):
        if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != height * width:
            raise ValueError(f"its run lengths {short(counts)} are not those of {height} x {width} pixels")
        uncompressed: Rle = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
        return uncompressed
    if not isinstance(counts, str) or sum(_runs(counts)) != height * width:
        raise ValueError(f"its run lengths {short(counts)} are not those of {height} x {width} pixels")
    return {"size": size, "counts": counts.encode()}


def _runs(code: str) -> Iterator[int]:
    """The run lengths that COCO's compressed text stands for; damaged ones would be decoded past the end of memory."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in code:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {character!r} is none of its run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    if shift or any(run < 0 for run in runs):
        raise ValueError("its run lengths end early or are negative")
    return iter(runs)


def _require_polygon(polygon: Any, height: int, width: int) -> None:
    """ValueError unless a polygon has 3 points and a part in the image; it may reach out of it by the image's size."""
    if not isinstance(polygon, list) or not all(
        type(value) in (int, float) and math.isfinite(value) for value in polygon
    ):
        raise ValueError(f"its polygon {short(polygon)} is no list of numbers x, y, x, y, ...")
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(f"its polygon {short(polygon)} has {len(polygon)} numbers; expected x, y of 3 or more points")
    for values, size, axis in ((polygon[::2], width, "x"), (polygon[1::2], height, "y")):
        low, high = min(values), max(values)
        if high <= 0 or low >= size or low < -size or high > 2 * size:
            raise ValueError(
                f"its polygon is outside the image of {width}x{height} (width x height): {axis} is {low:g} to {high:g}"
            )
