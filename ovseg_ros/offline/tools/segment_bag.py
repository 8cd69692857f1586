"""`ovseg segment BAG`: the node's outputs for every image of a recording, without ROS and without dropping any."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.draw import draw_overlay
from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import Vocabulary, parse_vocabulary
from ovseg_ros.offline.data.bag_images import BagImage, BagImages, open_bag_images
from ovseg_ros.offline.data.bag_messages import BagMessages
from ovseg_ros.offline.data.bag_parts import BagMessage, BagParts, fingerprint

_IMAGES_IN_PART = 100
_BYTES_IN_PART = 1 << 27


def segment_bag(
    path: Path,
    vocabulary_text: str,
    out: Path,
    *,
    topics: Sequence[str] = (),
    preset: str,
    device: str = "auto",
    overwrite: bool = False,
    overlay: bool = True,
) -> int:
    """Segment the images of a bag into another bag, the rosbag2 folder `out`, in MCAP files.

    Outputs carry the header and the recording time of their image, on the topics of the node: `/ovseg/label_image`,
    `segment_image`, `confidence_image`, `segments`, `overlay_image/compressed`, and `/ovseg/vocabulary` once. With
    several image topics, that of camera `/front/image` becomes `/ovseg/front/image/label_image` and so on. A run that
    was stopped goes on where its last whole part (100 images, or 128 MiB before compression) ended.

    Args:
        path: rosbag2 folder, .mcap, .db3 or .bag.
        vocabulary_text: "a,b,c" or the path of a vocabulary file.
        out: made if need be.
        topics: image topics to segment; empty takes the bag's only one.
        preset, device: as in `build_segmenter`.
        overwrite: start again instead of going on.
        overlay: also write the picture with names drawn into it.

    Returns:
        The exit code: 0, or 1 when an image was skipped.

    Raises:
        OvsegError: the bag, the vocabulary, the preset or the output folder is wrong.
    """
    vocabulary = Vocabulary.build(parse_vocabulary(vocabulary_text))
    messages = BagMessages()
    with open_bag_images(path, topics) as images:
        settings = {
            "bag": path.name,
            "content": fingerprint(path),
            "topics": images.topics,
            "preset": preset,
            "vocabulary": [
                [category.name, list(category.synonyms), category.is_thing, category.threshold, category.negative]
                for category in vocabulary.categories
            ],
            "overlay": overlay,
        }
        parts = BagParts(out, settings, messages.typestore, overwrite=overwrite)
        if not parts.done:
            segmenter = build_segmenter(preset, device)
            _Run(segmenter, segmenter.prepare(vocabulary), messages, parts, overlay).over(images)
    state = parts.state
    print(f"{state.get('segmented', 0)} images segmented into {out}", file=sys.stderr)
    if state.get("skipped"):
        print(
            f"{state['skipped']} images skipped; the reasons are above, or in an earlier run's output", file=sys.stderr
        )
    return 1 if state.get("skipped") else 0


class _Run:
    """One pass over the images that are not yet done."""

    def __init__(
        self,
        segmenter: PanopticSegmenter,
        prompt: Prompt,
        messages: BagMessages,
        parts: BagParts,
        overlay: bool,
    ) -> None:
        self._segmenter, self._prompt = segmenter, prompt
        self._messages, self._parts, self._overlay = messages, parts, overlay

    def over(self, images: BagImages) -> None:
        """Segments the rest of `images`."""
        state = {"read": 0, "segmented": 0, "skipped": 0, **self._parts.state}
        pending: list[BagMessage] = []
        alone = len(images.topics) == 1
        frames = iter(images)
        for _ in range(state["read"]):
            next(frames, None)
        with tqdm(frames, total=len(images), initial=state["read"], desc="segment", unit="image") as bar:
            for image in bar:
                if not state["segmented"] and not pending:
                    pending.append(self._announcement(image))
                state["read"] += 1
                try:
                    pending += self._segmented(image, image.decode(), "/ovseg" if alone else f"/ovseg{image.topic}")
                    state["segmented"] += 1
                except ImageError as error:
                    bar.write(f"skipped: {error}", file=sys.stderr)
                    state["skipped"] += 1
                size = sum(len(message.content) for message in pending)
                if state["read"] - self._parts.state.get("read", 0) >= _IMAGES_IN_PART or size >= _BYTES_IN_PART:
                    self._parts.append(pending, dict(state))
                    pending = []
        if pending or not self._parts.count:
            self._parts.append(pending, dict(state))
        self._parts.finish()

    def _announcement(self, image: BagImage) -> BagMessage:
        message = self._messages.vocabulary(self._prompt.vocabulary, image.received)
        return self._packed("/ovseg/vocabulary", image.received, message, latched=True)

    def _segmented(self, image: BagImage, pixels: np.ndarray, prefix: str) -> Iterator[BagMessage]:
        result, vocabulary = self._segmenter.segment(pixels, self._prompt), self._prompt.vocabulary
        make = self._messages
        header = make.header_of(image.message)
        outputs = {
            "label_image": make.label_image(result, vocabulary, header),
            "segment_image": make.image(result.segment_ids, "16UC1", header),
            "confidence_image": make.image(result.confidence, "mono8", header),
            "segments": make.segments(result, header),
        }
        if self._overlay:
            outputs["overlay_image/compressed"] = make.jpeg(draw_overlay(pixels, result, vocabulary), header)
        for name, message in outputs.items():
            yield self._packed(f"{prefix}/{name}", image.received, message)

    def _packed(self, topic: str, received: int, message: Any, *, latched: bool = False) -> BagMessage:
        content = self._messages.serialize(message)
        return BagMessage(topic, message.__msgtype__, received, content, latched)
