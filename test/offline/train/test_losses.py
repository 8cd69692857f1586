"""The set loss: matching by hand, perfect and wrong predictions, images without segments."""

import math

import pytest
import torch

from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.offline.train.losses import (
    BatchShare,
    MaskLossConfig,
    MaskTargets,
    assign,
    draw_points,
    mask_set_loss,
    matching_cost,
    sample_points,
    uncertain_points,
)

CONFIG = MaskLossConfig()


def match(*compared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask logits, class logits, masks and classes of one image."""
    mask_logits, class_logits, *wanted = compared
    [(rows, columns)] = assign([matching_cost(mask_logits[None], class_logits[None], *wanted, CONFIG)])
    return rows, columns


def masks(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 2, 2)


def prediction(mask_logits: torch.Tensor, classes: list[int], confidence: float = 12.0) -> QueryPrediction:
    class_logits = torch.full((1, len(classes), 3), -confidence)
    class_logits[0, torch.arange(len(classes)), torch.tensor(classes)] = confidence
    return QueryPrediction(mask_logits[None], class_logits)


def test_the_cheapest_assignment_is_found() -> None:
    targets = masks([1, 1, 0, 0], [0, 0, 1, 1])
    logits = 10 * (2 * masks([0, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0]) - 1)  # query 2 is target 0, query 0 target 1
    rows, columns = match(logits.flatten(1), torch.zeros(3, 3), targets.flatten(1), torch.tensor([0, 0]))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (2, 0)]


def test_classes_break_ties_between_equal_masks() -> None:
    targets = masks([1, 1, 0, 0], [1, 1, 0, 0])
    logits = 10 * (2 * targets - 1)
    class_logits = torch.tensor([[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]])
    rows, columns = match(logits.flatten(1), class_logits, targets.flatten(1), torch.tensor([0, 1]))
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
    rows, _ = match(broken, torch.zeros(2, 3), masks([1, 1, 0, 0]).flatten(1), torch.tensor([0]))
    assert rows.tolist() == [1]


def test_points_are_sampled_between_pixel_centres() -> None:
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])[None]
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.5, 0.75]]])  # (x, y)
    assert sample_points(maps, points)[0, 0].tolist() == pytest.approx([0.0, 1.0, 1.5, 2.5])


def test_most_points_lie_where_a_mask_is_unsure() -> None:
    """Left half sure, right half unsure: three quarters of the points are picked there, of the rest half by chance."""
    logits = torch.full((2, 8, 8), 9.0)
    logits[:, :, 4:] = 0.1
    config = MaskLossConfig(points=2000)
    _, *drawn = draw_points(2, config, logits.device)
    points = uncertain_points(logits, *drawn, config.points)
    assert points.shape == (2, 2000, 2) and points.min() >= 0 and points.max() <= 1
    assert (points[..., 0] > 0.5).float().mean(dim=1).tolist() == pytest.approx([0.875, 0.875], abs=0.03)
    _, *drawn = draw_points(0, config, logits.device)
    assert uncertain_points(logits[:0], *drawn, config.points).shape == (0, 2000, 2)


def test_losses_on_points_come_near_those_on_all_pixels() -> None:
    """Without preference for unsure points, they are an unbiased sample; masks may have a finer resolution."""
    torch.manual_seed(0)
    coarse = torch.zeros(2, 64, 64)
    coarse[0, :32], coarse[1, 32:, 32:] = 1, 1
    fine = coarse.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    shown = prediction(4 * coarse - 2 + 0.1 * torch.randn(2, 64, 64), [1, 0], 1.0)
    classes = torch.tensor([1, 0])
    dense = mask_set_loss([shown], [MaskTargets(coarse, classes)], CONFIG)
    config = MaskLossConfig(points=20_000, oversample=1.0, importance=0.0)
    sampled = mask_set_loss([shown], [MaskTargets(fine.bool(), classes)], config)
    assert float(sampled["class"]) == float(dense["class"])
    assert float(sampled["bce"]) == pytest.approx(float(dense["bce"]), rel=0.1)  # samples at the rim fade to 0
    assert float(sampled["dice"]) == pytest.approx(float(dense["dice"]), rel=0.1)  # samples at the rim fade to 0


def test_points_of_an_image_without_segments_teach_no_object_only() -> None:
    empty = MaskTargets(torch.zeros(0, 8, 8, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    logits = torch.randn(3, 2, 2, requires_grad=True)
    losses = mask_set_loss([prediction(logits, [2, 2, 0])], [empty], MaskLossConfig(points=16))
    assert float(losses["bce"].detach()) == 0 and float(losses["dice"].detach()) == 0
    torch.stack(list(losses.values())).sum().backward()
    assert logits.grad is not None and not logits.grad.any()  # part of the graph, as DDP wants it


@pytest.mark.parametrize("no_object_weight", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("points", [0, 30])
def test_the_mean_over_shares_is_the_whole_batchs_loss(no_object_weight: float, points: int) -> None:
    """Whatever each has of the masks; with the same random points."""
    torch.manual_seed(0)
    config = MaskLossConfig(no_object_weight=no_object_weight, points=points)
    targets = [
        MaskTargets(masks([1, 1, 0, 0]), torch.tensor([1])),
        MaskTargets(masks([1, 0, 0, 0], [0, 0, 1, 1]), torch.tensor([0, 1])),
        MaskTargets(masks(), torch.tensor([], dtype=torch.int64)),
    ]
    logits, classes = torch.randn(3, 3, 2, 2), torch.randn(3, 3, 3)

    def loss_of(share: BatchShare) -> dict[str, torch.Tensor]:
        part = slice(share.samples.start, share.samples.stop)
        torch.manual_seed(1)
        both = [QueryPrediction(logits[part], classes[part])] * 2
        return mask_set_loss(both, targets[part], config, share)

    whole = loss_of(BatchShare(range(3), [1, 2, 0]))
    shares = [loss_of(BatchShare(range(i, i + 1), [1, 2, 0])) for i in range(3)]
    for name, value in whole.items():
        assert float(sum(share[name] for share in shares)) / 3 == pytest.approx(float(value), rel=1e-5)


def test_half_precision_predictions_are_compared_in_single() -> None:
    target = MaskTargets(masks([1, 1, 0, 0]), torch.tensor([1]))
    exact = prediction(torch.tensor([[[3.0, 2.0], [-4.0, -5.0]], [[1.0, -1.0], [1.0, -1.0]]]), [1, 2], 3.0)
    half = QueryPrediction(exact.mask_logits.bfloat16(), exact.class_logits.bfloat16())
    for name, value in mask_set_loss([half], [target], CONFIG).items():
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(float(mask_set_loss([exact], [target], CONFIG)[name]), rel=1e-5)


@pytest.mark.parametrize("bad", [{"points": -1}, {"oversample": 0.5}, {"importance": 1.1}])
def test_bad_points_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))}\n  Input should be (greater|less) than or equal to"):
        MaskLossConfig(**bad)


LEFT, RIGHT = [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]
WORDS = MaskLossConfig(bce_weight=1.0, dice_weight=0.0, class_weight=2.0)
"""Query 0 is the left half, query 1 nothing, query 2 the right half."""
SAID_OF_WORDS = torch.tensor([[2.0, 0.0, -1.0], [9.0, -9.0, 0.0], [0.0, 1.0, 3.0]])
SAID = QueryPrediction(
    20 * (2 * masks(LEFT, [0, 0, 0, 0], RIGHT)[None] - 1),
    torch.tensor([[[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]]),
    SAID_OF_WORDS[None],
)


def objects(shown: torch.Tensor, *words: int) -> MaskTargets:
    return MaskTargets(shown, torch.zeros(len(words), dtype=torch.int64), torch.tensor(words, dtype=torch.int64))


def test_words_cost_what_matched_queries_say() -> None:
    """By hand: the right half is word 1, the left half word 0; query 1 says nothing of words."""
    target = objects(masks(RIGHT, LEFT), 1, 0)
    both = mask_set_loss([SAID, SAID, SAID], [target], WORDS, word_weight=3.0)
    wanted = (SAID_OF_WORDS[0].logsumexp(0) - 2.0) + (SAID_OF_WORDS[2].logsumexp(0) - 1.0)
    # Twice: the first prediction has no words in its loss; the mean is over two masks.
    assert float(both["word"]) == pytest.approx(2 * 3.0 * float(wanted) / 2, rel=1e-6)
    # Nor has it classes: objects cost log 2 each, query 1 as "no object" a tenth of log(1 + e^2).
    wanted_class = 2.0 * (2 * math.log(2) + 0.1 * math.log(1 + math.exp(2))) / 2.1
    assert float(both["class"]) == pytest.approx(2 * wanted_class, rel=1e-6)
    # Masks count before the first layer, too.
    one = mask_set_loss([SAID], [target], WORDS, word_weight=3.0)
    assert float(one["word"]) == float(one["class"]) == 0 and float(both["bce"]) == pytest.approx(3 * float(one["bce"]))
    assert set(mask_set_loss([SAID], [target], WORDS)) == {"class", "bce", "dice"}


def test_words_are_divided_by_all_masks_that_are_matched_in_the_batch() -> None:
    """An image has one mask, one none, one more than there are queries; each is computed by itself."""
    many = objects(masks(LEFT, RIGHT, [1, 1, 0, 0], [0, 0, 0, 0]), 0, 1, 2, 2)
    targets = [objects(masks(RIGHT), 2), objects(masks()), many]
    counts = [1, 0, 4]  # so 1 + 0 + 3 of 3 queries are matched
    batch = QueryPrediction(
        SAID.mask_logits.repeat(3, 1, 1, 1), SAID.class_logits.repeat(3, 1, 1), SAID_OF_WORDS.repeat(3, 1, 1)
    )
    whole = mask_set_loss([batch, batch], targets, WORDS, word_weight=1.0)
    parts = [
        mask_set_loss([SAID, SAID], [target], WORDS, BatchShare(range(i, i + 1), counts), word_weight=1.0)
        for i, target in enumerate(targets)
    ]
    for name, value in whole.items():
        assert float(value) == pytest.approx(sum(float(part[name]) for part in parts) / 3, rel=1e-6), name
    costs = -SAID_OF_WORDS.log_softmax(dim=1)  # of each query and word; a share is a third of the batch
    assert float(parts[0]["word"]) == pytest.approx(float(costs[2, 2]) / (4 / 3), rel=1e-6)
    assert float(parts[1]["word"]) == 0
    assert float(parts[2]["word"]) == pytest.approx(float(costs[0, 0] + costs[1, 2] + costs[2, 1]) / (4 / 3), rel=1e-6)


def test_a_batch_without_any_segment_teaches_no_word_and_stays_finite() -> None:
    classes, words = SAID.class_logits.clone().requires_grad_(), SAID_OF_WORDS[None].clone().requires_grad_()
    predictions = [SAID, QueryPrediction(SAID.mask_logits, classes, words)]
    losses = mask_set_loss(predictions, [objects(masks())], WORDS, word_weight=1.0)
    assert losses["word"].item() == losses["bce"].item() == 0 < losses["class"].item()
    torch.stack(list(losses.values())).sum().backward()
    assert words.grad is not None and not words.grad.any()
    assert classes.grad is not None and classes.grad.abs().sum() > 0
