"""The training-free classifier, with embeddings that are given rather than pooled."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.classification.ensemble import EnsembleConfig
from ovseg_ros.core.classification.pooled import PooledClassifier
from ovseg_ros.core.classification.word_ensemble import WordEnsembleClassifier
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

SCALE = 2.0


class GivenEmbeddings(nn.Module):
    """Says what it was told to, whatever the image."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embeddings = embeddings

    def look(self, images: Tensor) -> None:
        return None

    def forward(self, features: None, mask_logits: Tensor) -> Tensor:
        assert mask_logits.shape[:2] == self.embeddings.shape[:2]
        return self.embeddings


def text(**vectors: list[list[float]]) -> TextEmbeddings:
    """One category for each keyword, with its prompts' vectors; underscores are spaces."""
    specs = [
        CategorySpec(name.replace("_", " "), synonyms=tuple(f"{name} {i}" for i in range(1, len(rows))))
        for name, rows in vectors.items()
    ]
    rows = torch.tensor([row for rows in vectors.values() for row in rows], dtype=torch.float32)
    owners = torch.tensor([index for index, rows in enumerate(vectors.values()) for _ in rows])
    return TextEmbeddings(F.normalize(rows, dim=-1), owners, Vocabulary.build(specs))


def proposals(class_probabilities: list[list[float]]) -> MaskProposals:
    """One query for each row of probabilities over the classes and "no object"."""
    logits = torch.tensor(class_probabilities)[None].clamp(min=1e-6).log()
    return MaskProposals(
        torch.zeros(1, len(class_probabilities), 4, 4), torch.zeros(1, len(class_probabilities), 2), logits
    )


def classify(embeddings: list[list[float]], found: MaskProposals, words: TextEmbeddings, **kwargs) -> Tensor:  # type: ignore[no-untyped-def]
    """Probabilities (Q, K + 1)."""
    rows = F.normalize(torch.tensor(embeddings, dtype=torch.float32), dim=-1)[None]
    classifier = PooledClassifier(GivenEmbeddings(rows), logit_scale=SCALE, **kwargs)
    return classifier(torch.zeros(1, 3, 8, 8), found, classifier.prepare(words))[0].softmax(dim=-1)


WORDS = {"cup": [[1.0, 0.0]], "robot": [[0.0, 1.0]]}


def test_clip_alone_names_what_the_generator_calls_an_object() -> None:
    probabilities = classify([[1, 0]], proposals([[0.5, 0.4, 0.1]]), text(**WORDS))
    cup = math.e**SCALE / (math.e**SCALE + 1)
    named = torch.tensor([0.9 * cup, 0.9 * (1 - cup), 0.1])
    torch.testing.assert_close(probabilities[0], named / named.sum())


def test_the_ensemble_by_hand() -> None:
    found = proposals([[0.6, 0.2, 0.2]])  # cup 0.75 and dog 0.25 without "no object"
    probabilities = classify(
        [[1, 0]], found, text(**WORDS), ensemble=EnsembleConfig(), class_phrases=[("mug", "cup"), ("dog",)]
    )
    clip = torch.tensor([math.e**SCALE, 1.0])
    clip = clip / clip.sum()
    mean = torch.tensor([0.75**0.6 * clip[0] ** 0.4, 0.25**0.2 * clip[1] ** 0.8])  # robot, unseen, gets what dog had
    void = 0.2 * (1 - 0.5 * clip.max())
    expected = torch.cat([mean / mean.sum() * (1 - void), void[None]])
    torch.testing.assert_close(probabilities[0], expected, atol=1e-5, rtol=1e-4)


def test_the_best_synonym_counts() -> None:
    words = text(cup=[[0, 1], [1, 0.1]], robot=[[-1, 0]])
    assert classify([[1, 0]], proposals([[0.9, 0.1]]), words)[0].argmax() == 0


def test_weak_words_live_but_nothing_stays_nothing() -> None:
    found = proposals([[0.8, 0.2], [0.2, 0.8]])
    probabilities = classify([[1, 0.9], [1, 0.9]], found, text(**WORDS, crate=[[0.7, 0.7]]))
    assert 0.2 < probabilities[0, :3].max() < 0.5  # below the usual threshold, and yet likelier than "no object"
    assert probabilities[1, :3].max() == 0


