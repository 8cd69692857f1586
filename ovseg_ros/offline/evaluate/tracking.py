"""Identity over time on simulated takes in which camera and objects move: IDF1 and identity switches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.metrics.identity import IdentityResult, IdentityScore
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.tracking.appearance import segment_appearance
from ovseg_ros.core.tracking.tracker import Tracker
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.evaluate.output import write_figures
from ovseg_ros.sim.categories import TABLETOP_SPECS
from ovseg_ros.sim.motion import moving_frames
from ovseg_ros.sim.simulator import Frame, TabletopSimulator

_SIZE = (320, 240)
"""Width and height of the frames, pixels."""
_VOCABULARY = Vocabulary.build(TABLETOP_SPECS)
_CATEGORIES = {category.name: category.id for category in _VOCABULARY.categories}


@dataclass(frozen=True, slots=True)
class TakesConfig:
    """Which takes: sequences of a split with seeds from `seed` on, and the rate of their frames.

    `name_votes` is the node's parameter, to be compared with 0.
    """

    split: str = "test"
    sequences: int = 10
    seed: int = 0
    seconds: float = 12.0
    rate: float = 5.0
    name_votes: int = 9


class NameSteadiness:
    """How names change over time, and how often they are right, where so many of a track's last frames decide them."""

    def __init__(self, votes: int) -> None:
        self._votes = votes
        self._tracker = Tracker()
        self._names, self._quality = IdentityScore(), PanopticQuality()

    def add(self, frame: Frame, time: float, result: PanopticResult, appearance: np.ndarray) -> None:
        """The next frame, and what was segmented in it."""
        tracked = self._tracker.update(result, time, appearance, name_votes=self._votes)
        objects = {segment.id: segment.object_index for segment in frame.segments if segment.is_thing}
        names = {segment.id: segment.category_id for segment in tracked.segments}
        things = {segment.id: names[segment.id] for segment in tracked.segments if segment.is_thing}
        # A change of name is a change of identity, if names are identities.
        self._names.add(tracked.segment_ids, things, frame.segment_ids, objects)
        truth = {segment.id: _CATEGORIES[segment.label] for segment in frame.segments}
        self._quality.add(tracked.segment_ids, names, frame.segment_ids, truth)

    def end_sequence(self) -> None:
        """What is added from now on belongs to another sequence."""
        self._tracker = Tracker()
        self._names.end_sequence()

    def report(self) -> dict[str, Any]:
        """How often an object had another name than when it was found before, and PQ in percent."""
        return {"name_changes": self._names.result().switches, "pq": self._quality.result().pq}


def truth_result(frame: Frame) -> PanopticResult:
    """The ground truth as if a segmenter had found it; without categories, which tracking does not look at."""
    segments = []
    for truth in frame.segments:
        mask = frame.segment_ids == truth.id
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        area, box = int(mask.sum()), (x, y, width, height)
        segments.append(Segment(truth.id, NO_CATEGORY, truth.label, 1.0, truth.is_thing, area, box))
    return PanopticResult(
        segment_ids=frame.segment_ids,
        category_ids=np.full(frame.segment_ids.shape, NO_CATEGORY, np.uint16),
        confidence=np.full(frame.segment_ids.shape, 255, np.uint8),
        segments=tuple(segments),
        vocabulary_version=1,
    )


def evaluate_tracking(
    config: TakesConfig, *, preset: str | None = None, device: str = "auto", json_path: Path | None = None
) -> int:
    """Track through takes, print the figures and write them; the exit code, 0.

    Args:
        preset: also track what this preset segments, under the whole vocabulary of the tabletop; None for the ground
            truth's masks only.

    Raises:
        OvsegError: the takes have no frame, or the preset or its checkpoint is wrong.
    """
    if config.seconds * config.rate < 1:
        raise ConfigError(f"{config.seconds:g} s at {config.rate:g} frames/s hold no frame; give more of either")
    steadiness: Mapping[int, NameSteadiness] = {}
    results: dict[str, Callable[[Frame], PanopticResult]] = {"ground_truth_masks": truth_result}
    if preset is not None:
        segmenter = build_segmenter(preset, device, REPRODUCIBLE)
        prompt = segmenter.prepare(_VOCABULARY)
        results["predicted_masks"] = lambda frame: segmenter.segment(frame.image, prompt)
        steadiness = {votes: NameSteadiness(votes) for votes in (0, config.name_votes)}
    scores = {name: IdentityScore() for name in results}
    for seed in tqdm(range(config.seed, config.seed + config.sequences), desc="evaluate-tracking", unit="take"):
        trackers = {name: Tracker() for name in results}
        for time, frame in _frames(config, seed):
            objects = {segment.id: segment.object_index for segment in frame.segments if segment.is_thing}
            for name, result_of in results.items():
                result = result_of(frame)
                appearance = segment_appearance(frame.image, result)
                tracked = trackers[name].update(result, time, appearance)
                tracks = {segment.id: segment.track_id for segment in tracked.segments if segment.is_thing}
                scores[name].add(tracked.segment_ids, tracks, frame.segment_ids, objects)
                if name == "predicted_masks":
                    for steady in steadiness.values():
                        steady.add(frame, time, result, appearance)
        for score in scores.values():
            score.end_sequence()
        for steady in steadiness.values():
            steady.end_sequence()
    reports = {name: _report(score.result()) for name, score in scores.items()}
    names = {str(votes): steady.report() for votes, steady in steadiness.items()}
    write_figures(json_path, {"preset": preset, **asdict(config), "size": list(_SIZE), **reports, "names": names})
    print(
        f"split {config.split}, {config.sequences} takes of {config.seconds:g} s at {config.rate:g} frames/s, "
        f"seeds from {config.seed}"
    )
    for name, row in reports.items():
        print(
            f"{name.replace('_', ' '):20} IDF1 {row['idf1']:5.1f}, identity switches {row['identity_switches']}, "
            f"recall {row['recall']:5.1f}, {row['true_observations']} true and "
            f"{row['predicted_observations']} predicted observations"
        )
    for votes, row in names.items():
        print(f"names by {votes} votes: {row['name_changes']} changes, PQ {row['pq']:.1f}")
    return 0


def _report(result: IdentityResult) -> dict[str, Any]:
    """Shares in percent."""
    return {
        "idf1": result.idf1,
        "identity_switches": result.switches,
        "recall": result.recall,
        "true_observations": result.truth,
        "predicted_observations": result.predicted,
    }


def _frames(config: TakesConfig, seed: int) -> Iterator[tuple[float, Frame]]:
    width, height = _SIZE
    with TabletopSimulator(seed, split=config.split, width=width, height=height) as simulator:
        yield from moving_frames(simulator, seconds=config.seconds, rate=config.rate, seed=seed)
