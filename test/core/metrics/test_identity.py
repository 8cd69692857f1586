"""IDF1 and identity switches, counted by hand."""

import math

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.identity import IdentityScore


def strip(*ids: int) -> np.ndarray:
    """An image of 4x4 pixels for each id."""
    return np.repeat(np.repeat(np.array([ids]), 4, axis=0), 4, axis=1)


def add(score: IdentityScore, predicted: dict[int, int], truth: dict[int, int]) -> None:
    """Two places; `predicted` and `truth` give the identity of what is at place 1 and 2."""
    score.add(
        strip(*(place if place in predicted else 0 for place in (1, 2))),
        predicted,
        strip(*(place if place in truth else 0 for place in (1, 2))),
        truth,
    )


def test_perfect() -> None:
    score = IdentityScore()
    for _ in range(3):
        add(score, {1: 70, 2: 80}, {1: 0, 2: 1})
    result = score.result()
    assert (result.idtp, result.truth, result.predicted, result.switches) == (6, 6, 6, 0)
    assert result.idf1 == result.recall == 100


def test_a_change_of_identity_costs_the_shorter_part() -> None:
    """One object in 5 frames, under identity 7 in 3 and 8 in 2: IDTP is 3, IDF1 is 2 x 3 / (5 + 5)."""
    score = IdentityScore()
    for identity in (7, 7, 7, 8, 8):
        add(score, {1: identity}, {1: 0})
    result = score.result()
    assert (result.idtp, result.switches, result.idf1) == (3, 1, pytest.approx(60))


def test_two_that_swap() -> None:
    """Both swap identities after 3 of 4 frames: 6 of 8 observations are right under the best assignment, 2 switches."""
    score = IdentityScore()
    for _ in range(3):
        add(score, {1: 7, 2: 8}, {1: 0, 2: 1})
    add(score, {1: 8, 2: 7}, {1: 0, 2: 1})
    result = score.result()
    assert (result.idtp, result.switches, result.idf1) == (6, 2, pytest.approx(75))


def test_an_assignment_is_one_to_one() -> None:
    """Two objects under one identity: only one of them can have it."""
    score = IdentityScore()
    for _ in range(2):
        add(score, {1: 7}, {1: 0})
        add(score, {2: 7}, {2: 1})
    result = score.result()
    assert (result.idtp, result.truth, result.predicted) == (2, 4, 4)
    assert result.switches == 0


def test_missed_and_invented_objects() -> None:
    """Object 0 is missed in one of two frames, and at place 2 something is invented where the truth has stuff."""
    score = IdentityScore()
    add(score, {1: 7}, {1: 0})
    score.add(strip(0, 2), {2: 9}, strip(1, 3), {1: 0})
    result = score.result()
    assert (result.idtp, result.truth, result.predicted, result.matched) == (1, 2, 2, 1)
    assert (result.idf1, result.recall) == (50, 50)


def test_a_switch_is_noticed_across_a_gap() -> None:
    score = IdentityScore()
    add(score, {1: 7}, {1: 0})
    add(score, {}, {1: 0})
    add(score, {1: 8}, {1: 0})
    assert score.result().switches == 1


def test_what_lies_on_void_is_neither_right_nor_wrong() -> None:
    score = IdentityScore()
    add(score, {1: 7, 2: 8}, {1: 0})
    assert (score.result().predicted, score.result().idf1) == (1, 100)


def test_a_mask_has_to_cover_more_than_half() -> None:
    truth = np.zeros((4, 8), int)
    truth[:, :4] = 1
    half = np.zeros((4, 8), int)
    half[:, :2] = 5
    score = IdentityScore()
    score.add(half, {5: 1}, truth, {1: 0})
    assert (score.result().matched, score.result().predicted) == (0, 1)


def test_stuff_does_not_count() -> None:
    score = IdentityScore()
    score.add(strip(1, 2), {1: 7}, strip(1, 2), {1: 0})
    assert (score.result().truth, score.result().predicted) == (1, 1)


def test_identities_mean_nothing_in_the_next_sequence() -> None:
    score = IdentityScore()
    add(score, {1: 7}, {1: 0})
    score.end_sequence()
    add(score, {1: 8}, {1: 0})
    result = score.result()
    assert (result.idtp, result.switches, result.idf1) == (2, 0, 100)
    score.end_sequence()
    assert score.result() == result


def test_nothing_at_all() -> None:
    result = IdentityScore().result()
    assert (result.truth, result.predicted) == (0, 0) and math.isnan(result.idf1) and math.isnan(result.recall)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(DatasetError):
        IdentityScore().add(strip(1), {1: 1}, strip(1, 2), {1: 1})
