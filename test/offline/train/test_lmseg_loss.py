"""LMSeg's training on given scores: its loss, and the words of a step."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lmseg_training import CATEGORIES, JITTER, LOOP, batch_loss
from torch import Tensor, nn

from ovseg_ros.core.scoring.lmseg.scorer import Encoded, ScoredWords, Scores
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.offline.train.data import PanopticData
from ovseg_ros.offline.train.lmseg import LMSegTask, LMSegTraining, Sentences
from ovseg_ros.offline.train.lmseg_data import IGNORED, LabelledView, LabelledViews

NAMES = [category.name for category in CATEGORIES]


class Given(LabelledViews):
    """A batch of labels (B, H, W), which is the same at each step."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def labels(self, step: int, samples: range) -> list[Tensor]:
        return list(self._labels[samples.start : samples.stop])

    def encoded(self, step: int, samples: range) -> Encoded:
        return Encoded(torch.tensor([*samples]), (), None)  # which they are

    def shown(self) -> Iterator[LabelledView]:
        yield from ()

    def close(self) -> None:
        """Nothing reads ahead."""


class Told(nn.Module):
    """A scorer with logits (B, k, h, w) that it is told, of the words at places (B, k); else zeros, of all words."""

    def __init__(self, logits: Tensor | None = None, places: Tensor | None = None) -> None:
        super().__init__()
        self.embed, self.logits, self.places = nn.Conv2d(1, 1, 1), logits, places

    def words(self, vectors: Tensor, owner: Tensor, names: Tensor, categories: Tensor) -> ScoredWords:
        return ScoredWords(vectors, owner, vectors[None], categories)

    def score(self, encoded: Encoded, words: ScoredWords, **_: object) -> Scores:
        images, count = encoded.clip, len(words.categories)
        places = torch.arange(count).expand(len(images), -1) if self.places is None else self.places[images]
        logits = torch.zeros(len(images), count, 2, 2) if self.logits is None else self.logits[images]
        return Scores(logits, places, images)


class Heard(TextEncoder):
    """Reads phrases as they are; remembers which were asked for."""

    def __init__(self) -> None:
        super().__init__(lambda sentences: F.normalize(torch.ones(len(sentences), 4), dim=-1), ["{}"])
        self.phrases: list[list[str]] = []

    def vectors(self, phrases: Sequence[str]) -> Tensor:
        self.phrases.append(list(phrases))
        return super().vectors(phrases)


def told(labels: Tensor, scorer: nn.Module, *, categories: int = 19, seed: int = 0, **changes: Any) -> LMSegTask:
    """The real task on given labels and scores."""
    config = LMSegTraining("none", PanopticData(), replace(LOOP, seed=seed), JITTER, **changes)
    sentences = Sentences(Heard(), None)
    return LMSegTask(config, scorer, sentences, Given(labels), CATEGORIES[:categories])  # type: ignore[arg-type]


def test_the_loss_by_hand() -> None:
    """Of two words and three pixels, the last without a category."""
    scores = Told(torch.tensor([[[[0, log(3), 5]], [[0, 0, 7]]]]))
    labels = torch.tensor([[[0, 1, IGNORED]]])
    expected = (log(2) + log(2) + log(4) + log(2)) / (2 * 2)
    assert float(batch_loss(told(labels, scores, categories=2), 1)) == pytest.approx(expected)
    every = (4 * expected + float(F.softplus(torch.tensor([5.0, 7])).sum())) / (3 * 2)
    assert float(batch_loss(told(labels, scores, categories=2, ignored_is_negative=True), 1)) == pytest.approx(every)


