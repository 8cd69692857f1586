"""Predictions as files that other tools score: COCO's panoptic and instance results, and label maps.

    plan.json                the evaluation that they are of, and the data set's table of categories; written first
    panoptic/, semantic/     a PNG for each image, called as the data set's own annotation
    panoptic.json            the index of panoptic/; written when all images are done
    instances.json           the detections that average precision is computed from; likewise

Names come from files of strangers: none leads out of the folder.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, from_mapping
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb
from ovseg_ros.offline.data.files import check_outputs, read_json, write_bytes, write_image, write_json
from ovseg_ros.offline.data.types import PanopticDataset, SemanticDataset
from ovseg_ros.offline.evaluate.plan import Plan
from ovseg_ros.offline.evaluate.record import ImageRecord, Kept, KeptSegment
from ovseg_ros.offline.evaluate.truth import Truth
from ovseg_ros.offline.words import say

_PLAN, _INDEX, _INSTANCES, _PANOPTIC, _SEMANTIC = "plan.json", "panoptic.json", "instances.json", "panoptic", "semantic"
WRITTEN_LAST = (_INDEX, _INSTANCES)
"""Names of the files that `write_index` writes."""


@dataclass(frozen=True, slots=True, config=STRICT)
class _Made:
    plan: Plan
    categories: tuple[Mapping[str, Any], ...]


class Predictions:
    """The PNGs of an evaluation's images, or of a part of it; all parts write into one folder.

    Args:
        folder: made by `begin`.
        dataset: what is evaluated, of which the first `images`.

    Raises:
        OvsegError: the folder holds other files of these names or cannot be written, or the data set's own names for
            its annotations lead out of it or are not unique.
    """

    def __init__(self, folder: Path, dataset: PanopticDataset | SemanticDataset, images: int) -> None:
        self._folder = folder
        self._table = dataset.category_table()
        self._is_panoptic = isinstance(dataset, PanopticDataset)
        kinds = [_PANOPTIC, _SEMANTIC] if self._is_panoptic else [_SEMANTIC]
        if not (folder / _PLAN).exists() and (found := [n for n in (*WRITTEN_LAST, *kinds) if (folder / n).exists()]):
            raise ConfigError(
                f"{folder} holds {' and '.join(found)}, but not of predictions; choose another --predictions"
            )
        check_outputs(folders={f"{kind}/ of --predictions": folder / kind for kind in kinds}, files={})
        names = [dataset.own_names(index) for index in range(images)]
        self._names = {dataset.name_of(i): (own, _file_of(own.truth)) for i, own in enumerate(names) if own.truth}
        image_of: dict[str, str] = {}
        for own, file in self._names.values():
            if file in image_of:
                raise DatasetError(
                    f"{image_of[file]} and {own.image} have the same annotation {file}, so their predictions would "
                    "replace each other; correct the data set, or leave --predictions out"
                )
            image_of[file] = own.image
        self._values = _label_values([row["id"] for row in self._table], dataset.no_category)
        if self._values is None:
            say("no label maps in semantic/: the categories' ids are above what 16 bits hold")

    def begin(self, plan: Plan) -> None:
        """Say what the folder is of. OvsegError if it is of another evaluation."""
        if (self._folder / _PLAN).exists():
            _made(self._folder, plan)
        write_json(self._folder / _PLAN, {"plan": asdict(plan), "categories": self._table})

    def keep(self, truth: Truth, panoptic: PanopticResult, labels: np.ndarray) -> Kept:
        """Write an image's PNGs; see `Keep`."""
        own, file = self._names[truth.name]
        if self._values is not None:
            write_image(self._folder / _SEMANTIC / file, self._values[labels])
        if not self._is_panoptic:
            return Kept(own.id, own.image, file)
        write_image(self._folder / _PANOPTIC / file, ids_to_rgb(panoptic.segment_ids))
        segments = (
            KeptSegment(s.id, self._table[s.category_id]["id"], s.score, s.area, s.box) for s in panoptic.segments
        )
        return Kept(own.id, own.image, file, tuple(segments))

    def hold(self, record: ImageRecord) -> bool:
        """Whether the image's prediction is in this folder."""
        return record.kept is not None and all(path.is_file() for path in self._paths(record.kept))

    def _paths(self, kept: Kept) -> list[Path]:
        folders = [_SEMANTIC] * (self._values is not None) + [_PANOPTIC] * self._is_panoptic
        return [self._folder / folder / kept.file for folder in folders]


