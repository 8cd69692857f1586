"""The generator's names and CLIP's, joined, by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ovseg_ros.core.classification.word_ensemble import WordEnsembleClassifier
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.word_logits import IMPOSSIBLE

IMAGES = torch.zeros(1, 3, 8, 8)
UNREAD = [IMPOSSIBLE, IMPOSSIBLE, 0.0]
"""What masked crops and FISA say of a mask that they do not read."""


class SaysSo(Classifier):
    """Names masks by given logits; counts what it prepared."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits, self.prepared = torch.tensor([logits]), 0

    def prepare(self, text: TextEmbeddings) -> str:
        self.prepared += 1
        return "read"

    def forward(
        self, images: Tensor, proposals: MaskProposals, words: str, seen: object = None, least: float = 0.0
    ) -> Tensor:
        assert words == "read" and images is IMAGES
        return self.logits


def logs(*probabilities: float) -> list[float]:
    return [math.log(probability) for probability in probabilities]


def classify(
    own: list[list[float]] | None, clip: list[list[float]], *names: str, share: float = 0.65
) -> tuple[Tensor, Tensor]:
    """Logits (Q, K + 1) of an ensemble, and the objectness (Q,) of the masks; `own`, `clip`: logits (Q, K + 1)."""
    count = len(clip)
    masks = MaskProposals(torch.zeros(1, count, 4, 4), torch.zeros(1, count, 2), torch.zeros(1, count, 3))
    if own is not None:
        masks = replace(masks, word_logits=torch.tensor([own]))
    vocabulary = Vocabulary.build([CategorySpec(name) for name in names])
    text = TextEmbeddings(torch.zeros(len(names), 2), torch.arange(len(names)), vocabulary)
    ensemble = WordEnsembleClassifier(SaysSo(clip), share)
    words = ensemble.prepare(text)
    assert ensemble.clip.prepared == 1
    return ensemble(IMAGES, masks, words)[0], masks.objectness[0]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.65, 1.0])
def test_shares_are_of_a_geometric_mean_over_words_and_nothing(share: float) -> None:
    own, clip = (0.6, 0.2, 0.2), (0.3, 0.6, 0.1)
    logits, objectness = classify([logs(*own)], [logs(*clip)], "cup", "bowl", share=share)
    joined = [a ** (1 - share) * b**share for a, b in zip(own, clip, strict=True)]
    assert float(objectness) == pytest.approx(0.8)
    assert logits[0].exp().tolist() == pytest.approx([value / sum(joined) for value in joined], rel=1e-5)


def test_unknown_is_any_object_to_the_generator_and_none_of_these_to_clip() -> None:
    """The generator's word logits say that "unknown" cannot be, as it guides nothing."""
    own = [[*logs(0.6), IMPOSSIBLE, *logs(0.2, 0.2)]]
    logits, _ = classify(own, [logs(0.2, 0.4, 0.3, 0.1)], "cup", "unknown", "bowl")
    joined = [a**0.35 * b**0.65 for a, b in ((0.6, 0.2), (0.8, 0.4), (0.2, 0.3), (0.2, 0.1))]
    assert logits[0].exp().tolist() == pytest.approx([value / sum(joined) for value in joined], rel=1e-5)


def test_masks_that_clip_does_not_read_are_nothing() -> None:
    logits, _ = classify([logs(0.6, 0.2, 0.2), logs(0.6, 0.2, 0.2)], [UNREAD, logs(0.6, 0.3, 0.1)], "cup", "bowl")
    assert logits[0].exp().tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    assert float(logits[1, 0].exp()) > 0.5


def test_masks_that_no_words_guided_are_named_by_clip_alone() -> None:
    clip = [logs(0.3, 0.6, 0.1), UNREAD]
    logits, _ = classify(None, clip, "cup", "bowl")
    assert torch.equal(logits, torch.tensor(clip))


def test_of_one_word_both_have_a_say() -> None:
    """What `~/query` asks: the generator knows what was asked for, CLIP what it is not."""
    clip = [logs(0.9, 0.1), logs(0.5, 0.5), UNREAD[1:]]
    agreed, doubted, none = classify([logs(0.9, 0.1)] * 3, clip, "red things")[0]
    assert agreed[0].exp() == pytest.approx(0.9)
    assert doubted[0].exp() == pytest.approx(0.9**0.35 / (0.9**0.35 + 0.1**0.35))
    assert none[0].exp() == pytest.approx(0, abs=1e-6)


def test_certainty_of_any_kind_stays_a_number() -> None:
    sure = [[80.0, -80.0, -80.0], [-80.0, -80.0, 80.0], [IMPOSSIBLE, IMPOSSIBLE, 0.0]]
    for clip in ([[-200.0, 0.0, 0.0]] * 3, [[0.0, 0.0, IMPOSSIBLE]] * 3, [UNREAD] * 3):
        logits, _ = classify(sure, clip, "cup", "unknown")
        assert torch.isfinite(logits).all()
        torch.testing.assert_close(logits.exp().sum(dim=-1), torch.ones(3))


def test_no_masks() -> None:
    found = MaskProposals(torch.zeros(1, 0, 4, 4), torch.zeros(1, 0, 2), word_logits=torch.zeros(1, 0, 2))
    ensemble = WordEnsembleClassifier(SaysSo([]), 0.65)
    ensemble.clip.logits = torch.zeros(1, 0, 2)
    text = TextEmbeddings(torch.zeros(1, 2), torch.tensor([0]), Vocabulary.build([CategorySpec("cup")]))
    assert ensemble(IMAGES, found, ensemble.prepare(text)).shape == (1, 0, 2)


def test_masks_of_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="1 words guided these masks, 2 are to name them"):
        classify([logs(0.9, 0.1)], [logs(0.3, 0.6, 0.1)], "cup", "bowl")
