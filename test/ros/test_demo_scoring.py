"""The demonstration's measurements on frames made by hand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.ros.demo.scoring import (
    DemoFrame,
    DemoSegments,
    demo_vocabularies,
    name_changes,
    quality,
    summarize,
    truth_in_words,
)
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN

MILLISECOND = 1_000_000
TRUTH_IDS = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3], [3, 3, 3, 0]], dtype=np.uint16)
TRUTH_LABELS = {1: "red ball", 2: "blue cube", 3: "table"}
WORDS = (CategorySpec("sphere"), CategorySpec("blue block"), CategorySpec("desk", is_thing=False))
WORD_IDS = (7, 8, 9)


def truth(
    specs: Sequence[CategorySpec] = WORDS, ids: Sequence[int] = WORD_IDS, labels: Mapping[int, str] = TRUTH_LABELS
) -> DemoSegments:
    return truth_in_words(TRUTH_IDS, labels, specs, ids)


def make_frame(
    segment_ids: np.ndarray,
    categories: dict[int, int],
    *,
    words: DemoSegments | None = None,
    stamp: int = 0,
    latency: int = 50 * MILLISECOND,
) -> DemoFrame:
    """A frame of the truth above in which the node saw `segment_ids`."""
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    return DemoFrame(
        image=picture,
        overlay=picture,
        found=DemoSegments(segment_ids.astype(np.uint16), categories, dict.fromkeys(categories, "word")),
        truth=words or truth(),
        stamp=stamp,
        sent=stamp + 7,
        received=stamp + 7 + latency,
    )


def test_truth_is_named_by_synonyms_and_more_general_words() -> None:
    assert truth().categories == {1: 7, 2: 8, 3: 9}
    assert truth().labels == {1: "sphere", 2: "blue block", 3: "desk"}


def test_a_synonym_in_the_request_names_the_truth_under_the_main_name() -> None:
    named = truth((CategorySpec("toy", synonyms=("  Red   BALL ",)),), (4,))
    assert named.categories == {1: 4}
    assert named.labels == {1: "toy"}


def test_the_first_of_several_true_words_counts() -> None:
    assert truth((CategorySpec("ball"), CategorySpec("red ball")), (1, 2)).categories == {1: 1}


def test_negatives_and_unnamed_segments_are_left_out() -> None:
    words = (CategorySpec("red ball"), CategorySpec("blue cube", negative=True))
    assert truth(words, (1, 2)).categories == {1: 1}
    assert truth(words, (1, 2), {}).categories == {}


def test_ids_must_belong_to_the_words() -> None:
    with pytest.raises(ValueError):
        truth(WORDS, (1, 2))


def test_a_perfect_answer_scores_100() -> None:
    frame = make_frame(TRUTH_IDS, {1: 7, 2: 8, 3: 9})
    assert quality([frame]) == {"pq": 100.0, "sq": 100.0, "rq": 100.0, "miou": 100.0}


def test_a_wrong_word_is_both_a_miss_and_a_false_alarm() -> None:
    frame = make_frame(TRUTH_IDS, {1: 8, 2: 8, 3: 9})
    scores = quality([frame])
    # sphere: missed, 0. blue block: one right and one wrong, RQ 1 / 1.5. desk: 1.
    assert scores["pq"] == pytest.approx(100 * (0 + 2 / 3 + 1) / 3)
    # IoU of blue block: 4 of 8 pixels.
    assert scores["miou"] == pytest.approx(100 * (0 + 0.5 + 1) / 3)


def test_partial_overlap_lowers_the_segmentation_quality() -> None:
    seen = np.where(TRUTH_IDS == 1, 1, 0)
    seen[0, 0] = 0
    scores = quality([make_frame(seen, {1: 7}, words=truth(WORDS[:1], WORD_IDS[:1]))])
    assert scores == pytest.approx({"pq": 75.0, "sq": 75.0, "rq": 100.0, "miou": 75.0})


def test_what_no_word_names_is_void_so_a_guess_there_is_no_error() -> None:
    words = (CategorySpec("red ball"), CategorySpec("blue cube", negative=True))
    seen = np.where(TRUTH_IDS == 3, 2, np.where(TRUTH_IDS == 1, 1, 0))
    scores = quality([make_frame(seen, {1: 5, 2: 5}, words=truth(words, (5, 6)))])
    assert scores["pq"] == 100.0


def test_nothing_found_scores_zero_and_nothing_to_find_scores_nothing() -> None:
    assert quality([make_frame(np.zeros((4, 4)), {})])["pq"] == 0.0
    assert np.isnan(quality([make_frame(np.zeros((4, 4)), {}, words=truth((CategorySpec("zebra"),), (1,)))])["pq"])


def test_names_change_from_one_sight_of_an_object_to_the_next() -> None:
    """Two objects; the second is away for one frame and comes back under another name, and stuff has no track."""

    def frame(**names: str) -> DemoFrame:
        ids = {name: index for index, name in enumerate(names, start=1)}
        labels = {ids[name]: label for name, label in names.items()}
        tracks = {ids[name]: int(name[1:]) for name in names if name != "stuff"}
        found = DemoSegments(TRUTH_IDS, dict.fromkeys(labels, 0), labels, tracks)
        return replace(make_frame(TRUTH_IDS, {}), found=found)

    seen = [
        frame(t1="cup", t2="egg", stuff="mat"),
        frame(stuff="table", t1="cup"),
        frame(t1="ball", t2="cup", stuff="mat"),
        frame(t2="cup", t1="cup"),
    ]
    assert [name_changes(seen[:count]) for count in (1, 2, 3, 4)] == [0, 0, 2, 3]


def test_summary_has_the_agreed_fields_and_units() -> None:
    frames = [
        make_frame(TRUTH_IDS, {1: 7, 2: 8, 3: 9}, stamp=i * 200 * MILLISECOND, latency=latency * MILLISECOND)
        for i, latency in enumerate((40, 50, 60))
    ]
    summary = summarize("words", frames, dropped=2, change=1_234_567_890)
    assert summary == {
        "name": "words",
        "frames": 3,
        "pq": 100.0,
        "sq": 100.0,
        "rq": 100.0,
        "miou": 100.0,
        "name_changes": 0,
        "latency_ms": {"p50": 50.0, "p95": 59.0},
        "fps": pytest.approx(2 / 0.42, abs=0.01),
        "dropped": 2,
        "change_ms": 1234.6,
    }


def test_summary_is_valid_json_even_where_nothing_was_to_be_seen() -> None:
    words = truth((CategorySpec("zebra"),), (1,))
    frames = [make_frame(np.zeros((4, 4)), {}, words=words, stamp=i * MILLISECOND) for i in range(2)]
    summary = summarize("none", frames, dropped=0, change=0)
    assert json.loads(json.dumps(summary, allow_nan=False))["pq"] is None


def test_summary_refuses_a_rate_from_one_frame() -> None:
    with pytest.raises(ValueError, match="at least two frames"):
        summarize("words", [make_frame(TRUTH_IDS, {1: 7, 2: 8, 3: 9})], 0, 0)


def test_the_three_vocabularies() -> None:
    vocabularies = demo_vocabularies()
    assert list(vocabularies) == ["full", "synonyms", "unseen"]
    full, synonyms, unseen = vocabularies.values()
    assert full == TABLETOP_SPECS
    assert not {spec.name for spec in synonyms} & {spec.name for spec in TABLETOP_SPECS}
    assert {spec.name for spec in unseen if not spec.negative} == UNSEEN
    assert {spec.name for spec in unseen if spec.negative} == SEEN
    for specs in vocabularies.values():
        Vocabulary.build(specs)  # refuses duplicates


def test_every_object_has_exactly_one_word_in_each_vocabulary() -> None:
    labels = dict(enumerate((spec.name for spec in TABLETOP_SPECS), start=1))
    full, synonyms, unseen = demo_vocabularies().values()
    for specs in (full, synonyms):
        named = truth(specs, range(len(specs)), labels)
        assert sorted(named.categories.values()) == list(range(len(TABLETOP_SPECS)))
    assert set(truth(unseen, range(len(unseen)), labels).labels.values()) == UNSEEN
