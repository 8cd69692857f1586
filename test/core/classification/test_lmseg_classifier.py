"""Names of masks by what their pixels fit, computed again by hand."""

import pytest
import torch
from lmseg_support import PADDED, Edges, GivenScores, embedded, make, photos
from torch import Tensor

from ovseg_ros.core.classification.lmseg import LMSegClassifier
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.word_logits import IMPOSSIBLE


def proposals(masks: Tensor, objectness: float | None = None) -> MaskProposals:
    """Masks (B, Q, h, w), each an object with the same probability; None where the generator does not say."""
    classes = None
    if objectness is not None:
        classes = torch.tensor([objectness, 1 - objectness]).log().expand(*masks.shape[:2], 2)
    return MaskProposals(masks, torch.zeros(*masks.shape[:2], 1), classes)


def classify(
    probabilities: Tensor,
    found: MaskProposals,
    names: list[str],
    *,
    void_correction: float = 0.0,
    words: Tensor | None = None,
) -> Tensor:
    """Probabilities (B, Q, K + 1), of words that fit each cell with probabilities (B, k, h, w)."""
    classifier = LMSegClassifier(GivenScores(probabilities.logit(), words=words), void_correction)  # type: ignore[arg-type]
    logits: Tensor = classifier(photos(len(probabilities)), found, classifier.prepare(embedded(names)))
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.exp().sum(dim=-1), torch.ones(logits.shape[:2]), atol=1e-4, rtol=1e-4)
    return logits.exp()


FITS = torch.tensor([[[[0.9, 0.5], [0.1, 0.1]], [[0.2, 0.4], [0.6, 0.8]]]])  # (1, 2, 2, 2) of cup and table
LEFT = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
TOP = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])


def test_the_mean_under_a_mask_becomes_a_logit_beside_none() -> None:
    found = classify(FITS, proposals(torch.stack([TOP, LEFT])[None], 0.8), ["cup", "table"])[0]
    for mask, (cup, table) in zip(found, ((0.7, 0.3), (0.5, 0.4)), strict=True):
        odds = torch.tensor([cup / (1 - cup), table / (1 - table), 1.0])  # exp of logits, and of 0
        shares = odds / odds.sum()
        expected = torch.tensor([0.8 * shares[0], 0.8 * shares[1], 1 - 0.8 * (shares[0] + shares[1])])
        torch.testing.assert_close(mask, expected, atol=1e-5, rtol=1e-4)


def test_unknown_takes_the_place_of_none() -> None:
    masks = proposals(TOP[None, None], 0.8)
    plain = classify(FITS, masks, ["cup", "table"])[0, 0]
    found = classify(FITS, masks, ["cup", "unknown", "table"])[0, 0]
    torch.testing.assert_close(found[[0, 2]], plain[:2])
    torch.testing.assert_close(found[3], torch.tensor(0.2), atol=1e-5, rtol=1e-4)  # what the generator calls nothing
    torch.testing.assert_close(found[1], 0.8 - plain[:2].sum(), atol=1e-5, rtol=1e-4)


def test_nothing_but_unknown() -> None:
    found = classify(torch.zeros(1, 0, 2, 2), proposals(TOP[None, None], 0.8), ["unknown"], void_correction=0.5)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.8, 0.2]), atol=1e-5, rtol=1e-4)


def test_an_empty_mask_is_nothing() -> None:
    found = classify(FITS, proposals(torch.full((1, 1, 4, 4), -1.0)), ["cup", "table"])
    assert found[0, 0, -1] > 0.999


def test_a_mask_without_the_centre_of_a_cell_reads_the_cells_it_touches() -> None:
    mask = torch.full((1, 1, 8, 8), -9.0)
    mask[..., 0, 3:5] = 1  # half in either cell of the top row
    torch.testing.assert_close(
        classify(FITS, proposals(mask), ["cup", "table"]), classify(FITS, proposals(TOP[None, None]), ["cup", "table"])
    )


def test_a_certain_word_saves_a_mask_from_the_generators_verdict() -> None:
    masks = proposals(TOP[None, None], 0.1)
    names, share = ["cup", "table"], torch.tensor([0.7 / 0.3, 0.3 / 0.7, 1.0])
    share = share[:2].sum() / share.sum()
    for correction in (0.0, 0.5, 1.0):
        found = classify(FITS, masks, names, void_correction=correction)[0, 0]
        objectness = 1 - 0.9 * (1 - correction * 0.7)  # 0.7 is the mean of the cup's probability
        torch.testing.assert_close(found[:2].sum(), share * objectness, atol=1e-5, rtol=1e-4)


def test_words_that_were_not_looked_at_cannot_be() -> None:
    chosen = torch.tensor([[3, 1], [0, 2]])
    masks = proposals(TOP.expand(2, 1, 2, 2), 0.8)
    found = classify(FITS.expand(2, -1, -1, -1), masks, ["a", "b", "c", "d"], words=chosen)
    plain = classify(FITS, proposals(TOP[None, None], 0.8), ["cup", "table"])[0, 0]
    for image, words in enumerate(chosen.tolist()):
        torch.testing.assert_close(found[image, 0, [*words, 4]], plain)
        assert found[image, 0, [word for word in range(4) if word not in words]].tolist() == [0.0, 0.0]


def test_no_masks() -> None:
    assert classify(FITS, proposals(torch.zeros(1, 0, 4, 4), 0.5), ["cup", "table"]).shape == (1, 0, 3)


@pytest.mark.parametrize("names", [["cup"], ["cup", "unknown"], [f"word {index}" for index in range(2 * PADDED)]])
def test_with_a_scorer_in_half_precision_masks(names: list[str]) -> None:
    classifier = LMSegClassifier(make(second=Edges()), 0.5)
    words = classifier.prepare(embedded(names, synonyms=1))
    masks = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = classifier(photos(), proposals(masks.half(), 0.5), words)
        expected = classifier(photos(), proposals(masks.half().float(), 0.5), words)
        alone = classifier(photos()[1:], proposals(masks[1:].half().float(), 0.5), words)
    assert found.shape == (2, 5, len(names) + 1)
    torch.testing.assert_close(found, expected, check_dtype=False, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(expected[1:], alone, atol=1e-4, rtol=1e-4)
    looked_at = (found[..., :-1] > IMPOSSIBLE / 2).sum(dim=-1)
    assert bool((looked_at == min(len(names), PADDED)).all())


def test_remarks_are_the_scorers() -> None:
    vocabulary = embedded(["cup"]).vocabulary
    assert LMSegClassifier(make(), 0.5).remarks(vocabulary) == ()
    (untrained,) = LMSegClassifier(make(), 0.5, is_trained=False).remarks(vocabulary)
    assert "scores are noise" in untrained
