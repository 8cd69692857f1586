"""Figures as a table for people and as JSON for programs."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovseg_ros.offline.data.files import write_json
from ovseg_ros.offline.evaluate.plan import Plan


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, and say where; None for nowhere."""
    if path is not None:
        write_json(path, without_nan(figures))
        print(f"figures written to {path}", file=sys.stderr)


def without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON has not; nothing is rounded."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def print_figures(plan: Plan, figures: Mapping[str, Any]) -> None:
    """A readable table of what `figures_of` gives, on stdout."""
    oracle = f", oracle {plan.oracle}" if plan.oracle else ""
    print(f"preset {plan.preset}{oracle} on {plan.data} {plan.split}, {figures['images']} images")
    if plan.is_panoptic:
        _print_panoptic(plan, figures)
    print(f"mIoU {figures['miou']:.1f} over {figures['miou_categories']} categories")
    if "mask_accuracy" in figures:
        print(f"true masks named rightly: {figures['mask_accuracy']:.1f}")
    if seconds := figures.get("seconds_per_image"):
        print(f"seconds per image on {plan.device}: p50 {seconds['p50']:.3f}, p95 {seconds['p95']:.3f}")
    if figures["skipped"] or figures["void"]:
        print(f"{len(figures['skipped'])} images skipped, {len(figures['void'])} with nothing to find")


def _print_panoptic(plan: Plan, figures: Mapping[str, Any]) -> None:
    print(f"{'':8}{'PQ':>7}{'95 % interval':>17}{'SQ':>7}{'RQ':>7}{'mIoU':>7}{'categories':>12}")
    for name in figures["groups"]:
        row = figures[name]
        low, high = row["pq_ci95"]
        print(
            f"{name:8}{row['pq']:7.1f}{f'{low:.1f} to {high:.1f}':>17}{row['sq']:7.1f}{row['rq']:7.1f}"
            f"{row['miou']:7.1f}{row['categories']:12d}"
        )
    for key in plan.renamed:
        qualities = ", ".join(f"{name} {figures[key][name]['pq']:.1f}" for name in figures["groups"])
        print(f"{key.replace('_', ' ')}: PQ {qualities}; drop in PQ over all {figures[key]['drop']:.1f}")
    ap = figures["ap"]
    print(f"AP {ap['ap']:.1f}, AP50 {ap['ap50']:.1f}, AP75 {ap['ap75']:.1f}")
    low, high = figures["mask_recall_50_ci95"]
    print(
        f"mask recall at IoU 0.5: proposals {figures['mask_recall_50']:.1f} ({low:.1f} to {high:.1f}), final segments "
        f"{figures['segment_recall_50']:.1f}; at 0.75: proposals {figures['mask_recall_75']:.1f}"
    )
