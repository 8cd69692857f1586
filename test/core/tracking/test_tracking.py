"""Identity over time on drawn discs: motion, occlusion, look-alikes, pauses, clocks and vocabularies."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from ovseg_ros.core.tracking.appearance import segment_appearance
from ovseg_ros.core.tracking.tracker import Tracker
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment

HEIGHT, WIDTH = 120, 160
RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


@dataclass(frozen=True)
class Disc:
    x: float
    y: float
    radius: float = 12
    color: tuple[int, int, int] = RED
    is_thing: bool = True


def draw(*discs: Disc, size: tuple[int, int] = (HEIGHT, WIDTH), version: int = 1) -> tuple[np.ndarray, PanopticResult]:
    """Image and segments of discs, later ones in front; ids by descending area, as the merge gives them."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    owner = np.full(size, -1)
    image = np.full((*size, 3), 90, np.uint8)
    for index, disc in enumerate(discs):
        inside = (columns / width * WIDTH - disc.x) ** 2 + (rows / height * HEIGHT - disc.y) ** 2 <= disc.radius**2
        owner[inside] = index
        image[inside] = disc.color
    areas = [int((owner == index).sum()) for index in range(len(discs))]
    order = [int(index) for index in np.argsort([-area for area in areas], kind="stable") if areas[index] > 0]
    ids = np.zeros(size, np.uint16)
    segments = []
    for number, index in enumerate(order, start=1):
        ids[owner == index] = number
        ys, xs = np.nonzero(owner == index)
        box = (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)
        segments.append(Segment(number, version, f"word {version}", 0.9, discs[index].is_thing, areas[index], box))
    nowhere = np.full(size, NO_CATEGORY, np.uint16)
    return image, PanopticResult(ids, nowhere, np.zeros(size, np.uint8), tuple(segments), version)


def follow(tracker: Tracker, stamp: float, *discs: Disc, look: bool = True, version: int = 1) -> list[int]:
    """Track ids in the order of the discs; 0 for those that cannot be seen."""
    image, result = draw(*discs, version=version)
    tracked = tracker.update(result, stamp, segment_appearance(image, result) if look else None)
    assert [replace(segment, track_id=0) for segment in tracked.segments] == list(result.segments)
    ids = []
    for disc in discs:
        at = int(result.segment_ids[round(disc.y), round(disc.x)])
        ids.append(next((s.track_id for s in tracked.segments if s.id == at), 0))
    return ids


def test_a_moving_object_keeps_its_number_and_stuff_has_none() -> None:
    tracker = Tracker()
    floor = Disc(5, 5, 300, GREEN, is_thing=False)
    for step in range(10):
        assert follow(tracker, step * 0.1, floor, Disc(20 + 8 * step, 60)) == [0, 1]


def test_numbers_follow_objects_and_not_the_order_of_segments() -> None:
    """The areas cross over, so the segment ids swap; the identities do not."""
    tracker = Tracker()
    for step in range(8):
        ids = follow(tracker, step * 0.1, Disc(40, 60, 8 + 2 * step), Disc(120, 60, 24 - 2 * step))
        assert ids == [2, 1]  # the larger one was numbered first


def test_an_object_returns_from_behind_another() -> None:
    tracker = Tracker()
    cover = Disc(80, 60, 26, BLUE)
    for step in range(20):
        ids = follow(tracker, step * 0.1, Disc(20 + 6 * step, 60, 10, RED), cover)
        if step == 0:
            first = ids
        hidden = 52 < 20 + 6 * step < 108
        assert ids[1] == first[1] and (hidden or ids[0] == first[0]), step


def test_by_looks_two_that_meet_are_told_apart() -> None:
    """They jump across each other: only their colours say who is who."""
    tracker = Tracker()
    assert follow(tracker, 0.0, Disc(70, 60, 8, RED), Disc(90, 60, 8, GREEN)) == [1, 2]
    assert follow(tracker, 0.5, Disc(90, 60, 8, RED), Disc(70, 60, 8, GREEN)) == [2, 1]  # masks overlap: they win
    tracker = Tracker()
    follow(tracker, 0.0, Disc(66, 60, 8, RED), Disc(94, 60, 8, GREEN))
    assert follow(tracker, 1.0, Disc(88, 70, 8, RED), Disc(72, 50, 8, GREEN)) == [1, 2]


