"""From the images' records to the figures."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ovseg_ros.core.metrics.mask_recall import MaskRecall
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.offline.evaluate.average_precision import average_precision
from ovseg_ros.offline.evaluate.plan import Plan
from ovseg_ros.offline.evaluate.record import ImageRecord

BOOTSTRAP = {"level": 0.95, "resamples": 1000, "seed": 0}


def figures_of(plan: Plan, records: Sequence[ImageRecord]) -> dict[str, Any]:
    """All figures, in percent; NaN where nothing was counted. They do not depend on the order of the records."""
    ordered = sorted(records, key=lambda record: record.name)
    counted = [record for record in ordered if record.is_counted]
    pixels = MeanIoU(NO_CATEGORY)
    for record in counted:
        pixels.add_counts(record.pixels)
    things = [index for index, (_, is_thing) in enumerate(plan.categories) if is_thing]
    figures: dict[str, Any] = {
        "miou": pixels.result(only_in_truth=True),
        "miou_categories": sum(truth > 0 for _, _, truth in pixels.counts().values()),
    }
    quality, ap = PanopticQuality(), dict[int, float]()
    if plan.is_panoptic:
        for record in counted:
            quality.add_counts(record.quality)
        stuff = set(range(len(plan.categories))) - set(things)
        groups: dict[str, Collection[int] | None] = {"all": None, "things": things, "stuff": stuff}
        figures.update({name: _quality_figures(quality, group) for name, group in groups.items()})
        figures["ap"], ap = average_precision(counted, things)
        figures.update(_recall_figures(counted))
        figures["confusion"] = confusion_table(plan, counted)
    if plan.oracle == "masks":
        masks, right = (sum(record.classified[place] for record in counted) for place in (0, 1))
        figures["mask_accuracy"] = 100.0 * right / masks if masks else math.nan
    figures["per_category"] = _per_category(plan, quality, pixels, ap)
    figures["images"] = len(counted)
    figures["void"] = [record.name for record in ordered if record.is_void]
    figures["skipped"] = {record.name: record.fault for record in ordered if record.fault}
    return figures


def image_score(record: ImageRecord) -> float:
    """How well one image was segmented, in percent: its PQ, or its mean IoU where there are no instances."""
    if record.quality:
        quality = PanopticQuality()
        quality.add_counts(record.quality)
        return quality.result().pq
    pixels = MeanIoU(NO_CATEGORY)
    pixels.add_counts(record.pixels)
    return pixels.result(only_in_truth=True)


def confusion_table(plan: Plan, records: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    """Pairs of a true category and another that was predicted for the same mask, the most frequent first.

    Each with `count` and `share`: the percentage of the true category's matched masks.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    for record in records:
        pairs.update(record.confusion)
    matched: Counter[int] = Counter()
    for (truth, _), count in pairs.items():
        matched[truth] += count
    names = [name for name, _ in plan.categories]
    wrong = sorted(((-count, *pair) for pair, count in pairs.items() if pair[0] != pair[1]))
    return [
        {"truth": names[t], "predicted": names[p], "count": -negative, "share": -100.0 * negative / matched[t]}
        for negative, t, p in wrong
    ]


def _quality_figures(quality: PanopticQuality, group: Collection[int] | None) -> dict[str, Any]:
    result = quality.result(group)
    interval = quality.confidence_interval(
        group, level=BOOTSTRAP["level"], resamples=int(BOOTSTRAP["resamples"]), seed=int(BOOTSTRAP["seed"])
    )
    return {
        "pq": result.pq,
        "sq": result.sq,
        "rq": result.rq,
        "pq_ci95": list(interval),
        "categories": result.categories,
    }


def _recall_figures(records: Sequence[ImageRecord]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for place, percent in ((1, 50), (2, 75)):
        recall = MaskRecall(percent / 100)
        for record in records:
            recall.add_counts(record.recall[place], record.recall[0])
        figures[f"mask_recall_{percent}"] = recall.result()
        figures[f"mask_recall_{percent}_ci95"] = list(
            recall.confidence_interval(
                level=BOOTSTRAP["level"], resamples=int(BOOTSTRAP["resamples"]), seed=int(BOOTSTRAP["seed"])
            )
        )
    return figures


def _per_category(
    plan: Plan, quality: PanopticQuality, pixels: MeanIoU, ap: Mapping[int, float]
) -> dict[str, dict[str, Any]]:
    """Every category that occurs in the truth or in a prediction."""
    by_id, iou = quality.per_category(), pixels.per_category()
    rows = {}
    for index, (name, is_thing) in enumerate(plan.categories):
        if index not in by_id and index not in iou:
            continue
        row: dict[str, Any] = {"is_thing": is_thing, "iou": iou.get(index, math.nan)}
        if index in by_id:
            q = by_id[index]
            row |= {"pq": q.pq, "sq": q.sq, "rq": q.rq, "tp": q.tp, "fp": q.fp, "fn": q.fn}
        if is_thing and plan.is_panoptic:
            row["ap"] = ap.get(index, math.nan)
        rows[name] = row
    return rows


def without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON has not; nothing is rounded."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return value
