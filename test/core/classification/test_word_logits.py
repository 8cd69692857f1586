"""From prompts to categories, by hand."""

import math

import pytest
import torch

from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.word_logits import IMPOSSIBLE, best_prompts, joined_with_objectness, with_none


def test_the_best_prompt_of_a_category_counts() -> None:
    prompts = torch.tensor([[[1.0, -2.0, 3.0], [0.0, 5.0, -1.0]]])
    best = best_prompts(prompts, torch.tensor([0, 1, 0]), 3)
    assert best.tolist() == [[[3.0, -2.0, IMPOSSIBLE], [0.0, 5.0, IMPOSSIBLE]]]
    assert best_prompts(torch.zeros(0, 3), torch.tensor([0, 1, 0]), 2).shape == (0, 2)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (0,)])
def test_unknown_takes_the_place_of_none(shape: tuple[int, ...]) -> None:
    best, none = torch.full((*shape, 2), 4.0), torch.full(shape, -1.0)
    plain = with_none(best, none, Vocabulary.build([CategorySpec("cup"), CategorySpec("mug")]))
    assert torch.equal(plain, torch.tensor([4.0, 4.0, -1.0]).expand(*shape, 3))
    taken = with_none(best, none, Vocabulary.build([CategorySpec("cup"), CategorySpec("Unknown")]))
    assert torch.equal(taken, torch.tensor([4.0, -1.0, IMPOSSIBLE]).expand(*shape, 3))


def test_a_mask_is_nothing_by_either_verdict() -> None:
    logits = joined_with_objectness(torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([0.8]))
    # The word has 3/4 of what is an object; the rest, and what is none, are nothing.
    assert logits.exp()[0].tolist() == pytest.approx([0.6, 0.4])
    extremes = joined_with_objectness(torch.zeros(2, 3), torch.tensor([0.0, 1.0]))
    assert torch.isfinite(extremes).all()
    assert extremes.exp().sum(dim=-1).tolist() == pytest.approx([1.0, 1.0])
