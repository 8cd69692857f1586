"""From the images' records to the figures."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ovseg_ros.core.metrics.mask_recall import MaskRecall
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.panoptic_quality import CategoryCounts, PanopticQuality
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.offline.evaluate.average_precision import average_precision
from ovseg_ros.offline.evaluate.plan import Plan
from ovseg_ros.offline.evaluate.record import ImageRecord

LEVEL, RESAMPLES, SEED = 0.95, 1000, 0
"""Of the bootstrap intervals."""


def figures_of(plan: Plan, records: Sequence[ImageRecord]) -> dict[str, Any]:
    """All figures, in percent; NaN where nothing was counted. They do not depend on the order of the records."""
    ordered = sorted(records, key=lambda record: record.name)
    counted = [record for record in ordered if record.is_counted]
    pixels = _pixels(record.pixels for record in counted)
    figures: dict[str, Any] = {
        "miou": pixels.result(only_in_truth=True),
        "miou_categories": sum(truth > 0 for _, _, truth in pixels.counts().values()),
    }
    quality, ap = _quality(record.quality for record in counted), dict[int, float]()
    if plan.is_panoptic:
        things, stuff = _indices(plan, is_thing=True), _indices(plan, is_thing=False)
        groups: dict[str, Collection[int] | None] = {"all": None, "things": things, "stuff": stuff, **plan.groups}
        figures["groups"] = list(groups)
        for name, group in groups.items():
            figures[name] = _quality_figures(quality, group) | {"miou": pixels.result(group, only_in_truth=True)}
        if all(record.unnamed or not record.quality for record in counted):  # parts of an earlier version have none
            figures["names_ignored"] = _quality_figures(_quality(record.unnamed for record in counted), None)
        for key, names in plan.renamed.items():
            renamed = _quality(record.renamed[key] for record in counted)
            rows = {name: _quality_figures(renamed, group) for name, group in groups.items()}
            drops = {
                "drop" if name == "all" else f"drop_{name}": figures[name]["pq"] - row["pq"]
                for name, row in rows.items()
            }
            figures[key] = {**rows, **drops, "names": list(names)}
        figures["ap"], ap = average_precision(counted, things)
        for place, name in enumerate(("mask_recall_50", "mask_recall_75", "segment_recall_50"), start=1):
            figures |= _recall_figures(name, [(record.recall[place], record.recall[0]) for record in counted])
        figures["confusion"] = confusion_table(plan, counted)
    if plan.oracle == "masks":
        masks, right = (sum(record.classified[place] for record in counted) for place in (0, 1))
        figures["mask_accuracy"] = 100.0 * right / masks if masks else math.nan
    if seconds := [record.seconds for record in counted if record.seconds]:
        figures["seconds_per_image"] = {f"p{share}": float(np.percentile(seconds, share)) for share in (50, 95)}
    figures["per_category"] = _per_category(plan, quality, pixels, ap)
    figures["images"] = len(counted)
    figures["void"] = [record.name for record in ordered if record.is_void]
    figures["skipped"] = {record.name: record.fault for record in ordered if record.fault}
    return figures


def image_score(record: ImageRecord) -> float:
    """How well one image was segmented, in percent: its PQ, or its mean IoU where there are no instances."""
    if record.quality:
        return _quality([record.quality]).result().pq
    return _pixels([record.pixels]).result(only_in_truth=True)


def confusion_table(plan: Plan, records: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    """Pairs of a true category and another that was predicted for the same mask, the most frequent first.

    Each with `count` and `share`: the percentage of the true category's matched masks.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    matched: Counter[int] = Counter()
    for truth, predicted, count in (row for record in records for row in record.confusion):
        pairs[truth, predicted] += count
        matched[truth] += count
    names = [name for name, _ in plan.categories]
    wrong = sorted(((-count, *pair) for pair, count in pairs.items() if pair[0] != pair[1]))
    return [
        {"truth": names[t], "predicted": names[p], "count": -negative, "share": -100.0 * negative / matched[t]}
        for negative, t, p in wrong
    ]


def _indices(plan: Plan, *, is_thing: bool) -> list[int]:
    return [index for index, (_, kind) in enumerate(plan.categories) if kind == is_thing]


def _quality(images: Iterable[Sequence[CategoryCounts]]) -> PanopticQuality:
    quality = PanopticQuality()
    for counts in images:
        quality.add_counts(counts)
    return quality


def _pixels(images: Iterable[Mapping[int, tuple[int, int, int]]]) -> MeanIoU:
    pixels = MeanIoU(NO_CATEGORY)
    for counts in images:
        pixels.add_counts(counts)
    return pixels


def _quality_figures(quality: PanopticQuality, group: Collection[int] | None) -> dict[str, Any]:
    result = quality.result(group)
    interval = quality.confidence_interval(group, level=LEVEL, resamples=RESAMPLES, seed=SEED)
    return {
        "pq": result.pq,
        "sq": result.sq,
        "rq": result.rq,
        "pq_ci95": list(interval),
        "categories": result.categories,
    }


def _recall_figures(name: str, counts: Sequence[tuple[int, int]]) -> dict[str, Any]:
    recall = MaskRecall()
    for found, segments in counts:
        recall.add(found, segments)
    interval = recall.confidence_interval(level=LEVEL, resamples=RESAMPLES, seed=SEED)
    return {name: recall.result(), f"{name}_ci95": list(interval)}


def _per_category(
    plan: Plan, quality: PanopticQuality, pixels: MeanIoU, ap: Mapping[int, float]
) -> dict[str, dict[str, Any]]:
    """Every category that occurs in the truth or in a prediction."""
    by_id, iou = quality.per_category(), pixels.per_category()
    rows = {}
    for index, (name, is_thing) in enumerate(plan.categories):
        if index not in by_id and index not in iou:
            continue
        row: dict[str, Any] = {"is_thing": is_thing, **{name: index in group for name, group in plan.groups.items()}}
        row["iou"] = iou.get(index, math.nan)
        if index in by_id:
            q = by_id[index]
            row |= {"pq": q.pq, "sq": q.sq, "rq": q.rq, "tp": q.tp, "fp": q.fp, "fn": q.fn}
        if is_thing and plan.is_panoptic:
            row["ap"] = ap.get(index, math.nan)
        rows[name] = row
    return rows
