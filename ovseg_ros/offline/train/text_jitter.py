"""Captions' vectors moved as other wordings would move them, so that an image tower does not cling to those it saw.

A name that no caption contained lies off the directions that the captions span, by much the same differences as lie
between any two words of the language. An image vector that is blind to those differences reads it all the same. So
vectors are moved along them, where CapDec (arXiv:2211.00575) adds Gaussian noise: along single words' vectors, less the
mean of many.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_WORDS = 4000
_BATCH = 200
_LEAST_LETTERS = 4


class TextJitter:
    """Moves unit text vectors along the directions of random words.

    Attributes:
        directions: (W, D), words' unit vectors less their mean.
    """

    def __init__(
        self, encode: Callable[[Sequence[str]], Tensor], words: Sequence[str], reach: float, count: int = _WORDS
    ) -> None:
        """Encodes words, once.

        Args:
            encode: sentences to unit vectors (T, D).
            words: to choose from, always the same `count` of them.
            reach: how far a vector is moved at most, as a multiple of a direction; a unit vector is 1 long.
        """
        chosen = np.random.default_rng(0).permutation(sorted(words))[:count]
        sentences = [f"a {word}" for word in chosen]
        vectors = torch.cat([encode(sentences[i : i + _BATCH]) for i in range(0, len(sentences), _BATCH)])
        self.directions = vectors - vectors.mean(dim=0)
        self._reach = reach

    def __call__(self, vectors: Tensor, rng: np.random.Generator) -> Tensor:
        """Vectors (T, D), each moved by a share of the reach along a word of its own, made unit again."""
        shares = torch.from_numpy(rng.random((len(vectors), 1)) * self._reach).to(vectors)
        chosen = torch.from_numpy(rng.integers(len(self.directions), size=len(vectors))).to(vectors.device)
        return F.normalize(vectors + shares * self.directions[chosen], dim=-1)


def other_words(vocabulary: Iterable[str], names: Iterable[str]) -> list[str]:
    """Whole words of a tokenizer's vocabulary that are no part of these names, nor begin with one ("blocks")."""
    parts = tuple({part for name in names for part in name.replace("-", " ").split()})
    return [
        word for word in vocabulary if word.isalpha() and len(word) >= _LEAST_LETTERS and not word.startswith(parts)
    ]
