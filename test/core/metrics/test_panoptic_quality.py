"""Panoptic quality against hand-made cases and against a slow literal version of the rules."""

import math

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality


def literal_counts(predicted, predicted_categories, truth, truth_categories, crowd):
    """tp, fp, fn, iou by category, by loops over masks, as the rules are written down."""
    counts = {k: [0, 0, 0, 0.0] for k in set(predicted_categories.values()) | set(truth_categories.values())}
    matched_truth, matched_prediction = set(), set()
    for t, truth_category in truth_categories.items():
        for p, predicted_category in predicted_categories.items():
            if t in crowd or truth_category != predicted_category:
                continue
            intersection = int(((truth == t) & (predicted == p)).sum())
            union = int(((truth == t) | ((predicted == p) & (truth != 0))).sum())
            if union and intersection / union > 0.5:
                counts[truth_category][0] += 1
                counts[truth_category][3] += intersection / union
                matched_truth.add(t)
                matched_prediction.add(p)
    for t, truth_category in truth_categories.items():
        if t not in crowd and t not in matched_truth:
            counts[truth_category][2] += 1
    for p, predicted_category in predicted_categories.items():
        if p in matched_prediction:
            continue
        forgiven = truth == 0
        crowd_of_category = None  # one is remembered: the last
        for t in truth_categories:
            if t in crowd and truth_categories[t] == predicted_category:
                crowd_of_category = t
        if crowd_of_category is not None:
            forgiven = forgiven | (truth == crowd_of_category)
        if int((forgiven & (predicted == p)).sum()) / int((predicted == p).sum()) <= 0.5:
            counts[predicted_category][1] += 1
    return counts


def counts_of(quality):
    return {k: (c.tp, c.fp, c.fn, pytest.approx(c.iou)) for k, c in quality.per_category().items()}


def row(*ids):
    return np.array([ids], dtype=np.uint16)


def test_perfect_prediction_scores_100_and_ids_need_not_agree():
    quality = PanopticQuality()
    quality.add(row(7, 7, 9, 9), {7: 1, 9: 2}, row(1, 1, 2, 2), {1: 1, 2: 2})
    result = quality.result()
    assert (result.pq, result.sq, result.rq, result.categories) == (100.0, 100.0, 100.0, 2)


def test_iou_of_exactly_one_half_is_no_match():
    quality = PanopticQuality()
    quality.add(row(1, 0, 0), {1: 5}, row(1, 1, 2), {1: 5, 2: 6})
    assert counts_of(quality) == {5: (0, 1, 1, 0.0), 6: (0, 0, 1, 0.0)}


def test_iou_above_one_half_matches_with_its_iou():
    quality = PanopticQuality()
    quality.add(row(1, 1, 1, 0), {1: 5}, row(1, 1, 1, 1), {1: 5})
    assert counts_of(quality) == {5: (1, 0, 0, 0.75)}
    assert quality.result().pq == pytest.approx(75.0)


def test_same_mask_of_another_category_is_a_miss_and_a_false_positive():
    quality = PanopticQuality()
    quality.add(row(1, 1), {1: 5}, row(1, 1), {1: 6})
    assert counts_of(quality) == {5: (0, 1, 0, 0.0), 6: (0, 0, 1, 0.0)}
    assert quality.result().pq == 0.0


def test_void_under_a_prediction_does_not_enlarge_the_union():
    quality = PanopticQuality()
    quality.add(row(1, 1, 1, 1), {1: 5}, row(1, 1, 0, 0), {1: 5})
    assert counts_of(quality) == {5: (1, 0, 0, 1.0)}


@pytest.mark.parametrize(("on_void", "false_positives"), [(1, 1), (2, 1), (3, 0)])
def test_unmatched_prediction_is_dropped_when_more_than_half_is_void(on_void, false_positives):
    truth = np.full((1, 4), 1, dtype=np.uint16)
    truth[0, :on_void] = 0
    quality = PanopticQuality()
    quality.add(row(3, 3, 3, 3), {3: 8}, truth, {1: 5})
    assert quality.per_category()[8].fp == false_positives


def test_crowd_is_never_matched_never_missed_and_forgives_only_its_own_category():
    truth = row(1, 1, 1, 1)
    for category, false_positives in ((5, 0), (6, 1)):
        quality = PanopticQuality()
        quality.add(row(2, 2, 2, 2), {2: category}, truth, {1: 5}, crowd_ids={1})
        assert quality.per_category()[category].fp == false_positives
        assert all(c.tp == 0 and c.fn == 0 for c in quality.per_category().values())


