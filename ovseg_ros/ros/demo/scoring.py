"""What the demonstration measures: quality against the simulator's ground truth, latency, rate. No ROS in here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.panoptic_quality import VOID, PanopticQuality
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import CategorySpec, normalize_name
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym, names_of


@dataclass(frozen=True, slots=True)
class DemoVocabulary:
    """A vocabulary that the demonstration sets; `name` is for the report."""

    name: str
    specs: tuple[CategorySpec, ...]


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """One camera image, what the node made of it, and the truth.

    Attributes:
        image: uint8 RGB (H, W, 3).
        overlay: uint8 RGB (H, W, 3), as the node published it.
        segment_ids: (H, W) uint16, 0 = void.
        categories: category id of each segment id.
        labels: name of each segment id.
        truth_ids: (H, W) uint16, 0 = void.
        truth_labels: the simulator's label of each true segment id.
        stamp: of the image, in nanoseconds.
        received: when its segments came, in nanoseconds of the same clock.
    """

    image: np.ndarray
    overlay: np.ndarray
    segment_ids: np.ndarray
    categories: Mapping[int, int]
    labels: Mapping[int, str]
    truth_ids: np.ndarray
    truth_labels: Mapping[int, str]
    stamp: int
    received: int


def demo_vocabularies() -> tuple[DemoVocabulary, ...]:
    """Everything; everything by a synonym that training never saw; only the unseen, with all else as negatives."""
    synonyms = tuple(CategorySpec(held_out_synonym(spec.name), is_thing=spec.is_thing) for spec in TABLETOP_SPECS)
    unseen = tuple(
        CategorySpec(spec.name, is_thing=spec.is_thing, negative=spec.name in SEEN)
        for spec in sorted(TABLETOP_SPECS, key=lambda spec: spec.name not in UNSEEN)
    )
    return (
        DemoVocabulary("full", TABLETOP_SPECS),
        DemoVocabulary("synonyms", synonyms),
        DemoVocabulary("unseen", unseen),
    )


class TruthInWords:
    """Names the simulator's segments in the words of a vocabulary.

    Args:
        specs: the vocabulary.
        category_ids: the id that the node gave to each of `specs`.
    """

    def __init__(self, specs: Sequence[CategorySpec], category_ids: Sequence[int]) -> None:
        self._words = [
            (frozenset(map(normalize_name, (spec.name, *spec.synonyms))), category_id, spec.name)
            for spec, category_id in zip(specs, category_ids, strict=True)
            if not spec.negative
        ]

    def categories(self, truth_labels: Mapping[int, str]) -> dict[int, int]:
        """Category id of each true segment that a word names; negatives and the rest are left out."""
        return {segment_id: match[0] for segment_id, match in self._matches(truth_labels).items()}

    def labels(self, truth_labels: Mapping[int, str]) -> dict[int, str]:
        """The vocabulary's name for each true segment that a word names."""
        return {segment_id: match[1] for segment_id, match in self._matches(truth_labels).items()}

    def _matches(self, truth_labels: Mapping[int, str]) -> dict[int, tuple[int, str]]:
        """The first entry of the vocabulary that is true of each segment."""
        matches = {}
        for segment_id, label in truth_labels.items():
            true_of_it = frozenset(map(normalize_name, names_of(label)))
            for words, category_id, name in self._words:
                if words & true_of_it:
                    matches[segment_id] = (category_id, name)
                    break
        return matches


@dataclass(frozen=True, slots=True)
class Quality:
    """Averages over the categories that occurred, in percent; NaN where none did."""

    pq: float
    sq: float
    rq: float
    miou: float


def quality(frames: Sequence[DemoFrame], truth_in_words: TruthInWords) -> Quality:
    """Scores segments against the truth in the words of the vocabulary; what no word names is void."""
    panoptic, semantic = PanopticQuality(), MeanIoU(void=NO_CATEGORY)
    for frame in frames:
        truth = truth_in_words.categories(frame.truth_labels)
        truth_ids = np.where(np.isin(frame.truth_ids, list(truth)), frame.truth_ids, VOID)
        visible = set(np.unique(truth_ids).tolist())
        truth = {segment_id: category for segment_id, category in truth.items() if segment_id in visible}
        panoptic.add(frame.segment_ids, frame.categories, truth_ids, truth)
        semantic.add(_category_map(frame.segment_ids, frame.categories), _category_map(truth_ids, truth))
    result = panoptic.result()
    return Quality(result.pq, result.sq, result.rq, semantic.result())


def _category_map(segment_ids: np.ndarray, categories: Mapping[int, int]) -> np.ndarray:
    """Category ids (H, W) uint16 from segment ids; NO_CATEGORY where void."""
    table = np.full(int(segment_ids.max(initial=0)) + 1, NO_CATEGORY, dtype=np.uint16)
    for segment_id, category in categories.items():
        table[segment_id] = category
    return table[segment_ids]


def summarize(
    name: str, frames: Sequence[DemoFrame], truth_in_words: TruthInWords, dropped: int, change: int
) -> dict[str, object]:
    """One entry of summary.json.

    Args:
        name: of the vocabulary.
        frames: at least two, in the order of their stamps.
        truth_in_words: of the vocabulary.
        dropped: camera images without segments.
        change: nanoseconds from the service call to the first segments of the new version.

    Returns:
        Quality in percent (None where nothing was to be seen), times in milliseconds, rate in frames per second.
    """
    if len(frames) < 2:
        raise ValueError(f"a rate needs at least two frames of vocabulary {name!r}, got {len(frames)}")
    latencies = [(frame.received - frame.stamp) / 1e6 for frame in frames]
    p50, p95 = np.percentile(latencies, [50, 95])
    received = sorted(frame.received for frame in frames)
    scores = quality(frames, truth_in_words)
    return {
        "name": name,
        "frames": len(frames),
        "pq": _percent(scores.pq),
        "sq": _percent(scores.sq),
        "rq": _percent(scores.rq),
        "miou": _percent(scores.miou),
        "latency_ms": {"p50": round(float(p50), 1), "p95": round(float(p95), 1)},
        "fps": round((len(received) - 1) * 1e9 / (received[-1] - received[0]), 2),
        "dropped": dropped,
        "change_ms": round(change / 1e6, 1),
    }


def _percent(value: float) -> float | None:
    return round(value, 2) if np.isfinite(value) else None
