"""`ovseg segment`: every image of a file, folder or video under one vocabulary, to overlays and COCO panoptic files."""

import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.draw import draw_overlay
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.errors import ConfigError, ImageError, ImageSizeError, OvsegError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import Segment
from ovseg_ros.core.vocabulary import Category
from ovseg_ros.offline.data.coco_panoptic import ids_to_rgb
from ovseg_ros.offline.data.files import OutputError, check_outputs, longest_name, write_image, write_json
from ovseg_ros.offline.data.images import ImageSource, frames_in, open_source
from ovseg_ros.offline.options import SegmentOptions
from ovseg_ros.offline.words import given_vocabulary, prepared, say

INDEX_NAME = "panoptic.json"
_NAMED = 5


def segment_path(options: SegmentOptions) -> int:
    """Segment an image, a folder or a video; see docs/offline.md for the files.

    Returns:
        The exit code: 0, or 1 when an image was skipped, or a folder holds videos, bags or pictures of other formats.

    Raises:
        OvsegError: nothing can be segmented at all: the input, vocabulary, preset or output folder is wrong.
    """
    path, out, preset = options.input, options.out, options.preset
    vocabulary = given_vocabulary(options.vocabulary)
    source = open_source(path, exclude=out)
    check_outputs(
        folders={"panoptic/ of --out": out / "panoptic", "overlay/ of --out": out / "overlay"},
        files={f"{INDEX_NAME} of --out": out / INDEX_NAME},
    )
    if source.video and (length := len(os.fsencode(f"{source.video}_000000.png"))) > (allowed := longest_name(out)):
        raise ConfigError(
            f"{path}: its frames' results would have names of {length} bytes ({source.video[:40]}...), and {out} takes "
            f"names of at most {allowed}; rename the video"
        )
    if (out / INDEX_NAME).exists() and not options.overwrite:
        raise ConfigError(f"{out} already holds results ({INDEX_NAME}); choose another --out or add --overwrite")
    engine = EngineOptions(options.engine, options.precision, options.engine_folder)
    segmenter = build_segmenter(preset, options.device, engine, say)
    say(segmenter.engine.line)
    prompt = prepared(segmenter, vocabulary)
    index: dict[str, Any] = {
        "info": {"source": path.name, "preset": preset, "vocabulary_version": vocabulary.version},
        "categories": [_category_entry(category) for category in vocabulary.categories],
        "images": [],
        "annotations": [],
        "skipped": [{"name": name, "reason": reason} for name, reason in source.unread],
    }
    if source.left_out:
        print(f"left out: {source.left_out}", file=sys.stderr)
    try:
        segment_source(segmenter, prompt, source, out, index)
    finally:  # also after Ctrl-C: what was done is indexed
        write_json(out / INDEX_NAME, index)
    print(f"{len(index['images'])} images segmented into {out}", file=sys.stderr)
    if index["skipped"]:
        what = "files" if source.unread else "images"
        print(f"{len(index['skipped'])} {what} skipped, see 'skipped' in {out / INDEX_NAME}", file=sys.stderr)
    return 1 if index["skipped"] else 0


def segment_source(
    segmenter: PanopticSegmenter, prompt: Prompt, source: ImageSource, out: Path, index: dict[str, Any]
) -> None:
    """Segment every image of `source`, write its files below `out` and append its entries to `index`.

    An image that cannot be decoded, or whose name the file system does not take, is named on stderr, noted in the index
    under "skipped" and passed over. Pictures of which only the first of several frames counts are named at the end.
    """
    parts: list[str] = []
    with tqdm(source.images, total=source.length, desc="segment", unit="image", file=sys.stderr) as bar:
        for item in bar:
            try:
                image = item.load()
            except ImageError as error:
                _skip(item.name, error, index, bar)
                continue
            if item.path and (frames := frames_in(item.path)) > 1:
                parts.append(f"1 of {frames} frames of {item.path.name}")
            try:
                result = segmenter.segment(image, prompt)
            except ImageSizeError as error:
                raise ImageSizeError(f"{item.name}, {image.shape[1]}x{image.shape[0]}: {error}") from error
            png = f"{item.name}.png"
            try:
                write_image(out / "panoptic" / png, ids_to_rgb(result.segment_ids))
                write_image(out / "overlay" / png, draw_overlay(image, result, prompt.vocabulary))
            except OutputError as error:
                if not error.by_name:  # nothing else could be written either
                    raise
                _skip(item.name, error, index, bar)
                continue
            image_id = len(index["images"]) + 1
            height, width = result.segment_ids.shape
            segments = [_segment_entry(segment) for segment in result.segments]
            index["images"].append({"id": image_id, "file_name": item.name, "width": width, "height": height})
            index["annotations"].append({"image_id": image_id, "file_name": png, "segments_info": segments})

    if parts:
        more = f" and {len(parts) - _NAMED} more such files" if len(parts) > _NAMED else ""
        print(
            f"note: of several frames or pages the first is segmented: {', '.join(parts[:_NAMED])}{more}",
            file=sys.stderr,
        )


def _skip(name: str, error: OvsegError, index: dict[str, Any], bar: tqdm) -> None:
    bar.write(f"skipped: {error}", file=sys.stderr)
    index["skipped"].append({"name": name, "reason": str(error)})


def _segment_entry(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "category_id": segment.category_id,
        "label": segment.label,
        "score": round(segment.score, 4),
        "isthing": int(segment.is_thing),
        "area": segment.area,
        "bbox": list(segment.box),
        "iscrowd": 0,
    }


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
