"""Average precision of instances by pycocotools, from the run-length codes in the images' records."""

import contextlib
import io
import math
from collections.abc import Sequence
from typing import Any

from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovseg_ros.offline.evaluate.instances import Instance
from ovseg_ros.offline.evaluate.record import ImageRecord

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""Names of what is reported, in the order of pycocotools' summary."""


def average_precision(
    records: Sequence[ImageRecord], things: Sequence[int]
) -> tuple[dict[str, float], dict[int, float]]:
    """COCO's mask average precision of the categories `things`.

    Returns:
        `FIGURES` in percent, NaN where nothing was to be found; and the AP of each category that occurs in the truth.
    """
    # By name, since pycocotools breaks ties in score by the order of the images.
    counted = sorted((record for record in records if record.is_counted), key=lambda record: record.name)
    images = [{"id": i, "height": r.size[0], "width": r.size[1]} for i, r in enumerate(counted, start=1)]
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, record in zip(images, counted, strict=True):
        truth += [_entry(i, len(truth) + n, image) for n, i in enumerate(record.instances, start=1)]
        found += [_entry(i, len(found) + n, image) for n, i in enumerate(record.detections, start=1)]
    occurring = sorted({entry["category_id"] for entry in truth if not entry["iscrowd"]})
    if not occurring:
        return dict.fromkeys(FIGURES, math.nan), {}
    if not found:
        return dict.fromkeys(FIGURES, 0.0), dict.fromkeys(occurring, 0.0)

    categories = [{"id": k} for k in things]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(images, categories, truth), _coco(images, categories, found), "segm")
        # The others would have no precision; they only cost time.
        evaluation.params.catIds = sorted({entry["category_id"] for entry in (*truth, *found)})
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, category), all areas, 100 detections
    per_category = {}
    for place, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, place]
        if (values > -1).any():
            per_category[int(category)] = 100.0 * float(values[values > -1].mean())
    figures = [100.0 * float(value) if value > -1 else math.nan for value in evaluation.stats[: len(FIGURES)]]
    return dict(zip(FIGURES, figures, strict=True)), per_category


def _entry(instance: Instance, identity: int, image: dict[str, Any]) -> dict[str, Any]:
    """`identity` is 1 or more, since pycocotools takes an id of 0 for "no match"."""
    return {
        "id": identity,
        "image_id": image["id"],
        "category_id": instance.category,
        "segmentation": {"size": [image["height"], image["width"]], "counts": instance.rle},
        "iscrowd": int(instance.is_crowd),
        "score": instance.score,
    }


def _coco(images: list[dict[str, Any]], categories: list[dict[str, Any]], entries: list[dict[str, Any]]) -> COCO:
    # One at a time: pycocotools' `area` fails for a list of more than 255 under NumPy 2.
    annotations = [{**entry, "area": float(coco_mask.area(entry["segmentation"]))} for entry in entries]
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