def test_another_object_at_the_place_of_a_lost_one_is_new() -> None:
    tracker = Tracker()
    assert follow(tracker, 0.0, Disc(40, 60, 12, RED)) == [1]
    assert follow(tracker, 0.2) == []
    assert follow(tracker, 0.4, Disc(40, 60, 12, BLUE)) == [2]
    assert follow(tracker, 0.6, Disc(40, 60, 12, BLUE)) == [2]


def test_who_was_away_for_long_is_new_and_no_number_is_given_twice() -> None:
    tracker = Tracker()
    assert follow(tracker, 0.0, Disc(40, 60)) == [1]
    assert follow(tracker, 2.0, Disc(40, 60)) == [1]
    assert follow(tracker, 2.1) == []
    assert follow(tracker, 4.2, Disc(40, 60)) == [2]


@pytest.mark.parametrize("rate", [1, 2, 5, 15, 60])
def test_the_rate_of_the_frames_does_not_matter(rate: int) -> None:
    """The same three seconds, with an occlusion of half a second, at any rate."""
    tracker = Tracker()
    for step in range(3 * rate + 1):
        time = step / rate
        discs = [Disc(30 + 25 * time, 40, 12, RED), Disc(130 - 25 * time, 90, 12, GREEN)]
        if 1.2 < time < 1.7:
            discs = discs[1:]
        ids = follow(tracker, time, *discs)
        assert ids == ([1, 2] if len(discs) == 2 else [2]), time


def test_stamps_of_today_are_fine() -> None:
    tracker = Tracker()
    assert follow(tracker, 1.8e9, Disc(40, 60)) == follow(tracker, 1.8e9 + 0.033, Disc(42, 60)) == [1]


def test_time_that_is_set_back_starts_anew() -> None:
    tracker = Tracker()
    assert follow(tracker, 100.0, Disc(40, 60)) == [1]
    assert follow(tracker, 50.0, Disc(40, 60)) == [2]
    assert follow(tracker, 50.1, Disc(40, 60)) == [2]


def test_equal_stamps_are_one_frame() -> None:
    """As when the newest frame is shown again under other words."""
    tracker = Tracker()
    assert follow(tracker, 1.0, Disc(40, 60), Disc(100, 60)) == [1, 2]
    assert follow(tracker, 1.0, Disc(40, 60), Disc(100, 60), version=2) == [1, 2]