def test_a_certain_clip_saves_a_mask_from_the_generators_verdict() -> None:
    found = proposals([[0.3, 0.1, 0.6]])
    words = text(cup=[[1.0, 0.0]], robot=[[-1.0, 0.0]])
    kept = classify([[1, 0]], found, words, ensemble=EnsembleConfig(gamma=0.5), class_phrases=[("dog",), ("cat",)])
    lost = classify([[1, 0]], found, words, ensemble=EnsembleConfig(gamma=0.0), class_phrases=[("dog",), ("cat",)])
    assert kept[0, 0] > 0.5
    assert lost[0, :2].max() == 0


def background(*names: str) -> Callable[[], TextEmbeddings]:
    return lambda: text(**{name: [[0.0, 1.0]] for name in names})


def test_background_words_take_what_nobody_asked_for() -> None:
    found = proposals([[0.9, 0.1]])
    words = text(cup=[[1.0, 0.0]])
    arguments = {"ensemble": EnsembleConfig(), "class_phrases": [("dog",)]}
    # The mask looks like the background word, and only the cup can be asked for.
    assert classify([[0, 1]], found, words, **arguments)[0].argmax() == 0
    assert classify([[0, 1]], found, words, background=background("wall"), **arguments)[0, 0] == 0
    assert classify([[1, 0]], found, words, background=background("wall"), **arguments)[0].argmax() == 0


def test_words_asked_for_win_over_background_words_of_the_same_meaning() -> None:
    found = proposals([[0.9, 0.1]])
    arguments = {"ensemble": EnsembleConfig(), "class_phrases": [("person", "man")], "background": background("person")}
    # By name, and as another name of the generator's class.
    for asked in ("person", "man"):
        assert classify([[0, 1]], found, text(**{asked: [[0.0, 1.0]]}), **arguments)[0].argmax() == 0


def test_no_masks_and_a_change_of_words() -> None:
    classifier = PooledClassifier(GivenEmbeddings(torch.zeros(1, 0, 2)), logit_scale=SCALE)
    empty = MaskProposals(torch.zeros(1, 0, 4, 4), torch.zeros(1, 0, 2), torch.zeros(1, 0, 3))
    for words in (text(**WORDS), text(cup=[[1.0, 0.0]]), text(**WORDS)):
        count = len(words.vocabulary.categories)
        assert classifier(torch.zeros(1, 3, 8, 8), empty, classifier.prepare(words)).shape == (1, 0, count + 1)


def test_a_batch_is_its_images_one_by_one() -> None:
    torch.manual_seed(0)
    embeddings = F.normalize(torch.randn(3, 5, 2), dim=-1)
    found = MaskProposals(torch.zeros(3, 5, 4, 4), torch.zeros(3, 5, 2), torch.randn(3, 5, 3))
    arguments = {"ensemble": EnsembleConfig(), "class_phrases": [("cup",), ("dog",)], "logit_scale": SCALE}
    classifier = PooledClassifier(GivenEmbeddings(embeddings), **arguments)
    words = classifier.prepare(text(**WORDS))
    together = classifier(None, found, words)
    for image in range(3):
        one = MaskProposals(
            *(part[image : image + 1] for part in (found.mask_logits, found.query_embeddings, found.class_logits))
        )
        single = PooledClassifier(GivenEmbeddings(embeddings[image : image + 1]), **arguments)
        torch.testing.assert_close(single(None, one, words)[0], together[image])