def write_index(folder: Path, plan: Plan, records: Sequence[ImageRecord], facts: Mapping[str, Any]) -> None:
    """Write what is of all images, from their records.

    Args:
        folder: with the PNGs of all parts.
        facts: what the predictions are, for people.

    Raises:
        OvsegError: the folder is of no or another evaluation, or some images have no prediction in it.
    """
    made = _made(folder, plan)
    ordered = sorted((record for record in records if not record.fault), key=lambda record: record.name)
    kept = [(record, record.kept) for record in ordered if record.kept is not None]
    places = [folder / (_PANOPTIC if plan.is_panoptic else _SEMANTIC) / own.file for _, own in kept]
    if len(kept) < len(ordered) or not all(place.is_file() for place in places):
        found = sum(place.is_file() for place in places)
        raise ConfigError(
            f"{folder} has predictions of {found} of {len(ordered)} images; give its parts the same --predictions"
        )
    if plan.is_panoptic:
        images, annotations, instances = [], [], []
        for record, own in kept:
            height, width = record.size
            images.append({"id": own.image_id, "file_name": own.image, "width": width, "height": height})
            segments = [{**segment._asdict(), "iscrowd": 0} for segment in own.segments]
            annotations.append({"image_id": own.image_id, "file_name": own.file, "segments_info": segments})
            # Without boxes, whose area pycocotools would take for the mask's, and so objects for larger ones.
            instances += [
                {
                    "image_id": own.image_id,
                    "category_id": made.categories[detection.category]["id"],
                    "segmentation": {"size": [height, width], "counts": detection.rle},
                    "score": detection.score,
                }
                for detection in record.detections
            ]
        skipped = [{"name": r.name, "reason": r.fault} for r in sorted(records, key=lambda r: r.name) if r.fault]
        info = {name: value for name, value in facts.items() if name != "root"}  # servers need not know
        index = {"info": info, "images": images, "annotations": annotations, "categories": made.categories}
        if any(is_thing for _, is_thing in plan.categories):
            write_bytes(folder / _INSTANCES, json.dumps(instances).encode())
        write_bytes(folder / _INDEX, json.dumps({**index, "skipped": skipped}).encode())
    say(f"predictions of {len(kept)} images written to {folder}")


def _made(folder: Path, plan: Plan) -> _Made:
    """What is said of the folder. OvsegError if it is of no or another evaluation."""
    remedy = "choose the --predictions that the parts were evaluated with"
    try:
        made = from_mapping(_Made, read_json(folder / _PLAN, remedy), str(folder / _PLAN))
    except ConfigError as error:
        raise ConfigError(f"{error}; {remedy}, or another folder") from error
    if difference := made.plan.difference(plan):
        raise ConfigError(
            f"{folder} holds predictions of another evaluation: {difference}; delete it, or choose another "
            "--predictions"
        )
    return made


def _file_of(truth: str) -> str:
    """The PNG for an annotation's own name. DatasetError if that is no path inside a folder."""
    path = PurePosixPath(truth)
    if path.is_absolute() or not path.name or ".." in path.parts or "\0" in truth or not _is_encodable(truth):
        raise DatasetError(
            f"the annotation's name {truth!r:.80} leads out of --predictions, or is no name; correct the data set, or "
            "leave --predictions out"
        )
    return str(path if path.suffix.lower() == ".png" else path.with_suffix(".png"))


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # JSON may hold halves of characters
        return False
    return True


def _label_values(ids: Sequence[int], no_category: int | None) -> np.ndarray | None:
    """By category index, the value in a label map: uint8 where all values fit, else uint16; None if not even that."""
    for bits in (8, 16):
        nothing = (1 << bits) - 1 if no_category is None else no_category
        if max(*ids, nothing) < 1 << bits and nothing not in ids and min(ids) >= 0:
            values = np.full(NO_CATEGORY + 1, nothing, dtype=f"uint{bits}")
            values[: len(ids)] = ids
            return values
    return None
