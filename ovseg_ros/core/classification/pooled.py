"""Naming masks with public weights and no training: pooled CLIP features, joined with the proposer's own classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.class_names import match_classes
from ovseg_ros.core.classification.ensemble import (
    ClassShares,
    EnsembleConfig,
    class_shares,
    corrected_void,
    geometric_ensemble,
    in_vocabulary,
)
from ovseg_ros.core.classification.pooling import Features, MaskPooling
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import Category, normalize_name
from ovseg_ros.core.word_logits import IMPOSSIBLE, best_prompts


@dataclass(frozen=True, slots=True)
class PooledWords:
    """A vocabulary made ready, with the background words that do not collide with it: K categories and L words.

    `vectors` (P', D); `owner` (P',) in [0, K + L); `asked` is K and `count` K + L; `classes` is what of the proposer's
    classes each receives, where there is an ensemble.
    """

    asked: int
    count: int
    vectors: Tensor
    owner: Tensor
    classes: ClassShares | None


class PooledClassifier(Classifier):
    """Names masks by CLIP features pooled under them (`MaskPooling`), with or without FC-CLIP's geometric ensemble."""

    def __init__(
        self,
        pooling: MaskPooling,
        *,
        logit_scale: float,
        ensemble: EnsembleConfig | None = None,
        class_phrases: Sequence[Sequence[str]] = (),
        background: Callable[[], TextEmbeddings] | None = None,
        drops_nothing: bool = True,
    ) -> None:
        """What the classifier is made of.

        Args:
            pooling: images and masks to embeddings.
            logit_scale: what cosines are multiplied with before the softmax: 1 / temperature, CLIP's own.
            ensemble: None lets CLIP alone name what the proposer calls an object.
            class_phrases: names of each of the N classes in the proposals' `class_logits`, without "no object".
            background: embeds `EnsembleConfig.background`, one prompt for each word; asked with each vocabulary, since
                descriptions of its words may change.
            drops_nothing: whether words become impossible for a mask that is likelier nothing than any of them; False
                leaves their shares to whoever joins them with others.
        """
        super().__init__()
        self.pooling = pooling
        self._logit_scale = logit_scale
        self._ensemble = ensemble
        self._class_phrases = tuple(tuple(phrases) for phrases in class_phrases)
        self._background = background
        self._drops_nothing = drops_nothing

    def prepare(self, text: TextEmbeddings) -> PooledWords:
        """The words and the background words beside them, and which of the proposer's classes they are."""
        asked = text.vocabulary.categories
        vectors, owner = text.vectors.float(), text.category_of_prompt
        extra: list[Category] = []
        if self._background is not None:
            background = self._background()
            rows = self._free_background(asked, background.vocabulary.categories)
            extra = [background.vocabulary.categories[row] for row in rows]
            vectors = torch.cat([vectors, background.vectors[rows].to(vectors)])
            owner = torch.cat([owner, torch.arange(len(asked), len(asked) + len(extra)).to(owner)])
        classes = None
        if self._ensemble is not None:
            shares = match_classes([*asked, *extra], self._class_phrases)
            classes = class_shares(shares, self._ensemble, vectors.device)
        return PooledWords(len(asked), len(asked) + len(extra), vectors, owner, classes)

    def look(self, pixels: Tensor) -> Features:
        """CLIP's features of the whole images."""
        return self.pooling.look(pixels)

    @property
    def parts(self) -> tuple[Part, ...]:
        """CLIP's encoder, and its projection."""
        return self.pooling.parts

    def forward(
        self,
        images: Tensor,
        proposals: MaskProposals,
        words: PooledWords,
        seen: Features | None = None,
        least: float = 0.0,
    ) -> Tensor:
        """Open-vocabulary logits (B, Q, K + 1) of every proposal: logarithms of probabilities.

        "No object" stands for the proposer's verdict or, if that is likelier, for the best background word. Where it
        beats all words, they become impossible (`drops_nothing`), so that a threshold near 0 lets weak words live but
        not empty masks.

        Args:
            images: (B, 3, H, W) in [0, 1], the area that the mask logits cover.
            proposals: with `class_logits` of N + 1 entries, the last of which is "no object"; or with word logits,
                whose "no object" counts then, while class logits count for an ensemble only.
            words: from `prepare`.
            seen: from `look`.
            least: changes nothing, as a mask more costs next to nothing.
        """
        known = proposals.class_logits if proposals.word_logits is None else proposals.word_logits
        if known is None:
            raise ValueError("pooling needs proposals with class logits or word logits, the last 'no object'")
        classes, count = proposals.class_logits, len(self._class_phrases)
        if self._ensemble is not None and (classes is None or classes.shape[-1] != count + 1):
            raise ValueError(
                f"class_logits has {0 if classes is None else classes.shape[-1]} entries, expected {count} classes and "
                "'no object'"
            )
        embeddings = self.pooling(self.look(images) if seen is None else seen, proposals.mask_logits)  # (B, Q, D)
        return self._word_logits(embeddings, known, classes, words)

    def _word_logits(self, embeddings: Tensor, known: Tensor, classes: Tensor | None, words: PooledWords) -> Tensor:
        """What `forward` returns, in float32; `known` says which masks are nothing."""
        unit = F.normalize(embeddings.float(), dim=-1)
        prompts = self._logit_scale * unit @ words.vectors.T  # (B, Q, P')
        clip = best_prompts(prompts, words.owner, words.count).softmax(dim=-1)  # (B, Q, K + L)
        void = known.float().softmax(dim=-1)[..., -1]  # (B, Q)
        likelihood, count = clip, words.asked
        if self._ensemble is not None and words.classes is not None and classes is not None:
            inside = in_vocabulary(classes[..., :-1].float().softmax(dim=-1), words.classes)
            likelihood = geometric_ensemble(inside, clip, words.classes.clip)
            void = corrected_void(void, clip[..., :count], self._ensemble.gamma)
        likelihood = likelihood * (1 - void[..., None])
        nothing = torch.cat([void[..., None], likelihood[..., count:]], dim=-1).amax(dim=-1, keepdim=True)  # (B, Q, 1)
        named = likelihood[..., :count]
        logits = torch.cat([named, nothing], dim=-1).clamp(min=torch.finfo(torch.float32).tiny).log()
        if self._drops_nothing:
            is_nothing = nothing >= named.amax(dim=-1, keepdim=True)
            logits[..., :-1].masked_fill_(is_nothing, IMPOSSIBLE)
        return logits

    def _free_background(self, asked: Sequence[Category], words: Sequence[Category]) -> list[int]:
        """The background words that mean nothing that was asked for, by name or by the proposer's class.

        Whoever asks for "man" does not want "person" to take it away.
        """
        groups = [{normalize_name(phrase) for phrase in phrases} for phrases in self._class_phrases]
        taken = {normalize_name(phrase) for category in asked for phrase in (category.name, *category.synonyms)}
        taken = taken.union(*(group for group in groups if group & taken))
        return [row for row, word in enumerate(words) if normalize_name(word.name) not in taken]
