"""LMSeg as a classifier: a mask is named by the mean of what its pixels fit."""

from typing import NamedTuple

import torch
from torch import Tensor

from ovseg_ros.core.classification.ensemble import corrected_void
from ovseg_ros.core.classification.pooling import CellGrids
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.scoring.lmseg.scorer import Encoded, LMSegScorer, ScoredWords, Scores
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.word_logits import IMPOSSIBLE, joined_with_objectness, with_none

_LEAST = 1e-6
"""Of a mean of probabilities, so that it has a logit."""


class LMSegWords(NamedTuple):
    """A vocabulary, and its words as the scorer reads them."""

    vocabulary: Vocabulary
    scored: ScoredWords


class LMSegClassifier(Classifier):
    """Names masks by how well each word fits their pixels.

    A word's logit is that of its mean probability under the mask. "None of these" has 0: each word was trained for
    itself, against a logit of 0.

    Attributes:
        scorer: says what fits where.
    """

    def __init__(self, scorer: LMSegScorer, void_correction: float, *, is_trained: bool = True) -> None:
        """What is around the scorer.

        Args:
            void_correction: how far the certainty of a word lowers the generator's "no object", in [0, 1].
            is_trained: whether the scorer has learned anything; if not, every prompt has a remark on it.
        """
        super().__init__()
        self.scorer = scorer
        self._void_correction, self._is_trained = void_correction, is_trained
        self._grids = CellGrids()

    def remarks(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        return self.scorer.remarks(vocabulary, is_trained=self._is_trained)

    def prepare(self, text: TextEmbeddings) -> LMSegWords:
        """What the scorer needs of the words."""
        return LMSegWords(text.vocabulary, self.scorer.prepare(text))

    def look(self, pixels: Tensor) -> Encoded:
        """What the scorer's encoders make of the whole images."""
        return self.scorer.encode(pixels)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The scorer's."""
        return self.scorer.parts

    def forward(
        self,
        images: Tensor,
        proposals: MaskProposals,
        words: LMSegWords,
        seen: Encoded | None = None,
        least: float = 0.0,
    ) -> Tensor:
        """Logits (B, Q, K + 1) of every proposal: logarithms of probabilities, the last of "no object".

        Args:
            images: (B, 3, H, W) in [0, 1], the area that the mask logits cover.
            proposals: any.
            words: from `prepare`.
            seen: from `look`.
            least: changes nothing, as a mask more costs next to nothing.
        """
        return self.name_masks(self.scorer(images, words.scored, seen), proposals, words)

    def name_masks(self, scores: Scores, proposals: MaskProposals, words: LMSegWords) -> Tensor:
        """As `forward`, of images whose scores are known; in float32."""
        found = scores.logits.float().sigmoid()  # (B, k, h, w)
        grid = (found.shape[-2], found.shape[-1])
        weights = self._grids.grid_weights(proposals.mask_logits, grid, (float(grid[0]), float(grid[1])))
        pooled = weights.flatten(2) @ found.flatten(2).transpose(1, 2)  # (B, Q, k)
        logits = pooled.new_full((*pooled.shape[:2], len(words.vocabulary.categories)), IMPOSSIBLE)
        places = words.scored.categories[scores.words][:, None].expand_as(pooled)  # (B, Q, k)
        logits = logits.scatter(2, places, pooled.logit(eps=_LEAST))
        void = 1 - proposals.objectness
        if pooled.shape[-1]:
            void = corrected_void(void, pooled, self._void_correction)
        named = with_none(logits, torch.zeros_like(logits[..., 0]), words.vocabulary)
        return joined_with_objectness(named, 1 - void)