def test_void_and_crowd_add_up_when_a_prediction_is_forgiven():
    quality = PanopticQuality()
    quality.add(row(2, 2, 2, 2, 2), {2: 5}, row(0, 0, 1, 3, 3), {1: 5, 3: 6}, crowd_ids={1})
    assert quality.per_category()[5].fp == 0


def test_of_several_crowds_of_a_category_only_the_last_forgives():
    for order, false_positives in (((1, 2), 0), ((2, 1), 1)):
        quality = PanopticQuality()
        quality.add(row(9, 9, 9, 9), {9: 5}, row(1, 2, 2, 2), dict.fromkeys(order, 5), crowd_ids={1, 2})
        assert quality.per_category()[5].fp == false_positives


def test_the_declared_area_of_a_true_segment_counts_in_the_union():
    for declared, iou in ((2, 1.0), (3, 2 / 3), (4, None)):
        quality = PanopticQuality()
        quality.add(row(1, 1), {1: 5}, row(7, 7), {7: 5}, truth_areas={7: declared})
        expected = (1, 0, 0, iou) if iou else (0, 1, 1, 0.0)
        assert counts_of(quality) == {5: expected}


def test_averages_leave_out_categories_that_never_occur():
    quality = PanopticQuality()
    quality.add(row(1, 1, 2, 0), {1: 1, 2: 2}, row(1, 1, 3, 3), {1: 1, 3: 3})
    everything = quality.result()
    assert everything.categories == 3
    assert everything.pq == pytest.approx(100 / 3)
    subset = quality.result({1, 3, 77})
    assert (subset.categories, subset.pq) == (2, pytest.approx(50.0))


def test_nothing_counted_is_nan_not_zero():
    quality = PanopticQuality()
    assert math.isnan(quality.result().pq) and quality.result().categories == 0
    quality.add(row(0, 0), {}, row(0, 0), {})
    assert math.isnan(quality.result().pq) and quality.images == 1
    assert all(math.isnan(end) for end in quality.confidence_interval())


def test_a_true_segment_without_pixels_is_missed():
    quality = PanopticQuality()
    quality.add(row(0, 0), {}, row(0, 0), {4: 2})
    assert counts_of(quality) == {2: (0, 0, 1, 0.0)}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((row(1, 1), {1: 1}, row(1, 1, 1), {1: 1}), "same"),
        ((row(1, 2), {1: 1}, row(1, 1), {1: 1}), r"\[2\] that have no category"),
        ((row(1, 1), {1: 1}, row(1, 2), {1: 1}), r"\[2\] that have no category"),
        ((row(1, 1), {1: 1, 2: 1}, row(1, 1), {1: 1}), r"\[2\] have a category but no pixel"),
        ((row(1, 1), {1: 1}, row(1, 1), {1: 1}, {9}), r"crowd ids \[9\]"),
        ((row(1, 1), {1: 1, 0: 1}, row(1, 1), {1: 1}), "void"),
        ((row(1, 1).astype(float), {1: 1}, row(1, 1), {1: 1}), "integers"),
        ((np.array([[-1, 1]]), {1: 1, -1: 1}, row(1, 1), {1: 1}), "0 or more"),
    ],
)
def test_contradictory_input_is_refused_with_the_reason(arguments, reason):
    with pytest.raises(DatasetError, match=reason):
        PanopticQuality().add(*arguments)


@pytest.mark.parametrize("seed", range(25))
def test_random_maps_agree_with_the_literal_rules(seed):
    generator = np.random.default_rng(seed)
    quality, expected = PanopticQuality(), {}
    for _ in range(4):
        truth = np.kron(generator.integers(0, 6, (3, 4)), np.ones((4, 4), dtype=np.int64))
        predicted = np.where(generator.random(truth.shape) < 0.25, generator.integers(0, 9, truth.shape), truth)
        truth_categories = {int(i): int(generator.integers(1, 4)) for i in np.unique(truth) if i}
        predicted_categories = {
            int(i): truth_categories[i] if i in truth_categories and generator.random() < 0.7 else 2
            for i in np.unique(predicted).tolist()
            if i
        }
        crowd = {i for i in truth_categories if generator.random() < 0.2}
        arguments = (predicted, predicted_categories, truth, truth_categories, crowd)
        quality.add(*arguments)
        for category, values in literal_counts(*arguments).items():
            expected[category] = [a + b for a, b in zip(expected.get(category, [0, 0, 0, 0.0]), values, strict=True)]
    assert counts_of(quality) == {k: (tp, fp, fn, iou) for k, (tp, fp, fn, iou) in sorted(expected.items())}
    occurring = [v for v in expected.values() if sum(v[:3])]
    assert quality.result().categories == len(occurring)
    expected_pq = sum(iou / (tp + fp / 2 + fn / 2) for tp, fp, fn, iou in occurring) / len(occurring)
    assert quality.result().pq == pytest.approx(100 * expected_pq)


