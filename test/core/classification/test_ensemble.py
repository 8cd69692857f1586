"""The geometric ensemble, on numbers that were worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from ovseg_ros.core.class_names import match_classes
from ovseg_ros.core.classification.ensemble import (
    EnsembleConfig,
    class_shares,
    corrected_void,
    geometric_ensemble,
    in_vocabulary,
)
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary


def categories(*specs: tuple[str, ...]):  # type: ignore[no-untyped-def]
    return Vocabulary.build([CategorySpec(spec[0], synonyms=spec[1:]) for spec in specs]).categories


def inside_of(probabilities: list[float], shares: Tensor) -> Tensor:
    return in_vocabulary(torch.tensor(probabilities), class_shares(shares, EnsembleConfig(), torch.device("cpu")))


def test_classes_are_matched_by_any_shared_name() -> None:
    asked = categories(("Cup", "mug"), ("sofa",), ("robot arm",))
    shares = match_classes(asked, [("mug",), ("couch", "SOFA"), ("dog",)])
    assert shares.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_one_class_for_several_categories_is_shared_and_several_for_one_add_up() -> None:
    asked = categories(("brick wall",), ("tiled wall",), ("table",))
    shares = match_classes(asked, [("wall", "brick wall", "tiled wall"), ("dining table", "table"), ("table",)])
    assert shares.tolist() == [[0.5, 0.5, 0], [0, 0, 1], [0, 0, 1]]
    torch.testing.assert_close(inside_of([0.6, 0.3, 0.1], shares), torch.tensor([0.3, 0.3, 0.4]))


def test_what_belongs_to_nobody_goes_to_unseen_categories_in_equal_parts() -> None:
    # dog is a class that nobody asked for; robot and crate are unseen.
    shares = match_classes(categories(("cup",), ("robot",), ("crate",)), [("cup",), ("dog",)])
    torch.testing.assert_close(inside_of([0.2, 0.8], shares), torch.tensor([0.2, 0.4, 0.4]))
    # Everything seen: the rest goes nowhere.
    shares = match_classes(categories(("cup",)), [("cup",), ("dog",)])
    torch.testing.assert_close(inside_of([0.2, 0.8], shares), torch.tensor([0.2]))
    # Nothing seen: all of it is the rest.
    shares = match_classes(categories(("robot",), ("crate",)), [("cup",), ("dog",)])
    torch.testing.assert_close(inside_of([0.2, 0.8], shares), torch.tensor([0.5, 0.5]))


def test_the_geometric_mean_by_hand() -> None:
    inside, clip = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.4, 0.6]])
    seen = 0.7**0.6 * 0.4**0.4  # alpha 0.4
    unseen = 0.3**0.2 * 0.6**0.8  # beta 0.8
    result = geometric_ensemble(inside, clip, torch.tensor([0.4, 0.8]))
    torch.testing.assert_close(result, torch.tensor([[seen, unseen]]) / (seen + unseen))


def test_the_ends_of_the_scale_are_the_generator_alone_and_clip_alone() -> None:
    inside, clip = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.4, 0.6]])
    torch.testing.assert_close(geometric_ensemble(inside, clip, 0.0), inside)
    torch.testing.assert_close(geometric_ensemble(inside, clip, 1.0), clip)


def test_certainty_of_zero_stays_finite_and_loses() -> None:
    result = geometric_ensemble(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), torch.tensor([0.4, 0.8]))
    assert torch.isfinite(result).all()
    assert result[0, 0] > 0.99


def test_a_certain_clip_halves_no_object() -> None:
    void = torch.tensor([0.8, 0.8, 0.0])
    clip = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    torch.testing.assert_close(corrected_void(void, clip, 0.5), torch.tensor([0.4, 0.6, 0.0]))
    torch.testing.assert_close(corrected_void(void, clip, 0.0), void)


def test_the_defaults_are_the_published_ones() -> None:
    config = EnsembleConfig()
    assert (config.alpha, config.beta, config.gamma) == (0.4, 0.8, 0.5)


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_weights_outside_of_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        EnsembleConfig(**{name: value})