def test_many_masks_and_words_give_distributions() -> None:
    torch.manual_seed(0)
    count, names = 200, [f"word {index}" for index in range(1203)]
    vectors = F.normalize(torch.randn(2 * len(names), 16), dim=-1)
    specs = [CategorySpec(name, synonyms=(f"other {name}",)) for name in names]
    owners = torch.arange(len(names)).repeat_interleave(2)
    words = TextEmbeddings(vectors, owners, Vocabulary.build(specs, max_categories=1203))
    found = MaskProposals(torch.zeros(1, count, 4, 4), torch.zeros(1, count, 2), torch.randn(1, count, 134))
    classifier = PooledClassifier(
        GivenEmbeddings(F.normalize(torch.randn(1, count, 16), dim=-1)),
        logit_scale=100.0,
        ensemble=EnsembleConfig(),
        class_phrases=[(f"word {index}",) for index in range(133)],
    )
    logits = classifier(torch.zeros(1, 3, 8, 8), found, classifier.prepare(words))
    assert logits.shape == (1, count, 1204)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits.softmax(dim=-1).sum(dim=-1), torch.ones(1, count))


def test_proposals_that_do_not_fit_are_refused() -> None:
    found = MaskProposals(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="class logits"):
        classify([[1, 0]], found, text(**WORDS))
    with pytest.raises(ValueError, match="3 entries, expected 1 classes"):
        classify(
            [[1, 0]], proposals([[0.5, 0.4, 0.1]]), text(**WORDS), ensemble=EnsembleConfig(), class_phrases=[("a",)]
        )


def guided(
    word_probabilities: list[list[float]], class_probabilities: list[list[float]] | None = None
) -> MaskProposals:
    """Proposals that words guided: probabilities over the words and "no object", and over classes if given."""
    found = proposals(word_probabilities)
    classes = None if class_probabilities is None else proposals(class_probabilities).class_logits
    return MaskProposals(found.mask_logits, found.query_embeddings, classes, word_logits=found.class_logits)


def test_nothing_is_what_the_words_say_where_they_guided() -> None:
    """Logits of words in place of the classes', which then count for an ensemble only."""
    by_classes = classify([[1, 0]], proposals([[0.5, 0.3, 0.2]]), text(**WORDS))
    assert classify([[1, 0]], guided([[0.7, 0.1, 0.2]], [[0.01, 0.01, 0.98]]), text(**WORDS)).equal(by_classes)
    assert classify([[1, 0]], guided([[0.7, 0.1, 0.2]]), text(**WORDS)).equal(by_classes)
    settings = {"ensemble": EnsembleConfig(0.5, 0.5, 0.0), "class_phrases": [("cup",), ("robot",)]}
    found = classify([[1, 1]], guided([[0.1, 0.7, 0.2]], [[0.8, 0.1, 0.1]]), text(**WORDS), **settings)
    inside, clip = torch.tensor([8 / 9, 1 / 9]), torch.tensor([0.5, 0.5])
    joined = (inside * clip).sqrt()
    torch.testing.assert_close(found, torch.cat([0.8 * joined / joined.sum(), torch.tensor([0.2])])[None])
    with pytest.raises(ValueError, match="class_logits has 0 entries, expected 2 classes"):
        classify([[1, 1]], guided([[0.1, 0.7, 0.2]]), text(**WORDS), **settings)


def test_an_uncertain_mask_keeps_clips_shares_for_whoever_joins_them() -> None:
    """At objectness .4 nothing beats every word; a word ensemble needs CLIP's say nevertheless."""
    found = guided([[0.2, 0.2, 0.6]])
    dropped = classify([[1, 0]], found, text(**WORDS))
    assert float(dropped[0, :2].sum()) == 0
    kept = classify([[1, 0]], found, text(**WORDS), drops_nothing=False)
    shares = torch.tensor([SCALE, 0.0]).softmax(dim=-1)
    torch.testing.assert_close(kept[0, :2] / kept[0, :2].sum(), shares)
    rows = F.normalize(torch.tensor([[1.0, 0.0]]), dim=-1)[None]
    clip = PooledClassifier(GivenEmbeddings(rows), logit_scale=SCALE, drops_nothing=False)
    ensemble = WordEnsembleClassifier(clip, clip_share=1.0)
    joined = ensemble(torch.zeros(1, 3, 8, 8), found, ensemble.prepare(text(**WORDS)))[0].exp()
    torch.testing.assert_close(joined, torch.cat([0.4 * shares, torch.tensor([0.6])])[None])
