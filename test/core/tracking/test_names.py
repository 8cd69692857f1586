"""Names by the votes of tracks, computed by hand: squares that are called one thing now and another thing next."""

from dataclasses import replace

import numpy as np
import pytest

from ovseg_ros.core.tracking.tracker import Tracker
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment

CUP, EGG, BALL, MAT = 3, 5, 7, 9
NAMES = {CUP: "cup", EGG: "egg", BALL: "ball", MAT: "mat"}
LEFT = (10, 10)
"""Column and row of the corner of a square of 20 pixels."""
Seen = tuple[int, float] | tuple[int, float, tuple[int, int]]


def frame(*seen: Seen, version: int = 1, is_thing: bool = True) -> PanopticResult:
    """Squares of (category, score, place), at LEFT where no place is given."""
    ids, categories = np.zeros((80, 100), np.uint16), np.full((80, 100), NO_CATEGORY, np.uint16)
    segments = []
    for number, (category, score, *place) in enumerate(seen, start=1):
        x, y = place[0] if place else LEFT
        ids[y : y + 20, x : x + 20] = number
        categories[y : y + 20, x : x + 20] = category
        segments.append(Segment(number, category, NAMES[category], score, is_thing, 400, (x, y, 20, 20)))
    confidence = np.full((80, 100), 200, np.uint8)
    return PanopticResult(ids, categories, confidence, tuple(segments), version)


class Take:
    """Frames a tenth of a second apart, before one tracker."""

    def __init__(self) -> None:
        self.tracker, self.stamp = Tracker(), 0.0

    def show(self, result: PanopticResult, votes: int, after: float = 0.1) -> PanopticResult:
        self.stamp += after
        named = self.tracker.update(result, self.stamp, name_votes=votes)
        by_id = {0: NO_CATEGORY} | {segment.id: segment.category_id for segment in named.segments}
        assert named.category_ids.dtype == np.uint16
        np.testing.assert_array_equal(named.category_ids, np.vectorize(by_id.get)(named.segment_ids))
        assert all(segment.label == NAMES[segment.category_id] for segment in named.segments)
        return named

    def name(self, result: PanopticResult, votes: int, after: float = 0.1) -> str:
        """The name of the frame's only segment."""
        return self.show(result, votes, after).segments[0].label


def test_scores_are_summed_over_the_last_frames_and_the_newest_of_equals_wins() -> None:
    """Three frames have a vote."""
    take = Take()
    seen = ((CUP, 0.5), (EGG, 0.25), (EGG, 0.5), (BALL, 0.5), (CUP, 0.75), (BALL, 0.25), (EGG, 0.75))
    # 3rd: cup .5, egg .75. 4th: egg .75, ball .5.
    # 5th: egg .5, ball .5, cup .75. 6th: ball .75, cup .75, of which ball is newer. 7th: cup .75, ball .25, egg .75.
    names = ["cup", "cup", "egg", "egg", "cup", "ball", "egg"]
    assert [take.name(frame(one), 3) for one in seen] == names


def test_a_name_that_flips_between_frames_stays_and_the_object_keeps_its_number() -> None:
    take = Take()
    assert take.name(frame((CUP, 0.9)), 5) == "cup"
    for category in (EGG, CUP, EGG, CUP):
        result = frame((category, 0.4))
        named = take.show(result, 5)
        expected = replace(result.segments[0], category_id=CUP, label="cup", track_id=1)  # the score is the frame's
        assert named.segments == (expected,)
        assert named.confidence is result.confidence and named.segment_ids is result.segment_ids


def test_without_votes_every_frame_has_its_own_names_and_nothing_is_copied() -> None:
    take = Take()
    for category in (CUP, EGG, CUP):
        result = frame((category, 0.9))
        named = take.show(result, 0)
        assert named.segments[0].category_id == category and named.category_ids is result.category_ids


def test_objects_have_votes_of_their_own_and_two_of_one_name_stay_two() -> None:
    take = Take()
    touching = (LEFT[0] + 20, LEFT[1])
    take.show(frame((CUP, 0.9), (EGG, 0.9, touching)), 4)
    take.show(frame((CUP, 0.3), (CUP, 0.8, touching)), 4)
    named = take.show(frame((EGG, 0.3), (CUP, 0.8, touching)), 4)
    assert [(each.id, each.label, each.track_id) for each in named.segments] == [
        (1, "cup", 1),
        (2, "cup", 2),
    ]


def test_stuff_keeps_the_name_of_the_frame() -> None:
    take = Take()
    assert [take.name(frame((c, 0.9), is_thing=False), 5) for c in (MAT, CUP, MAT)] == ["mat", "cup", "mat"]


@pytest.mark.parametrize(("away", "name"), [(1.5, "cup"), (2.5, "egg")])
def test_votes_live_as_long_as_the_track(away: float, name: str) -> None:
    """Two seconds: who comes back later is another object, without a past."""
    tracker, look = Tracker(), np.eye(1, 8, dtype=np.float32)
    tracker.update(frame((CUP, 0.9)), 0.0, look, name_votes=5)
    tracker.update(frame(), away / 2, look[:0], name_votes=5)
    assert tracker.update(frame((EGG, 0.5)), away, look, name_votes=5).segments[0].label == name


def test_a_change_of_the_words_and_time_that_is_set_back_void_all_votes() -> None:
    take = Take()
    assert [take.name(frame((c, s)), 5) for c, s in ((CUP, 0.9), (EGG, 0.5))] == ["cup", "cup"]
    named = take.show(frame((EGG, 0.5), version=2), 5, 0.0)  # the newest frame again, under other words
    assert (named.segments[0].label, named.segments[0].track_id) == ("egg", 1)
    assert take.name(frame((CUP, 0.4), version=2), 5) == "egg"
    assert take.name(frame((CUP, 0.4), version=2), 5, -1.0) == "cup"


def test_the_number_of_votes_may_change_at_any_time() -> None:
    take = Take()
    for _ in range(4):
        take.show(frame((CUP, 0.5)), 9)
    assert take.name(frame((EGG, 0.6)), 9) == "cup"  # 2.0 : 0.6
    assert take.name(frame((EGG, 0.6)), 3) == "egg"  # 0.5 : 1.2
    assert take.name(frame((BALL, 0.7)), 9) == "egg"  # what fewer votes dropped does not come back: 0.5 : 1.2 : 0.7
    assert take.name(frame((CUP, 0.1)), 0) == "cup"
    assert take.name(frame((BALL, 0.1)), 9) == "ball"  # begun anew after none
