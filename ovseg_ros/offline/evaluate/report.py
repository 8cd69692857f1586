"""One self-contained HTML page: figures, the table of categories, confusions, and pictures.

Names of categories and images come from files of strangers. All text goes through `html.escape`, and the page forbids
itself scripts and everything from outside.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ovseg_ros.offline.evaluate.output import QUALITY_COLUMNS, other_rows, quality_rows, shown
from ovseg_ros.offline.evaluate.plan import Plan

_MOST_CONFUSIONS = 50
_JPEG_QUALITY = 90

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 15px/1.45 sans-serif; max-width: 1980px; margin: 1.5em auto; padding: 0 1em; color: #1b1b1b }}
table {{ border-collapse: collapse; margin: .6em 0 1.6em }}
th, td {{ padding: .18em .8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }}
th {{ background: #f3f3f3 }}
th:first-child, td:first-child, td.text {{ text-align: left; white-space: normal; overflow-wrap: anywhere }}
figure {{ margin: 0 0 1.6em }} figcaption {{ margin-bottom: .3em; overflow-wrap: anywhere }}
img {{ max-width: 100%; border: 1px solid #ccc }}
</style></head><body>
"""


class Picture(NamedTuple):
    """An image's name, its score in percent, uint8 RGB (H, W, 3) of `pictures.comparison`, and the image's file."""

    name: str
    score: float
    pixels: np.ndarray
    file: Path | None = None


def html_report(
    plan: Plan,
    figures: Mapping[str, Any],
    worst: Sequence[Picture],
    median: Sequence[Picture],
    made: Mapping[str, str],
) -> str:
    """The page of what `figures_of` gives; `worst` and `median` in the order in which they are shown.

    `made` says how and when the page was made.
    """
    title = f"{plan.preset} on {plan.data} {plan.split}"
    facts = [(name, value) for name, value in asdict(plan).items() if isinstance(value, str) and value]
    facts += made.items()
    for kind, files in (("checkpoints", plan.checkpoints), ("descriptions", plan.descriptions)):
        if files:
            facts.append((kind, ", ".join(f"{name} {digest[:12]}" for name, digest in files.items())))
    score = "PQ" if "all" in figures else "mIoU"
    parts = [_HEAD.format(title=escape(title)), f"<h1>{escape(title)}</h1>", _table(("", ""), facts)]
    if rows := quality_rows(figures):
        parts += ["<h2>Panoptic quality</h2>", _table(("", *QUALITY_COLUMNS), rows)]
    parts += ["<h2>Other figures</h2>", _table(("", ""), other_rows(plan, figures))]
    parts += _problems(figures)
    for heading, pictures in ((f"Lowest {score}", worst), (f"Median {score}", median)):
        if pictures:
            parts.append(f"<h2>{heading}</h2>")
            parts += [_figure(picture, score) for picture in pictures]
    if pairs := figures.get("confusion"):
        rows = [(pair["truth"], pair["predicted"], pair["count"], pair["share"]) for pair in pairs[:_MOST_CONFUSIONS]]
        note = (
            "Segments whose masks match (IoU above 0.5) but whose categories differ; "
            f"{len(rows)} of {len(pairs)} pairs. The share is of the true category's matched masks."
        )
        parts += ["<h2>Confusions</h2>", f"<p>{note}</p>"]
        parts.append(_table(("truth", "predicted", "masks", "share"), rows, text_columns=2))
    parts += ["<h2>Categories</h2>", _category_table(figures), "</body></html>\n"]
    return "\n".join(parts)


def _problems(figures: Mapping[str, Any]) -> list[str]:
    parts = []
    if figures["skipped"]:
        rows = figures["skipped"].items()
        parts += [f"<h2>Skipped: {len(rows)} images</h2>", _table(("image", "reason"), rows, text_columns=2)]
    if figures["void"]:
        names = ", ".join(figures["void"][:20])
        parts += [f"<h2>Nothing to find: {len(figures['void'])} images</h2>", f"<p>{escape(names)}</p>"]
    return parts


def _category_table(figures: Mapping[str, Any]) -> str:
    columns = ("pq", "sq", "rq", "tp", "fp", "fn", "iou", "ap")
    present = [c for c in columns if any(c in row for row in figures["per_category"].values())]
    rows = [
        (name, "thing" if row["is_thing"] else "stuff", *(row.get(column, "") for column in present))
        for name, row in figures["per_category"].items()
    ]
    titles = [c.upper() if c in ("pq", "sq", "rq", "ap", "tp", "fp", "fn") else "IoU" for c in present]
    return _table(("category", "kind", *titles), rows, text_columns=2)


def _figure(picture: Picture, score: str) -> str:
    encoded, content = cv2.imencode(".jpg", picture.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not encoded:
        raise ValueError(f"OpenCV cannot encode a picture of {picture.pixels.shape} as JPEG")
    data = base64.b64encode(content.tobytes()).decode("ascii")
    name = escape(picture.name)
    if picture.file is not None:
        name = f'<a href="{escape(picture.file.absolute().as_uri())}">{name}</a>'
    caption = f"{name}: {score} {picture.score:.1f}"
    alt = escape(f"{picture.name}: image, truth and prediction")
    return f'<figure><figcaption>{caption}</figcaption><img alt="{alt}" src="data:image/jpeg;base64,{data}"></figure>'


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]], *, text_columns: int = 1) -> str:
    lines = ["<table>"]
    if any(titles):
        lines.append("<tr>" + "".join(f"<th>{escape(title)}</th>" for title in titles) + "</tr>")
    for row in rows:
        cells = (
            f"<td{' class=text' if place < text_columns else ''}>{escape(shown(value))}</td>"
            for place, value in enumerate(row)
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
