"""A model whose names are those that its mask generator was trained with: no CLIP, and no other words."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_ros.core.class_names import match_classes
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.images import fit
from ovseg_ros.core.model import Model, Prompt, Proposer, traits_on
from ovseg_ros.core.types import Prediction
from ovseg_ros.core.vocabulary import Vocabulary

_NAMES_TOLD = 8


@dataclass(frozen=True, slots=True)
class ClosedSetPrompt(Prompt):
    """A vocabulary, and which class is which of its words: (N + 1, K + 1), one 1 in each row.

    The last row is the generator's "no object", the last column the vocabulary's, which also has what nobody asked for.
    """

    words: Tensor


class ClosedSet(Model):
    """Masks with the classes of their generator as names.

    A word is what it is called like: a class by name or synonym, or several, whose probabilities are added up. A class
    that fits several words is the first one's. Classes that no word is are "no object", or "unknown" where the
    vocabulary has that.

    Attributes:
        proposer: makes masks, with logits of N classes and "no object".
        input_size: (height, width) that images are fitted into, pixels.
    """

    def __init__(self, proposer: Proposer, classes: Sequence[Sequence[str]], input_size: tuple[int, int]) -> None:
        """`classes`: N, each its own name and its synonyms."""
        super().__init__()
        self.proposer, self.input_size = proposer, input_size
        self._classes = tuple(tuple(phrases) for phrases in classes)

    @property
    def own_words(self) -> tuple[str, ...]:
        """The classes' own names."""
        return tuple(phrases[0] for phrases in self._classes)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The proposer's."""
        return self.proposer.parts

    @torch.inference_mode()
    def prepare(self, vocabulary: Vocabulary) -> ClosedSetPrompt:
        """Finds the words among the classes.

        Raises:
            VocabularyError: none is there.
        """
        names, unknown = [category.name for category in vocabulary.categories], vocabulary.unknown_index
        fits = match_classes(vocabulary.categories, self._classes) > 0  # (N, K)
        owned = fits & (fits.cumsum(dim=1) == 1)
        unclaimed = ~owned.any(dim=1)
        is_class, finds = fits.any(dim=0).tolist(), owned.any(dim=0).tolist()
        if unknown is not None:
            owned[unclaimed, unknown] = True
            unclaimed = torch.zeros_like(unclaimed)
        foreign = [name for k, name in enumerate(names) if not is_class[k] and k != unknown]
        taken = [name for k, name in enumerate(names) if is_class[k] and not finds[k] and k != unknown]
        own = f"this preset finds its own {len(self._classes)} classes alone: {_listed(self.own_words)}"
        if len(foreign) == len(names):
            raise VocabularyError(
                f"none of the words is a class, not {_listed(foreign)}; {own}. Ask for some of these, or take a preset "
                "with a CLIP, such as eomt_l_convnext"
            )
        remarks = [f"never found, as no class is called so: {_listed(foreign)}; {own}"] if foreign else []
        if taken:
            remarks.append(f"never found, as a word before is the same class: {_listed(taken)}")
        nothing = torch.zeros(len(self._classes) + 1, 1)
        nothing[:-1, 0], nothing[-1] = unclaimed.float(), 1.0
        words = torch.cat([torch.cat([owned.float(), torch.zeros(1, len(names))]), nothing], dim=1)
        device = next(self.proposer.parameters()).device
        return ClosedSetPrompt(
            vocabulary, words.to(device), remarks=tuple(remarks), traits=traits_on(device, vocabulary)
        )

    def forward(self, pixels: Tensor, prompt: ClosedSetPrompt, least: float = 0.0) -> Prediction:
        """See `Model`. The logits are logarithms of probabilities."""
        proposals = self.proposer(fit(pixels, self.input_size), None)
        known = proposals.class_logits
        if known is None or known.shape[-1] != len(self._classes) + 1:
            raise ValueError(f"expected class logits of {len(self._classes)} classes and 'no object'")
        probabilities = known.float().softmax(dim=-1) @ prompt.words
        logits = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
        return Prediction(proposals.mask_logits, logits, proposals.query_embeddings, proposals.objectness)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_TOLD
    return ", ".join(names[:_NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")
