"""What is asked about an image, and how an answer is judged."""

import numpy as np
import pytest
import torch

from ovseg_ros.offline.tools.phrase_quality import (
    PhraseQuality,
    askable,
    interval,
    ious,
    mean_iou,
    other_words,
    phrases_about,
    whole_questions,
)
from ovseg_ros.sim.categories import SEEN, THINGS

SEEN_CUPS = [name for name in THINGS if name.endswith(" cup") and name in SEEN]
FIRST, SECOND = SEEN_CUPS[:2]
UNSEEN_CUP = next(name for name in THINGS if name.endswith(" cup") and name not in SEEN)

IDS = np.zeros((16, 32), np.int32)
IDS[4:12, 2:10], IDS[4:12, 12:20], IDS[4:12, 22:30] = 1, 2, 3


def told(segments):
    return {metric: [(p.text, p.meant, p.is_seen) for p in found] for metric, found in phrases_about(segments).items()}


def test_groups_have_two_members_and_are_unseen_with_any_unseen_one() -> None:
    found = told([(1, FIRST), (2, SECOND)])
    assert found["phrase_instances"] == [(FIRST, (1,), True), (SECOND, (2,), True)]
    assert found["phrase_groups"] == [("cups", (1, 2), True)] and found["phrase_one"] == [("cup", (1, 2), True)]
    found = told([(1, FIRST), (2, SECOND), (3, UNSEEN_CUP)])
    assert found["phrase_groups"][0] == ("cups", (1, 2, 3), False)
    assert (UNSEEN_CUP, (3,), False) in found["phrase_instances"]
    color = FIRST.split()[0]
    found = told([(1, FIRST), (2, FIRST), (3, f"{color} star")])
    assert (f"{color} things", (1, 2, 3), False) in found["phrase_groups"]
    assert (f"{FIRST}s", (1, 2), True) in found["phrase_groups"] and ("cups", (1, 2), True) in found["phrase_groups"]
    assert {text for text, *_ in found["phrase_one"]} == {f"{color} thing", "cup"}
    assert told([]) == {"phrase_instances": [], "phrase_groups": [], "phrase_one": []}


def masks_of(*groups: tuple[int, ...]) -> torch.Tensor:
    return 8.0 * torch.stack([torch.isin(torch.from_numpy(IDS), torch.tensor(group)) for group in groups]).float() - 4


@pytest.mark.parametrize(
    ("chosen", "groups", "one"),
    [((1, 2), 100, 50), ((1,), 50, 100)],  # "cups" is both, "cup" is either
)
def test_a_plural_is_judged_by_the_group_and_a_singular_by_one_of_it(chosen, groups, one) -> None:
    """The best-scored mask of a phrase is `chosen`; all that is proposed are the group, and the first cup alone."""

    def ask(questions):
        masks = masks_of(chosen, (1, 2), (1,)).expand(len(questions), -1, -1, -1)
        words = torch.zeros(len(questions), 3, len(questions[0]) + 1)
        words[:, 0, :-1] = 5
        words[:, 1:, -1] = 5
        return masks, words

    quality = PhraseQuality()
    quality.add(ask, [(1, FIRST), (2, SECOND)], IDS)
    quality.add(ask, [], np.zeros_like(IDS))
    seen = {metric: mean_iou([found["seen"]]) for metric, found in quality.sums.items()}
    assert seen["phrase_groups"] == pytest.approx(groups) and seen["phrase_one"] == pytest.approx(one)
    assert seen["proposed_groups"] == pytest.approx(100)
    assert seen["proposed_instances"] == pytest.approx(75)  # of the second cup there is only the pair
    assert all(np.isnan(mean_iou([found["unseen"]])) for found in quality.sums.values())
    assert all(len(found["seen"]) == 2 for found in quality.sums.values())


def test_iou_of_masks_at_a_quarter_of_the_size() -> None:
    truth = torch.zeros(1, 16, 16, dtype=torch.bool)
    truth[0, :8] = True
    masks = torch.full((2, 4, 4), -4.0)
    masks[0, :2], masks[1] = 4.0, 4.0
    assert ious(masks, truth)[:, 0].tolist() == pytest.approx([1.0, 0.5])


def test_other_words_are_never_what_is_asked() -> None:
    rng = np.random.default_rng(0)
    pool = askable(SEEN_CUPS)
    assert {"cup", "cups", FIRST, f"{FIRST}s", f"{FIRST.split()[0]} thing"} <= set(pool)
    asked = ["cups", FIRST]
    for _ in range(20):
        others = other_words(asked, pool, rng)
        assert len(others) == 2 and not set(others) & set(asked)
    assert len(other_words(whole_questions()["instances"], pool, rng)) == 100  # more than there are others


def test_the_whole_questions_name_everything_whatever_an_image_shows() -> None:
    questions = whole_questions()
    assert len(questions["instances"]) == 100 and {"red things", "floor"} <= set(questions["colors"])
    assert {"cups", "stars"} <= set(questions["shapes"])


def test_intervals_resample_images_and_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    runs = [[(float(value), 1) for value in rng.random(50)] for _ in range(2)]
    low, high = interval(runs)
    assert low < np.mean([mean_iou([run]) for run in runs]) < high
    better = [[(value + 0.1, 1) for value, _ in run] for run in runs]
    assert interval(better, runs) == pytest.approx((10, 10))
    assert np.isnan(interval([[(0.0, 0)] * 3])).all()
