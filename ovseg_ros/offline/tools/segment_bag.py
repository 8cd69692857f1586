"""`ovseg segment BAG`: the node's outputs for every image of a recording, without ROS and without dropping any."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.outputs import DATA_OUTPUTS, OVERLAY_OUTPUTS, Output, OutputOptions, SegmentedFrame
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.offline.data.bag_images import BagImage, BagImages, open_bag_images
from ovseg_ros.offline.data.bag_messages import BagMessages
from ovseg_ros.offline.data.bag_parts import BagMessage, BagParts, fingerprint
from ovseg_ros.offline.data.files import check_outputs
from ovseg_ros.offline.options import SegmentOptions
from ovseg_ros.offline.words import given_vocabulary, prepared, say

_IMAGES_IN_PART = 100
_BYTES_IN_PART = 1 << 27
_OVERLAY = "overlay_image/compressed"


def segment_bag(options: SegmentOptions) -> int:
    """Segment the images of a bag into another bag, the rosbag2 folder --out, in MCAP files.

    Outputs carry the header and the recording time of their image, on the topics of the node: `/ovseg/label_image`,
    `segment_image`, `confidence_image`, `segments`, `overlay_image/compressed`, and `/ovseg/vocabulary` once. With
    several image topics, that of camera `/front/image` becomes `/ovseg/front/image/label_image` and so on. A run that
    was stopped goes on where its last whole part (100 images, or 128 MiB before compression) ended.

    Returns:
        The exit code: 0, or 1 when an image was skipped or a part of the bag cannot be read.

    Raises:
        OvsegError: the bag, the vocabulary, the preset or the output folder is wrong.
    """
    path, out, preset = options.input, options.out, options.preset
    vocabulary = given_vocabulary(options.vocabulary)
    outputs = dict(DATA_OUTPUTS)
    if not options.no_overlay:
        outputs[_OVERLAY] = OVERLAY_OUTPUTS[_OVERLAY]
    messages = BagMessages()
    check_outputs(files={"--out, for its parts,": out / f"{out.name}_0000.mcap"})
    with open_bag_images(path, options.topic or ()) as images:
        for note in images.notes:
            print(f"note: {note}", file=sys.stderr)
        settings = {
            "bag": path.name,
            "content": fingerprint(path),
            "topics": images.topics,
            "preset": preset,
            "vocabulary": [
                [category.name, list(category.synonyms), category.is_thing, category.threshold, category.negative]
                for category in vocabulary.categories
            ],
            "overlay": not options.no_overlay,
            "mask_rle": options.mask_rle,
        }
        parts = BagParts(out, settings, messages.typestore, overwrite=options.overwrite)
        if not parts.done:
            engine = EngineOptions(options.engine, options.precision, options.engine_folder)
            segmenter = build_segmenter(preset, options.device, engine, say)
            say(segmenter.engine.line)
            made = OutputOptions(mask_rle=options.mask_rle)
            _Run(segmenter, prepared(segmenter, vocabulary), messages, parts, outputs, made).over(images)
    state = parts.state
    print(f"{state.get('segmented', 0)} images segmented into {out}", file=sys.stderr)
    if state.get("skipped"):
        print(
            f"{state['skipped']} images skipped; the reasons are above, or in an earlier run's output", file=sys.stderr
        )
    for topic in () if state.get("faults") else state.get("empty", ()):
        print(f"note: {topic} holds no image: nothing was published on it while the bag was recorded", file=sys.stderr)
    for fault in state.get("faults", ()):
        print(f"not all was read: {fault}", file=sys.stderr)
    return 1 if state.get("skipped") or state.get("faults") else 0


@dataclass(frozen=True, slots=True)
class _Run:
    """One pass over the images that are not yet done."""

    segmenter: PanopticSegmenter
    prompt: Prompt
    messages: BagMessages
    parts: BagParts
    outputs: Mapping[str, Output]
    made: OutputOptions

    def over(self, images: BagImages) -> None:
        """Segments the rest of `images`."""
        state: dict[str, Any] = {"read": 0, "segmented": 0, "skipped": 0, **self.parts.state}
        pending: list[BagMessage] = []
        reasons: Counter[tuple[str, str]] = Counter()
        alone = len(images.topics) == 1
        frames = iter(images)
        for _ in range(state["read"]):
            next(frames, None)
        with tqdm(frames, total=len(images), initial=state["read"], desc="segment", unit="image") as bar:
            for image in bar:
                state["read"] += 1
                try:
                    made = list(self._segmented(image, image.decode(), "/ovseg" if alone else f"/ovseg{image.topic}"))
                    pending += made if state["segmented"] else [self._announcement(image), *made]
                    state["segmented"] += 1
                except ImageError as error:
                    state["skipped"] += 1
                    reason = image.topic, image.fault or str(error)
                    reasons[reason] += 1
                    if reasons[reason] == 1:
                        bar.write(f"skipped: {error}", file=sys.stderr)
                size = sum(len(message.content) for message in pending)
                if state["read"] - self.parts.state.get("read", 0) >= _IMAGES_IN_PART or size >= _BYTES_IN_PART:
                    self.parts.append(pending, dict(state))
                    pending = []
        for (topic, text), count in reasons.items():
            if count > 1:
                more = "" if len(reasons) == 1 else f" ({topic}: {text.removeprefix(f'{topic}: ')[:60]}...)"
                print(f"skipped: and {count - 1} more for the same reason{more}", file=sys.stderr)
        if pending or not self.parts.count:
            self.parts.append(pending, dict(state))
        self.parts.finish({**state, "faults": list(images.faults), "empty": images.empty})

    def _announcement(self, image: BagImage) -> BagMessage:
        stamp = self.messages.time(*divmod(image.received, 1_000_000_000))
        message = self.messages.vocabulary(self.prompt.vocabulary, stamp)
        return self._packed("/ovseg/vocabulary", image.received, message, latched=True)

    def _segmented(self, image: BagImage, pixels: np.ndarray, prefix: str) -> Iterator[BagMessage]:
        result, header = self.segmenter.segment(pixels, self.prompt), self.messages.header_of(image.message)
        frame = SegmentedFrame(pixels, header, result, self.prompt.vocabulary, self.made)
        for name, output in self.outputs.items():
            yield self._packed(f"{prefix}/{name}", image.received, output.make(self.messages, frame))

    def _packed(self, topic: str, received: int, message: Any, *, latched: bool = False) -> BagMessage:
        content = self.messages.serialize(message)
        return BagMessage(topic, message.__msgtype__, received, content, latched)
