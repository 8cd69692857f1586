"""What the demonstration measures: quality against the simulator's ground truth, latency, rate. No ROS in here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.panoptic_quality import VOID, PanopticQuality
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import CategorySpec, normalize_name
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym, names_of


@dataclass(frozen=True, slots=True)
class DemoSegments:
    """One image's segments, as the node or as the simulator has them.

    Attributes:
        ids: (H, W) uint16, 0 = void.
        categories: category id of each segment id that has one.
        labels: its name.
        tracks: the track id of each segment id that has one.
    """

    ids: np.ndarray
    categories: Mapping[int, int]
    labels: Mapping[int, str]
    tracks: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """One camera image, what the node made of it, and the truth in the words of the vocabulary.

    Attributes:
        image, overlay: uint8 RGB (H, W, 3); the overlay is the node's.
        stamp: of the image, in nanoseconds.
        sent, received: when the image and when its segments reached the client, in nanoseconds of one clock.
    """

    image: np.ndarray
    overlay: np.ndarray
    found: DemoSegments
    truth: DemoSegments
    stamp: int
    sent: int
    received: int


def demo_vocabularies() -> dict[str, tuple[CategorySpec, ...]]:
    """Everything; everything by a synonym that training never saw; only the unseen, with all else as negatives."""
    return {
        "full": TABLETOP_SPECS,
        "synonyms": tuple(CategorySpec(held_out_synonym(spec.name), is_thing=spec.is_thing) for spec in TABLETOP_SPECS),
        "unseen": tuple(
            CategorySpec(spec.name, is_thing=spec.is_thing, negative=spec.name in SEEN)
            for spec in sorted(TABLETOP_SPECS, key=lambda spec: spec.name not in UNSEEN)
        ),
    }


def truth_in_words(
    ids: np.ndarray, labels: Mapping[int, str], specs: Sequence[CategorySpec], category_ids: Sequence[int]
) -> DemoSegments:
    """The simulator's segments under the first word of a vocabulary that is true of each; without one for the rest.

    Args:
        ids: (H, W) uint16, 0 = void.
        labels: the simulator's name of each id.
        specs: the vocabulary; its negatives name nothing.
        category_ids: the id that the node gave to each of `specs`.
    """
    words = [
        (frozenset(map(normalize_name, (spec.name, *spec.synonyms))), category_id, spec.name)
        for spec, category_id in zip(specs, category_ids, strict=True)
        if not spec.negative
    ]
    categories, names = {}, {}
    for segment_id, label in labels.items():
        true_of_it = frozenset(map(normalize_name, names_of(label)))
        for phrases, category_id, name in words:
            if phrases & true_of_it:
                categories[segment_id], names[segment_id] = category_id, name
                break
    return DemoSegments(ids, categories, names)


def quality(frames: Sequence[DemoFrame]) -> dict[str, float]:
    """PQ, SQ, RQ and mean IoU over the categories that occurred, in percent; NaN where none did.

    What no word names is void.
    """
    panoptic, semantic = PanopticQuality(), MeanIoU(void=NO_CATEGORY)
    for frame in frames:
        found, truth = frame.found, frame.truth
        truth_ids = np.where(np.isin(truth.ids, list(truth.categories)), truth.ids, VOID)
        visible = {int(i): truth.categories[int(i)] for i in np.unique(truth_ids[truth_ids != VOID])}
        panoptic.add(found.ids, found.categories, truth_ids, visible)
        semantic.add(_category_map(found.ids, found.categories), _category_map(truth_ids, visible))
    result = panoptic.result()
    return {"pq": result.pq, "sq": result.sq, "rq": result.rq, "miou": semantic.result()}


def name_changes(frames: Sequence[DemoFrame]) -> int:
    """How often an object that is followed has another name than when it was seen before."""
    changes, last = 0, dict[int, str]()
    for found in (frame.found for frame in frames):
        for segment_id, track in found.tracks.items():
            label = found.labels[segment_id]
            changes += last.setdefault(track, label) != label
            last[track] = label
    return changes


def _category_map(segment_ids: np.ndarray, categories: Mapping[int, int]) -> np.ndarray:
    """Category ids (H, W) uint16 from segment ids; NO_CATEGORY where void."""
    table = np.full(int(segment_ids.max(initial=0)) + 1, NO_CATEGORY, dtype=np.uint16)
    table[list(categories)] = list(categories.values())
    return table[segment_ids]


def summarize(name: str, frames: Sequence[DemoFrame], dropped: int, change: int) -> dict[str, Any]:
    """One entry of summary.json.

    Args:
        name: of the vocabulary.
        frames: at least two, in the order of their stamps.
        dropped: frames that should have been among them and of which something never came.
        change: nanoseconds from the service call to the first segments of the new version.

    Returns:
        Quality in percent (None where nothing was to be seen), times in milliseconds, rate in frames per second. A
        frame's latency is from its image to its segments, as both reach the client.
    """
    if len(frames) < 2:
        raise ValueError(f"a rate needs at least two frames of vocabulary {name!r}, got {len(frames)}")
    p50, p95 = np.percentile([(frame.received - frame.sent) / 1e6 for frame in frames], [50, 95])
    received = sorted(frame.received for frame in frames)
    scores = quality(frames)
    return {
        "name": name,
        "frames": len(frames),
        **{score: round(value, 2) if np.isfinite(value) else None for score, value in scores.items()},
        "name_changes": name_changes(frames),
        "latency_ms": {"p50": round(float(p50), 1), "p95": round(float(p95), 1)},
        "fps": round((len(received) - 1) * 1e9 / (received[-1] - received[0]), 2),
        "dropped": dropped,
        "change_ms": round(change / 1e6, 1),
    }