@pytest.mark.parametrize("ignored_is_negative", [False, True])
def test_the_loss_is_the_usual_one_with_targets_of_each_word(*, ignored_is_negative: bool) -> None:
    """Logits on another grid than the labels; of each image other words, and pixels whose word is not among them."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 3, 4, 5, generator=generator).requires_grad_()
    places = torch.tensor([[4, 0, 2], [0, 1, 2], [3, 1, 0]])
    labels = torch.randint(IGNORED, 5, (3, 10, 13), generator=generator)
    targets = (labels[:, None] == places[..., None, None]).float()
    resized = F.interpolate(logits, (10, 13), mode="bilinear", align_corners=False)
    each = F.binary_cross_entropy_with_logits(resized, targets, reduction="none").movedim(1, -1)
    counted = torch.ones_like(labels, dtype=torch.bool) if ignored_is_negative else labels != IGNORED
    scorer = Told(logits, places)
    found = batch_loss(told(labels, scorer, categories=5, ignored_is_negative=ignored_is_negative), 3)
    torch.testing.assert_close(found, each[counted].mean())
    [ours], [theirs] = (torch.autograd.grad(one, logits, retain_graph=True) for one in (found, each[counted].mean()))
    torch.testing.assert_close(ours, theirs)


def test_a_category_that_is_no_word_of_the_step_fits_none() -> None:
    labels = torch.tensor([[[3, 7], [11, 11]]])
    task = told(labels, Told(torch.zeros(1, 2, 2, 2).index_fill(1, torch.tensor(0), 2.0)), max_words=2)
    found = float(batch_loss(task, 1))
    first, second = (NAMES.index(name) for name in task._sentences.encoder.phrases[-1])  # type: ignore[attr-defined]
    assert first < second and {first, second} < {3, 7, 11}
    target = (labels == first).float()
    expected = F.binary_cross_entropy_with_logits(torch.full((1, 2, 2), 2.0), target) + log(2)
    assert found == pytest.approx(float(expected) / 2)


def test_where_nothing_has_a_category_nothing_is_learned() -> None:
    logits = torch.randn(2, 19, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.full((2, 2, 2), IGNORED)
    assert float(batch_loss(told(labels, Told(logits)), 2).detach()) == 0
    value = batch_loss(told(labels, Told(logits), ignored_is_negative=True), 2)
    torch.testing.assert_close(value, F.softplus(logits).mean())
    labels[0] = 4  # beside one that has
    batch_loss(told(labels, Told(logits)), 2).backward()
    assert logits.grad is not None and (logits.grad[0] != 0).all() and (logits.grad[1] == 0).all()


def test_a_data_set_may_have_one_category() -> None:
    labels = torch.tensor([[[0, IGNORED], [0, 0]]])
    for others in ("random", "likeliest"):
        task = told(labels, Told(), categories=1, max_words=1, others=others)
        assert float(batch_loss(task, 1)) == pytest.approx(log(2))


class Elsewhere(Tensor):
    """As on a GPU: there is no array of it before it is on the CPU."""

    def numpy(self, **_: Any) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, **_: Any) -> Tensor:
        return self.as_subclass(Tensor)


def test_counts_may_be_on_another_device() -> None:
    labels = torch.tensor([[[3, 7]], [[11, IGNORED]]])
    for others in ("random", "likeliest"):
        task = told(labels, Told(), max_words=6, others=others)
        counts = task.counts(0, range(2))
        elsewhere = task.losses(0, range(2), counts.as_subclass(Elsewhere))
        assert torch.equal(elsewhere["bce"], task.losses(0, range(2), counts)["bce"])


def said(labels: Tensor, step: int, samples: range | None = None, **changes: Any) -> list[str]:
    """What the words of a step are called."""
    task = told(labels, Told(), **changes)
    task.losses(step, samples or range(len(labels)), task.counts(step, range(len(labels))))
    [phrases] = task._sentences.encoder.phrases  # type: ignore[attr-defined]
    return phrases


def test_the_words_of_a_step_are_those_that_show_and_some_others() -> None:
    labels = torch.tensor([[[3, 7]], [[11, IGNORED]]])
    shown = {NAMES[k] for k in (3, 7, 11)}
    words = [said(labels, step, max_words=6) for step in range(6)]
    for some in words:
        assert len(some) == 6 and shown < set(some) and sorted(some, key=NAMES.index) == some
    assert len(set(map(tuple, words))) > 3
    torch.rand(3), np.random.default_rng().random()
    assert said(labels, 4, max_words=6) == words[4] != said(labels, 4, max_words=6, seed=1)
    parts = [said(labels, 4, range(part, part + 1), max_words=6) for part in range(2)]
    assert parts == [words[4]] * 2  # which show in the batch, not in the part
    assert said(labels, 0) == said(labels, 0, max_words=19) == said(labels, 0, max_words=400) == NAMES
    few = [said(labels, step, max_words=2) for step in range(9)]
    assert all(set(some) < shown for some in few) and set().union(*few) == shown


def test_synonyms_are_called_as_often_as_asked() -> None:
    labels = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert said(labels, 0, synonyms=0.0) == NAMES
    phrases = [{*category.synonyms} or {category.name} for category in CATEGORIES]
    have_one = np.array([len(category.synonyms) > 0 for category in CATEGORIES])
    always = [said(labels, step, synonyms=1.0) for step in range(8)]
    for some in always:
        assert all(word in known for word, known in zip(some, phrases, strict=True))
    assert len(set(map(tuple, always))) > 1  # any of them
    half = np.array(
        [[a != b for a, b in zip(said(labels, step, synonyms=0.5), NAMES, strict=True)] for step in range(40)]
    )
    assert 0.4 < half[:, have_one].mean() < 0.6 and not half[:, ~have_one].any()
    # Which words there are does not change what they are called.
    some = said(labels, 3, synonyms=0.5, max_words=9)
    assert set(some) < set(said(labels, 3, synonyms=0.5))
