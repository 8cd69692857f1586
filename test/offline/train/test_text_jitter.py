"""Captions' vectors, moved along words."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovseg_ros.core.backbones.sentence_clip import ClipConfig, build_clip
from ovseg_ros.offline.train.text_jitter import TextJitter, other_words
from ovseg_ros.sim import categories

NAMES = [name for word in categories.WORDS.values() for name in word.all_names]


def spelled(sentences: list[str]) -> torch.Tensor:
    """A unit vector (T, 6) of a sentence's letters, in a plane of its own for words: two axes of six."""
    rows = [[sum(map(ord, text)) % 7 + 1.0, sum(map(ord, text)) % 5 + 1.0, 0, 0, 0, 0] for text in sentences]
    return F.normalize(torch.tensor(rows), dim=-1)


@pytest.fixture
def jitter() -> TextJitter:
    return TextJitter(spelled, [f"word{letter}" for letter in "abcdefghij"], reach=1.5, count=8)


def test_vectors_move_along_words_alone(jitter: TextJitter) -> None:
    vectors = F.normalize(torch.tensor([[0.0, 0, 1, 2, 3, 4]]), dim=-1).expand(500, 6)
    moved = jitter(vectors, np.random.default_rng(1))
    assert torch.allclose(moved.norm(dim=-1), torch.ones(500))
    assert torch.allclose(F.normalize(moved[:, 2:], dim=-1), vectors[:, 2:], atol=1e-6)  # where no word points
    shift = (moved / moved[:, 2:].norm(dim=-1, keepdim=True) - vectors)[:, :2].norm(dim=-1)
    farthest = 1.5 * jitter.directions.norm(dim=-1).max()
    assert 0.8 * farthest < shift.max() <= farthest + 1e-5
    assert len(moved.unique(dim=0)) > 400  # each by itself


def test_the_same_step_moves_the_same_way(jitter: TextJitter) -> None:
    vectors = F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    again = TextJitter(spelled, [f"word{letter}" for letter in "jihgfedcba"], reach=1.5, count=8)
    first, same, other = (j(vectors, np.random.default_rng(s)) for j, s in ((jitter, 3), (again, 3), (jitter, 4)))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert jitter(vectors[:0], np.random.default_rng(3)).shape == (0, 6)


def test_directions_are_of_the_mean(jitter: TextJitter) -> None:
    assert jitter.directions.shape == (8, 6)
    assert torch.allclose(jitter.directions.mean(dim=0), torch.zeros(6), atol=1e-6)


def test_no_word_is_of_a_category() -> None:
    """Held-out names stay unseen in every form, and a name is not moved towards another."""
    assert other_words(["##ing", "a1", "sky", "blocks", "cubes", "crimson", "walls", "river", "Ärger"], NAMES) == [
        "river",
        "Ärger",
    ]
    _, tokenizer = build_clip(ClipConfig())
    words = other_words(tokenizer.tokenizer.get_vocab(), NAMES)
    assert len(words) > 10_000
    parts = {part for name in NAMES for part in name.replace("-", " ").split()}
    assert not parts & set(words)
