"""Figures as a table for people and as JSON for programs."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ovseg_ros.offline.data.files import write_json
from ovseg_ros.offline.evaluate.plan import Plan


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, and say where; None for nowhere."""
    if path is not None:
        # Python writes NaN, which JSON has not; read back, it is None. Nothing is rounded on the way.
        write_json(path, json.loads(json.dumps(figures), parse_constant=lambda _: None))
        print(f"figures written to {path}", file=sys.stderr)


QUALITY_COLUMNS = ("PQ", "95 % interval", "SQ", "RQ", "mIoU", "categories")


def quality_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Of each group of categories, its name and `QUALITY_COLUMNS`; none without instances."""
    rows = [(name, figures[name]) for name in figures.get("groups", ())]
    return [
        (name, *map(shown, (r["pq"], r["pq_ci95"], r["sq"], r["rq"], r["miou"], r["categories"]))) for name, r in rows
    ]


def other_rows(plan: Plan, figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names of the figures beside that table, and their values."""
    yield "mIoU", f"{shown(figures['miou'])} over {figures['miou_categories']} categories"
    if unnamed := figures.get("names_ignored"):
        yield "PQ with names ignored", f"{shown(unnamed['pq'])} ({shown(unnamed['pq_ci95'])})"
    for name, value in list(figures.get("ap", {}).items())[:3]:
        yield name.upper(), shown(value)
    for key, name in (
        ("mask_recall_50", "mask recall at IoU 0.5"),
        ("mask_recall_75", "mask recall at IoU 0.75"),
        ("segment_recall_50", "mask recall at IoU 0.5 by final segments"),
    ):
        if key in figures:
            yield name, f"{shown(figures[key])} ({shown(figures[f'{key}_ci95'])})"
    if "mask_accuracy" in figures:
        yield "true masks named rightly", shown(figures["mask_accuracy"])
    for key in plan.renamed:
        values = ", ".join(f"{name} {shown(figures[key][name]['pq'])}" for name in figures["groups"])
        yield f"PQ by {key.replace('_', ' ')}", f"{values}; drop in all {shown(figures[key]['drop'])}"
    yield "images", str(figures["images"])


def print_figures(plan: Plan, figures: Mapping[str, Any]) -> None:
    """What `figures_of` gives, on stdout."""
    oracle = f", oracle {plan.oracle}" if plan.oracle else ""
    print(f"preset {plan.preset}{oracle} on {plan.data} {plan.split}")
    if rows := quality_rows(figures):
        for name, *cells in (("", *QUALITY_COLUMNS), *rows):
            print(f"{name:8}" + "".join(f"{cell:>15}" for cell in cells))
    for name, value in other_rows(plan, figures):
        print(f"{name}: {value}")
    if seconds := figures.get("seconds_per_image"):
        print(f"seconds per image on {plan.device}: p50 {seconds['p50']:.3f}, p95 {seconds['p95']:.3f}")
    if figures["skipped"] or figures["void"]:
        print(f"{len(figures['skipped'])} images skipped, {len(figures['void'])} with nothing to find")


def shown(value: Any) -> str:
    """A figure, an interval or a text as people read it."""
    if isinstance(value, list):
        return " to ".join(map(shown, value))
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.1f}"
    return str(value)