def random_case(generator):
    """A panoptic map of blobs with void and crowd, and a prediction that errs in shape, category and number."""
    height, width = generator.integers(8, 40, 2)
    truth = np.zeros((height, width), dtype=np.int64)
    for i in range(1, generator.integers(2, 12)):
        top, left = generator.integers(0, height), generator.integers(0, width)
        truth[top : top + generator.integers(2, 20), left : left + generator.integers(2, 20)] = i * 7
    predicted = np.roll(truth, generator.integers(-2, 3, 2), axis=(0, 1))
    for _ in range(generator.integers(0, 4)):  # merged, invented or erased
        top, left = generator.integers(0, height), generator.integers(0, width)
        predicted[top : top + 6, left : left + 9] = generator.choice([0, 7, 14, 500])
    truth_categories = {int(i): int(generator.integers(1, 6)) for i in generator.permutation(np.unique(truth)) if i}
    predicted_categories = {
        int(i): truth_categories.get(int(i), 3) if generator.random() < 0.8 else int(generator.integers(1, 6))
        for i in np.unique(predicted)
        if i
    }
    crowd = {i for i in truth_categories if generator.random() < 0.25}
    return predicted, predicted_categories, truth, truth_categories, crowd


def test_200_random_panoptic_maps_equal_the_literal_rules_to_1e_9():
    generator = np.random.default_rng(2024)
    expected = {k: [0, 0, 0, 0.0] for k in range(1, 6)}
    quality, with_crowd, with_void = PanopticQuality(), 0, 0
    for _ in range(200):
        case = random_case(generator)
        quality.add(*case)
        with_crowd, with_void = with_crowd + bool(case[4]), with_void + bool((case[2] == 0).any())
        for category, values in literal_counts(*case).items():
            expected[category] = [a + b for a, b in zip(expected[category], values, strict=True)]
    assert with_crowd > 50 and with_void > 50 and all(min(tp, fp, fn) > 20 for tp, fp, fn, _ in expected.values())
    for group in (None, {1, 2, 3}, {4, 5}):
        rows = [counts for k, counts in expected.items() if (group is None or k in group) and sum(counts[:3])]
        pq = sum(iou / (tp + 0.5 * fp + 0.5 * fn) for tp, fp, fn, iou in rows) / len(rows)
        sq = sum(iou / tp for tp, _, _, iou in rows) / len(rows)
        rq = sum(tp / (tp + 0.5 * fp + 0.5 * fn) for tp, fp, fn, _ in rows) / len(rows)
        result = quality.result(group)
        assert [result.pq, result.sq, result.rq] == pytest.approx([100 * pq, 100 * sq, 100 * rq], rel=0, abs=1e-9)
        assert result.categories == len(rows)


def noisy_quality(images=40, seed=0):
    generator = np.random.default_rng(seed)
    quality = PanopticQuality()
    for _ in range(images):
        truth = row(1, 1, 1, 2, 2, 2)
        predicted = np.where(generator.random(truth.shape) < 0.3, 0, truth)
        quality.add(predicted, {i: i for i in np.unique(predicted).tolist() if i}, truth, {1: 1, 2: 2})
    return quality


def test_confidence_interval_is_seeded_and_contains_the_estimate():
    quality = noisy_quality()
    low, high = quality.confidence_interval(seed=3)
    assert low < quality.result().pq < high
    assert (low, high) == quality.confidence_interval(seed=3)
    assert (low, high) != quality.confidence_interval(seed=4)
    wider = noisy_quality(images=8).confidence_interval(seed=3)
    assert wider[1] - wider[0] > high - low


def test_one_image_has_an_interval_of_no_width():
    quality = PanopticQuality()
    quality.add(row(1, 1, 1, 0), {1: 5}, row(1, 1, 1, 1), {1: 5})
    assert quality.confidence_interval() == pytest.approx((75.0, 75.0))


def test_figures_do_not_depend_on_the_order_and_images_travel_as_counts():
    parts = []
    for seed in range(30):
        part = PanopticQuality()
        part.add(*random_case(np.random.default_rng(seed)))
        parts.append(part.counts())
    results = set()
    for seed in range(10):
        quality = PanopticQuality()
        for number in np.random.default_rng(seed).permutation(30):
            quality.add_counts(parts[number])
        results.add((quality.result(), tuple(quality.per_category().items())))
    assert len(results) == 1
