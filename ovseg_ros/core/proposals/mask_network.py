"""What the networks that propose masks have in common: what they say, and how words take part in it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ovseg_ros.core.proposals.prompt_guidance import GuidingWords, PromptGuidance
from ovseg_ros.core.types import MaskProposals, QueryPrediction


class MaskNetwork(nn.Module, ABC):
    """Queries that become masks layer by layer.

    Attributes:
        guidance: how words take part in the masks; None, and it proposes whatever is there. A submodule.
    """

    def __init__(self) -> None:
        super().__init__()
        self.guidance: PromptGuidance | None = None

    @abstractmethod
    def forward(self, images: Tensor, words: GuidingWords | None = None) -> MaskProposals:
        """Masks of normalised images (B, 3, H, W); `words` from `guidance.prepare`, if there is guidance.

        Raises:
            ValueError: there is guidance, but no words.
        """

    @abstractmethod
    def forward_layers(self, images: Tensor, words: GuidingWords | None = None) -> list[QueryPrediction]:
        """What the heads say before the first guided layer and after each, the final one last; for training.

        Arguments and errors as of `forward`.
        """

    def on_canvas(self, height: int, width: int) -> None:
        """Images will lie at the top left of a canvas of this size, pixels; nothing where positions fit every size."""
        return

    def fold_norms(self) -> None:
        """Get faster where that is possible, for inference alone: it can no longer learn, nor be saved."""
        return

    @property
    @abstractmethod
    def guided_layers(self) -> tuple[int, int]:
        """How many layers words can guide, and how wide their queries are."""

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """What the sides of images are multiples of, pixels."""

    @abstractmethod
    def mask_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the mask logits of an image, pixels each."""

    def _guide(self, layer: int, queries: Tensor, words: GuidingWords | None) -> Tensor:
        """Queries (B, Q, C) that have read the words, if any guide."""
        return queries if self.guidance is None or words is None else self.guidance.guide(layer, queries, words)

    def _word_logits(self, queries: Tensor, words: GuidingWords | None) -> Tensor | None:
        return None if self.guidance is None or words is None else self.guidance.word_logits(queries, words)

    def _require_words(self, words: GuidingWords | None) -> None:
        if self.guidance is not None and words is None:
            raise ValueError("these masks depend on words; give those that guidance.prepare makes of text vectors")
