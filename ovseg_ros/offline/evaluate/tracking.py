"""Identity over time on simulated takes in which camera and objects move: IDF1 and identity switches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.metrics.identity import IdentityScore
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


@dataclass(frozen=True, slots=True)
class TakesConfig:
    """Which takes: sequences of a split with seeds from `seed` on, and the rate of their frames."""

    split: str = "test"
    sequences: int = 10
    seed: int = 0
    seconds: float = 12.0
    rate: float = 5.0


@dataclass
class TrackingFigures:
    """A tracker of its own for every take, and the score over all."""

    score: IdentityScore = field(default_factory=IdentityScore)
    tracker: Tracker = field(default_factory=Tracker)

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
        self.tracker = Tracker()

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


def evaluate_tracking(
    config: TakesConfig, *, preset: str | None = None, device: str = "auto", json_path: Path | None = None
) -> int:
    """Track through takes, print the figures and write them.

    Args:
        config: the takes.
        preset: also track what this preset segments, under the whole vocabulary of the tabletop; None for the ground
            truth's masks only.
        device: "auto", "cpu", "cuda" or "cuda:N".
        json_path: where the figures go; None for nowhere.

    Returns:
        The exit code, 0.

    Raises:
        OvsegError: the preset or its checkpoint is wrong.
    """
    results: dict[str, Callable[[Frame], PanopticResult]] = {"ground_truth_masks": truth_result}
    if preset is not None:
        segmenter = build_segmenter(preset, device)
        prompt = segmenter.prepare(Vocabulary.build(TABLETOP_SPECS))
        results["predicted_masks"] = lambda frame: segmenter.segment(frame.image, prompt)
    figures = {name: TrackingFigures() for name in results}
    for take in tqdm(_takes(config), total=config.sequences, desc="evaluate-tracking", unit="take"):
        for time, frame in take:
            for name, result_of in results.items():
                figures[name].add(time, frame, result_of(frame))
        for of_masks in figures.values():
            of_masks.end()
    reports = {name: of_masks.report() for name, of_masks in figures.items()}
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
    write_figures(json_path, {"preset": preset, **asdict(config), "size": list(_SIZE), **reports})
    return 0


def _takes(config: TakesConfig) -> Iterator[Iterable[tuple[float, Frame]]]:
    width, height = _SIZE
    for seed in range(config.seed, config.seed + config.sequences):
        with TabletopSimulator(seed, split=config.split, width=width, height=height) as simulator:
            yield moving_frames(simulator, seconds=config.seconds, rate=config.rate, seed=seed)
