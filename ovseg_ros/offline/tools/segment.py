"""`ovseg segment`: every image of a file, folder or video under one vocabulary, to overlays and COCO panoptic files."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.draw import draw_overlay
from ovseg_ros.core.errors import ConfigError, ImageError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import Category, Vocabulary, parse_vocabulary
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb
from ovseg_ros.offline.data.files import write_image, write_json
from ovseg_ros.offline.data.images import ImageSource, open_source

INDEX_NAME = "panoptic.json"


@dataclass
class SegmentRun:
    """What was written so far, as it goes into the index.

    Attributes:
        images, annotations: COCO panoptic entries, one of each an image.
        skipped: name and reason of each image that could not be decoded.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


def segment_path(
    path: Path, vocabulary_text: str, out: Path, *, preset: str, device: str = "auto", overwrite: bool = False
) -> int:
    """Segment all of `path` into `out`; see docs/offline.md for the files.

    Args:
        path: an image, a folder or a video.
        vocabulary_text: "a,b,c" or the path of a vocabulary file.
        out: made if need be.
        preset: name of a preset or path of its YAML.
        device: "auto", "cpu", "cuda" or "cuda:N".
        overwrite: replace the results that `out` already holds.

    Returns:
        The exit code: 0, or 1 when an image was skipped.

    Raises:
        OvsegError: nothing can be segmented at all: the input, vocabulary, preset or output folder is wrong.
    """
    vocabulary = Vocabulary.build(parse_vocabulary(vocabulary_text))
    source = open_source(path, exclude=out)
    _check_out(out, overwrite)
    segmenter = build_segmenter(preset, device)
    prompt = segmenter.prepare(vocabulary)
    run = SegmentRun()
    try:
        segment_source(segmenter, prompt, source, out, run)
    finally:  # also after Ctrl-C: what was done is indexed
        _write_index(run, vocabulary, out, preset=preset, source=path.name)
    print(f"{len(run.images)} images segmented into {out}", file=sys.stderr)
    if run.skipped:
        print(f"{len(run.skipped)} images skipped, see 'skipped' in {out / INDEX_NAME}", file=sys.stderr)
    return 1 if run.skipped else 0


def segment_source(
    segmenter: PanopticSegmenter, prompt: Prompt, source: ImageSource, out: Path, run: SegmentRun
) -> None:
    """Segment every image of `source`, write its files below `out` and its entries into `run`.

    An image that cannot be decoded is named on stderr, noted in `run.skipped` and passed over.
    """
    vocabulary = prompt.vocabulary
    with tqdm(source.images, total=source.length, desc="segment", unit="image", file=sys.stderr) as bar:
        for item in bar:
            try:
                image = item.load()
            except ImageError as error:
                bar.write(f"skipped: {error}", file=sys.stderr)
                run.skipped.append({"name": item.name, "reason": str(error)})
                continue
            result = segmenter.segment(image, prompt)
            write_image(out / "panoptic" / f"{item.name}.png", ids_to_rgb(result.segment_ids))
            write_image(out / "overlay" / f"{item.name}.png", draw_overlay(image, result, vocabulary))
            image_id = len(run.images) + 1
            height, width = result.segment_ids.shape
            run.images.append({"id": image_id, "file_name": item.name, "width": width, "height": height})
            run.annotations.append(
                {"image_id": image_id, "file_name": f"{item.name}.png", "segments_info": _segments_info(result)}
            )


def _segments_info(result: PanopticResult) -> list[dict[str, Any]]:
    return [
        {
            "id": segment.id,
            "category_id": segment.category_id,
            "label": segment.label,
            "score": round(segment.score, 4),
            "isthing": int(segment.is_thing),
            "area": segment.area,
            "bbox": list(segment.box),
            "iscrowd": 0,
        }
        for segment in result.segments
    ]


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; expected a folder")
    if (out / INDEX_NAME).exists() and not overwrite:
        raise ConfigError(f"{out} already holds results ({INDEX_NAME}); choose another --out or add --overwrite")


def _write_index(run: SegmentRun, vocabulary: Vocabulary, out: Path, *, preset: str, source: str) -> None:
    index = {
        "info": {"source": source, "preset": preset, "vocabulary_version": vocabulary.version},
        "categories": [_category_entry(category) for category in vocabulary.categories],
        "images": run.images,
        "annotations": run.annotations,
        "skipped": run.skipped,
    }
    write_json(out / INDEX_NAME, index)


def _category_entry(category: Category) -> dict[str, Any]:
    return {
        "id": category.id,
        "name": category.name,
        "synonyms": list(category.synonyms),
        "isthing": int(category.is_thing),
        "color": list(category.color),
        "threshold": category.threshold,
        "negative": category.negative,
    }
