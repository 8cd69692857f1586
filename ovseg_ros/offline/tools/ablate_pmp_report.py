"""The tables of `ovseg ablate pmp`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovseg_ros.offline.data.files import write_bytes, write_json
from ovseg_ros.offline.tools.ablation import cell, over_seeds
from ovseg_ros.offline.tools.phrase_quality import METRICS, interval, mean_iou

TITLES = {
    "bundled": "the bundled generator, not trained further",
    "none": "no text",
    "concatenate": "(a) concatenate",
    "concatenate_drop": "(b) concatenate and drop",
    "text_queries": "(c) text tokens as queries",
    "pmp": "PMP: attention to text",
    "pmp:told_others": "the same PMP, told other words",
    "pmp_other": "PMP trained and told other words",
}
"""Every line of the tables by its name."""
_OF_MASKS = ("proposed_instances", "proposed_groups", "pq_matching")
"""What can be said of a generator that reads no words and names nothing."""
_QUALITY = {"pq_matching": "PQ, names that match", "pq": "PQ, own names"}
_KINDS = ("seen", "unseen")


def write_report(out: Path, facts: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """`ablation.md` and `ablation.json`, of what `runs/` holds."""
    rows = [row for name in TITLES if (row := _row(name, results)) is not None]
    write_json(out / "ablation.json", {"facts": facts, "rows": rows})
    write_bytes(out / "ablation.md", _markdown(rows, facts).encode())


def _figures(name: str, results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of a line, seed by seed."""
    variant, _, key = name.partition(":")
    runs = sorted((one for one in results if one["variant"] == variant), key=lambda one: one["seed"])
    return [one[key or "figures"] for one in runs]


def _row(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The seeds of one line together; None without any."""
    found, pmp = _figures(name, results), _figures("pmp", results)
    if not found:
        return None
    runs = [one for one in results if one["variant"] == name.partition(":")[0]]
    row: dict[str, Any] = {
        "system": name,
        "seeds": len(found),
        "trained_parameters": runs[0].get("trained_parameters", 0),
    }
    for metric in (*METRICS, *_QUALITY):
        if name == "bundled" and metric not in _OF_MASKS:
            continue
        for kind in _KINDS:
            row[f"{metric}_{kind}"] = (
                _of_iou([one["iou"][metric][kind] for one in found], [one["iou"][metric][kind] for one in pmp])
                if metric in METRICS
                else over_seeds([one[metric] for one in found], kind)
            )
    return row


def _of_iou(sums: Sequence[Any], of_pmp: Sequence[Any]) -> dict[str, Any] | None:
    """None where no image shows what would be asked for."""
    if math.isnan(mean_iou(sums)):
        return None
    means = [mean_iou([one]) for one in sums]
    found = {"mean": sum(means) / len(means), "over_seeds": means, "ci95": interval(sums)}
    return found | ({"pmp_minus_this_ci95": interval(of_pmp, sums)} if of_pmp else {})


def _markdown(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    names = METRICS | _QUALITY
    parts = []
    for kind in _KINDS:
        parts.append(f"{kind.capitalize()}:\n")
        parts.append("| system | trained parameters | " + " | ".join(names.values()) + " |")
        parts.append("|---" * (2 + len(names)) + "|")
        for row in rows:
            cells = [cell(row.get(f"{metric}_{kind}")) for metric in names]
            trained = f"{row['trained_parameters']:,}" if row["trained_parameters"] else ""
            parts.append(f"| {TITLES[row['system']]} | {trained} | " + " | ".join(cells) + " |")
        parts.append("")
    parts += ["PMP minus the others, 95 % interval of the difference over the same images:\n"]
    parts.append("| system | " + " | ".join(f"{title}, {kind}" for title in METRICS.values() for kind in _KINDS) + " |")
    parts.append("|---" * (1 + 2 * len(METRICS)) + "|")
    for row in rows:
        if row["system"] != "pmp":
            cells = [_difference(row.get(f"{metric}_{kind}")) for metric in METRICS for kind in _KINDS]
            parts.append(f"| {TITLES[row['system']]} | " + " | ".join(cells) + " |")
    loop, data = facts["training"]["loop"], facts["training"]["data"]
    parts.append(
        f"\nMean IoU and PQ in percent; {facts['images']} images of split {facts['split']}; {loop['steps']} steps of "
        f"{loop['batch_size']} crops, of {data['scenes'] + data['wide']} scenes in {data['views']} views. "
        "In brackets 95 % intervals by bootstrap over images (PQ: of the first seed), before them half the range over "
        "seeds.\n"
    )
    return "\n".join(parts)


def _difference(figure: Mapping[str, Any] | None) -> str:
    if figure is None or "pmp_minus_this_ci95" not in figure:
        return ""
    low, high = figure["pmp_minus_this_ci95"]
    return f"{low:+.1f} to {high:+.1f}"
