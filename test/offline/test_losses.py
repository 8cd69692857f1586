"""The set loss: matching by hand, perfect and wrong predictions, images without segments."""

import pytest
import torch

from ovseg_ros.core.proposals.eomt import QueryPrediction
from ovseg_ros.offline.losses import MaskLossConfig, MaskTargets, mask_set_loss, match

CONFIG = MaskLossConfig()


def masks(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 2, 2)


def prediction(mask_logits: torch.Tensor, classes: list[int], confidence: float = 12.0) -> QueryPrediction:
    class_logits = torch.full((1, len(classes), 3), -confidence)
    class_logits[0, torch.arange(len(classes)), torch.tensor(classes)] = confidence
    return QueryPrediction(mask_logits[None], class_logits)


def test_the_cheapest_assignment_is_found() -> None:
    targets = masks([1, 1, 0, 0], [0, 0, 1, 1])
    logits = 10 * (2 * masks([0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0]) - 1)  # query 2 is target 0, query 0 target 1
    rows, columns = match(logits.flatten(1), torch.zeros(3, 3), targets.flatten(1), torch.tensor([0, 0]), CONFIG)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (2, 0)]


def test_classes_break_ties_between_equal_masks() -> None:
    targets = masks([1, 1, 0, 0], [1, 1, 0, 0])
    logits = 10 * (2 * targets - 1)
    class_logits = torch.tensor([[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]])
    rows, columns = match(logits.flatten(1), class_logits, targets.flatten(1), torch.tensor([0, 1]), CONFIG)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much() -> None:
    target = MaskTargets(masks([1, 1, 0, 0]), torch.tensor([1]))
    right = prediction(20 * (2 * masks([1, 1, 0, 0], [0, 0, 0, 1]) - 1), [1, 2])
    wrong = prediction(20 * (2 * masks([0, 0, 1, 1], [0, 0, 1, 1]) - 1), [0, 0])
    low, high = (mask_set_loss([p], [target], CONFIG) for p in (right, wrong))
    assert float(sum(low.values())) < 1e-4
    assert float(high["class"]) > 10 and float(high["bce"]) > 50
    assert float(high["dice"]) == pytest.approx(5 * (1 - 1 / 5), abs=1e-3)  # 1 - (2 * 0 + 1) / (2 + 2 + 1)


def test_deep_supervision_adds_up() -> None:
    target = MaskTargets(masks([1, 1, 0, 0]), torch.tensor([1]))
    one = prediction(torch.randn(2, 2, 2), [1, 2], 1.0)
    single, double = mask_set_loss([one], [target], CONFIG), mask_set_loss([one, one], [target], CONFIG)
    for name, value in single.items():
        assert float(double[name]) == pytest.approx(2 * float(value), rel=1e-5)


def test_an_image_without_segments_teaches_no_object_only() -> None:
    empty = MaskTargets(torch.zeros(0, 2, 2), torch.zeros(0, dtype=torch.int64))
    logits = torch.randn(3, 2, 2, requires_grad=True)
    losses = mask_set_loss([prediction(logits, [2, 2, 0])], [empty], CONFIG)
    assert float(losses["bce"].detach()) == 0 and float(losses["dice"].detach()) == 0
    assert float(losses["class"].detach()) > 1
    torch.stack(list(losses.values())).sum().backward()
    assert logits.grad is None or not logits.grad.abs().any()


def test_more_segments_than_queries_match_the_best() -> None:
    target = MaskTargets(masks([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]), torch.tensor([0, 0, 0]))
    losses = mask_set_loss([prediction(9 * (2 * masks([0, 0, 1, 1]) - 1), [0])], [target], CONFIG)
    assert float(losses["bce"]) < 0.01


def test_diverged_logits_still_match() -> None:
    broken = torch.tensor([[float("nan")] * 4, [1.0, 1.0, -1.0, -1.0]])
    rows, _ = match(broken, torch.zeros(2, 3), masks([1, 1, 0, 0]).flatten(1), torch.tensor([0]), CONFIG)
    assert rows.tolist() == [1]
