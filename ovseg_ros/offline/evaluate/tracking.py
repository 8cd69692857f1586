"""Identity over time on simulated takes in which camera and objects move: IDF1 and identity switches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.metrics.identity import IdentityScore
from ovseg_ros.core.tracking.appearance import segment_appearance
from ovseg_ros.core.tracking.tracker import Tracker, TrackingConfig
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.evaluate.output import write_figures
from ovseg_ros.offline.options import EvaluateTrackingOptions
from ovseg_ros.sim.categories import TABLETOP_SPECS
from ovseg_ros.sim.motion import moving_frames
from ovseg_ros.sim.simulator import Frame, TabletopSimulator

_SIZE = (320, 240)
"""Width and height of the frames, pixels."""


@dataclass
class TrackingFigures:
    """A tracker of its own for every take, and the score over all."""

    score: IdentityScore = field(default_factory=IdentityScore)
    tracker: Tracker = field(default_factory=lambda: Tracker(TrackingConfig()))

    def add(self, time: float, frame: Frame, result: PanopticResult) -> None:
        """The next frame of a take."""
        tracked = self.tracker.update(result, time, segment_appearance(frame.image, result))
        self.score.add(
            tracked.segment_ids,
            {segment.id: segment.track_id for segment in tracked.segments if segment.is_thing},
            frame.segment_ids,
            {segment.id: segment.object_index for segment in frame.segments if segment.is_thing},
        )

    def end(self) -> None:
        """The take is over."""
        self.score.end_sequence()
        self.tracker = Tracker(TrackingConfig())

    def report(self) -> dict[str, Any]:
        """Shares in percent."""
        result = self.score.result()
        return {
            "idf1": result.idf1,
            "identity_switches": result.switches,
            "recall": result.recall,
            "true_observations": result.truth,
            "predicted_observations": result.predicted,
        }


def truth_result(frame: Frame) -> PanopticResult:
    """The ground truth as if a segmenter had found it; without categories, which tracking does not look at."""
    segments = []
    for truth in frame.segments:
        rows, columns = np.nonzero(frame.segment_ids == truth.id)
        x, y = int(columns.min()), int(rows.min())
        box = (x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y)
        segments.append(Segment(truth.id, NO_CATEGORY, truth.label, 1.0, truth.is_thing, len(rows), box))
    return PanopticResult(
        segment_ids=frame.segment_ids,
        category_ids=np.full(frame.segment_ids.shape, NO_CATEGORY, np.uint16),
        confidence=np.full(frame.segment_ids.shape, 255, np.uint8),
        segments=tuple(segments),
        vocabulary_version=1,
    )


def evaluate_tracking(options: EvaluateTrackingOptions) -> int:
    """Track through takes, print the figures and write them.

    What a preset segments is under the whole vocabulary of the tabletop; without one, there are the ground truth's
    masks only.

    Returns:
        The exit code, 0.

    Raises:
        OvsegError: the preset or its checkpoint is wrong.
    """
    results: dict[str, Callable[[Frame], PanopticResult]] = {"ground_truth_masks": truth_result}
    if options.preset is not None:
        segmenter = build_segmenter(options.preset, options.device)
        prompt = segmenter.prepare(Vocabulary.build(TABLETOP_SPECS))
        results["predicted_masks"] = lambda frame: segmenter.segment(frame.image, prompt)
    figures = {name: TrackingFigures() for name in results}
    for take in tqdm(_takes(options), total=options.sequences, desc="evaluate-tracking", unit="take"):
        for time, frame in take:
            for name, result_of in results.items():
                figures[name].add(time, frame, result_of(frame))
        for of_masks in figures.values():
            of_masks.end()
    reports = {name: of_masks.report() for name, of_masks in figures.items()}
    print(
        f"split {options.split}, {options.sequences} takes of {options.seconds:g} s at {options.rate:g} frames/s, "
        f"seeds from {options.seed}"
    )
    for name, row in reports.items():
        print(
            f"{name.replace('_', ' '):20} IDF1 {row['idf1']:5.1f}, identity switches {row['identity_switches']}, "
            f"recall {row['recall']:5.1f}, {row['true_observations']} true and "
            f"{row['predicted_observations']} predicted observations"
        )
    facts = {name: getattr(options, name) for name in ("preset", "split", "sequences", "seed", "seconds", "rate")}
    write_figures(options.json, {**facts, "size": list(_SIZE), **reports})
    return 0


def _takes(options: EvaluateTrackingOptions) -> Iterator[Iterable[tuple[float, Frame]]]:
    width, height = _SIZE
    for seed in range(options.seed, options.seed + options.sequences):
        with TabletopSimulator(seed, split=options.split, width=width, height=height) as simulator:
            yield moving_frames(simulator, seconds=options.seconds, rate=options.rate, seed=seed)
