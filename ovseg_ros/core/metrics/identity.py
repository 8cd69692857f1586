"""Identity over time: IDF1 (Ristani et al. 2016) and identity switches (CLEAR MOT, Bernardin and Stiefelhagen 2008).

In each frame a true object and a predicted one correspond when their masks have an IoU above a half; masks do not
overlap each other, so nothing corresponds twice. IDF1 then asks for the best one-to-one assignment of predicted
identities to true ones over a whole sequence, and counts the frames in which it is right.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from ovseg_ros.core.metrics.overlaps import segment_overlaps

_IOU = 0.5


@dataclass(frozen=True, slots=True)
class IdentityResult:
    """Counts over all sequences; an observation is one object in one frame.

    Attributes:
        idtp: observations with the right identity under the best assignment.
        truth: true observations.
        predicted: predicted observations, but for those on void.
        matched: true observations that any prediction covers, whatever its identity.
        switches: how often a true object was covered by another identity than when it was last covered.
    """

    idtp: int
    truth: int
    predicted: int
    matched: int
    switches: int

    @property
    def idf1(self) -> float:
        """2 IDTP / (true + predicted observations), in percent; NaN without any."""
        total = self.truth + self.predicted
        return 200.0 * self.idtp / total if total else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true observations that were covered at all, in percent; NaN without any."""
        return 100.0 * self.matched / self.truth if self.truth else float("nan")


class IdentityScore:
    """Accumulates sequences, one frame at a time; identities of one sequence mean nothing in the next."""

    def __init__(self) -> None:
        self._done = IdentityResult(0, 0, 0, 0, 0)
        self._start()

    def _start(self) -> None:
        self._truth: Counter[int] = Counter()
        self._predicted: Counter[int] = Counter()
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._last: dict[int, int] = {}
        self._switches = 0

    def add(
        self,
        predicted_ids: np.ndarray,
        identity_of_predicted: Mapping[int, int],
        truth_ids: np.ndarray,
        identity_of_truth: Mapping[int, int],
    ) -> None:
        """Add the next frame of the sequence.

        Args:
            predicted_ids: (H, W) integer segment ids of this frame, 0 = void.
            identity_of_predicted: identity of the segments that count (things); others are left out.
            truth_ids: (H, W) integer, 0 = void.
            identity_of_truth: identity of the true segments that count.

        Raises:
            DatasetError: the maps differ in shape.
        """
        segments, overlaps = segment_overlaps(predicted_ids, truth_ids)
        iou = overlaps.iou()
        areas = np.bincount(predicted_ids.ravel())[segments]  # with what lies on void
        # As in panoptic quality: a prediction most of which lies on void is neither right nor wrong.
        on_void = areas - overlaps.mask_areas > areas / 2
        self._truth.update(identity_of_truth[int(i)] for i in overlaps.segment_ids if int(i) in identity_of_truth)
        for row, segment in enumerate(segments):
            identity = identity_of_predicted.get(int(segment))
            if identity is None:
                continue
            match = _only_match(iou[row], overlaps.segment_ids, identity_of_truth)
            if match is None:
                self._predicted[identity] += int(not on_void[row])
                continue
            self._predicted[identity] += 1
            self._pairs[match, identity] += 1
            self._switches += int(self._last.get(match, identity) != identity)
            self._last[match] = identity

    def end_sequence(self) -> None:
        """What is added from now on belongs to another sequence."""
        self._done = self.result()
        self._start()

    def result(self) -> IdentityResult:
        """The counts so far."""
        truths, predictions = sorted(self._truth), sorted(self._predicted)
        gain = np.array([[self._pairs[t, p] for p in predictions] for t in truths]).reshape(
            len(truths), len(predictions)
        )
        rows, columns = linear_sum_assignment(gain, maximize=True)
        return IdentityResult(
            idtp=self._done.idtp + int(gain[rows, columns].sum()),
            truth=self._done.truth + self._truth.total(),
            predicted=self._done.predicted + self._predicted.total(),
            matched=self._done.matched + self._pairs.total(),
            switches=self._done.switches + self._switches,
        )


def _only_match(iou: np.ndarray, truth: np.ndarray, identities: Mapping[int, int]) -> int | None:
    """Identity of the true object with an IoU (T,) above a half, None where there is none."""
    for column in np.flatnonzero(iou > _IOU):
        return identities.get(int(truth[column]))
    return None