def test_a_change_of_the_vocabulary_changes_no_identity() -> None:
    tracker = Tracker()
    for step in range(6):
        assert follow(tracker, step * 0.1, Disc(40 + 3 * step, 60), version=1 + step // 2) == [1]


def test_who_is_hidden_while_the_words_change_returns() -> None:
    """Where words guide the masks, the embeddings of two vocabularies have nothing to do with each other."""
    tracker, cover = Tracker(), Disc(80, 60, 26, BLUE)
    for step, x in enumerate((30, 44, 80, 80, 80, 116, 130)):
        version = 1 if step < 3 else 2
        image, result = draw(Disc(x, 60, 10, RED), cover, version=version)
        embeddings = np.eye(4, dtype=np.float32)[[2 * version - 2 + (s.area < 400) for s in result.segments]]
        result = replace(result, embeddings=embeddings)
        tracked = tracker.update(result, step * 0.2, segment_appearance(image, result))
        assert {s.area < 400: s.track_id for s in tracked.segments} in ({False: 1, True: 2}, {False: 1}), step
    assert len(tracked.segments) == 2


def as_group(result: PanopticResult) -> PanopticResult:
    """All segments as one."""
    first, area = result.segments[0], sum(segment.area for segment in result.segments)
    rows, columns = np.nonzero(result.segment_ids)
    box = (int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    ids = (result.segment_ids > 0).astype(np.uint16)
    return replace(result, segment_ids=ids, segments=(replace(first, area=area, box=box),))


@pytest.mark.parametrize("gap", [26, 70], ids=["side by side", "apart"])
def test_a_group_has_a_number_of_its_own_and_its_members_get_theirs_back(gap: int) -> None:
    """ "cube", then "cubes", then "cube", of look-alikes, one of which moves; every change shows a frame again."""
    tracker = Tracker()
    seen = []
    grain = ("each", "each", "nobody", "nobody", "group", "group", "each", "each")
    for stamp, asked in zip((0, 1, 1, 2, 2, 3, 3, 4), grain, strict=True):
        image, result = draw(Disc(40, 60 + stamp), Disc(40 + gap, 60), version=1 + grain.index(asked))
        if asked == "nobody":
            result = replace(result, segment_ids=np.zeros_like(result.segment_ids), segments=())
        if asked == "group":
            result = as_group(result)
        tracked = tracker.update(result, stamp * 0.2, segment_appearance(image, result))
        at = [int(result.segment_ids[60, x]) for x in (40, 40 + gap)]
        seen.append([next((s.track_id for s in tracked.segments if s.id == i), 0) for i in at])
    assert seen == [[1, 2], [1, 2], [0, 0], [0, 0], [3, 3], [3, 3], [1, 2], [1, 2]]


def test_one_object_is_itself_in_the_singular_and_in_the_plural() -> None:
    tracker = Tracker()
    for version in (1, 2, 3):
        assert follow(tracker, version * 0.1, Disc(40 + 4 * version, 60), version=version) == [1]


@pytest.mark.parametrize("look", [True, False])
def test_without_appearance_masks_still_decide(look: bool) -> None:
    tracker = Tracker()
    for step in range(5):
        assert follow(tracker, step * 0.1, Disc(40 + 4 * step, 60), Disc(120, 60), look=look) == [1, 2]


def test_a_new_resolution_changes_no_identity() -> None:
    tracker = Tracker()
    for step, scale in enumerate((1, 2, 3, 1)):
        image, result = draw(Disc(40, 60), Disc(110, 50, 20, BLUE), size=(HEIGHT * scale, WIDTH * scale))
        tracked = tracker.update(result, step * 0.1, segment_appearance(image, result))
        assert [segment.track_id for segment in tracked.segments] == [1, 2]


def test_many_objects_and_none() -> None:
    tracker = Tracker()
    discs = [Disc(10 + 14 * (i % 10), 10 + 14 * (i // 10), 5) for i in range(80)]
    first = follow(tracker, 0.0, *discs)
    assert sorted(first) == list(range(1, 81))
    assert follow(tracker, 0.1, *[replace(disc, x=disc.x + 1) for disc in discs]) == first
    assert follow(tracker, 0.2) == []
    assert follow(tracker, 0.3, *discs) == first


def test_what_is_too_small_to_be_compared_pixel_by_pixel_is_followed_by_place() -> None:
    """At 1600x1200 masks are compared on every seventh pixel; this one lies between."""
    tracker = Tracker()
    for step in range(3):
        ids = np.zeros((1200, 1600), np.uint16)
        ids[603:606, 806:809] = 1
        segment = Segment(1, 0, "screw", 0.9, True, 9, (806, 603, 3, 3))
        nothing = np.zeros(ids.shape, np.uint16)
        result = PanopticResult(ids, nothing, nothing.astype(np.uint8), (segment,), 1)
        appearance = np.ones((1, 1))
        assert tracker.update(result, step * 0.1, appearance).segments[0].track_id == 1


def test_reset_forgets_but_counts_on() -> None:
    tracker = Tracker()
    follow(tracker, 0.0, Disc(40, 60))
    tracker.reset()
    assert follow(tracker, 0.1, Disc(40, 60)) == [2]


def test_appearance_has_a_row_for_every_segment() -> None:
    _, result = draw(Disc(40, 60), Disc(100, 60))
    with pytest.raises(ValueError, match="1 rows for 2 segments"):
        Tracker().update(result, 0.0, np.ones((1, 4)))


def test_appearances_are_unit_vectors_of_colour() -> None:
    image, result = draw(Disc(40, 60, color=RED), Disc(100, 60, 10, GREEN), Disc(140, 60, 8, RED))
    looks = segment_appearance(image, result)
    assert looks.shape == (3, 64) and looks.dtype == np.float32
    np.testing.assert_allclose(looks @ looks.T, [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-6)
    embeddings = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    both = segment_appearance(image, replace(result, embeddings=embeddings))
    np.testing.assert_allclose(both @ both.T, (looks @ looks.T + embeddings @ embeddings.T) / 2, atol=1e-6)
    assert segment_appearance(*draw()).shape == (0, 64)
    with pytest.raises(ValueError, match="\\(60, 160\\)"):
        segment_appearance(image[:60], result)
