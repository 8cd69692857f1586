"""The mask generator's names by words and CLIP's, joined by a geometric mean (PMP Eqs 1 to 3, after OVSeg)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovseg_ros.core.classification.ensemble import geometric_ensemble
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary


class EnsembleWords(NamedTuple):
    """A vocabulary, and what CLIP's half makes of it."""

    vocabulary: Vocabulary
    clip: Any


class WordEnsembleClassifier(Classifier):
    """Names masks by p^(1 - a) * p_clip^a over the words and "no object", made a distribution again.

    "No object" is one of the names: the generator knows what was asked for, since words take part in its masks, and
    CLIP, where it has a "none of these", knows what no word fits. Without CLIP's, one word alone would get most of what
    it does not mean.
    """

    def __init__(self, clip: Classifier, clip_share: float) -> None:
        """`clip`: names masks by CLIP. `clip_share`: a, in [0, 1]."""
        super().__init__()
        self.clip = clip
        self._share = clip_share

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those of CLIP's half."""
        return self.clip.parts

    def prepare(self, text: TextEmbeddings) -> EnsembleWords:
        """What CLIP's half needs of the words; the generator has read them already."""
        return EnsembleWords(text.vocabulary, self.clip.prepare(text))

    def look(self, pixels: Tensor) -> Any:
        """As CLIP's half looks."""
        return self.clip.look(pixels)

    def forward(
        self, images: Tensor, proposals: MaskProposals, words: EnsembleWords, seen: Any = None, least: float = 0.0
    ) -> Tensor:
        """Logits (B, Q, K + 1) of every proposal: logarithms of probabilities.

        A category "unknown", which guides no masks, is to the generator any object; so CLIP decides, by its "none of
        these" where it has one (masked crops, FISA).
        Masks that no words guided, as true ones, are named by CLIP alone. CLIP reads masks whatever `least` is, since
        the mean of two names may be surer than the generator's objectness.

        Raises:
            ValueError: the words that guided the masks are more or fewer than these.
        """
        named: Tensor = self.clip(images, proposals, words.clip, seen)
        if proposals.word_logits is None:
            return named
        if proposals.word_logits.shape != named.shape:
            raise ValueError(
                f"{proposals.word_logits.shape[-1] - 1} words guided these masks, {named.shape[-1] - 1} are to name "
                "them; propose and classify with one prompt"
            )
        own = proposals.word_logits.float().softmax(dim=-1)  # (B, Q, K + 1)
        unknown = words.vocabulary.unknown_index
        if unknown is not None:
            own[..., unknown] = 1 - own[..., -1]
        joined = geometric_ensemble(own, named.float().softmax(dim=-1), self._share)
        return joined.clamp(min=torch.finfo(torch.float32).tiny).log()
