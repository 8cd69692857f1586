"""The seam: what a segmentation model is to everything around it.

A model is two calls. `prepare` does all that depends on the words alone, once for each vocabulary; its result, the
prompt, is immutable, belongs to whoever holds it, and is freed with it. `forward` takes pixels and a prompt. A model
keeps nothing of a vocabulary itself but the vectors of single words, so prompts of several vocabularies may be in use
at once.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ovseg_ros.core.descriptions import Descriptions
from ovseg_ros.core.images import fit
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import MaskProposals, Prediction, TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Prompt:
    """A vocabulary made ready for one model; models have prompts of their own kind.

    Attributes:
        vocabulary: as it was given.
        remarks: which words the model cannot read or tell apart, in sentences for whoever chose them.
        descriptions: what its words were read with; None for a model that asks for none.
    """

    vocabulary: Vocabulary
    remarks: tuple[str, ...] = field(default=(), kw_only=True)
    descriptions: Descriptions | None = field(default=None, kw_only=True)


class Model(nn.Module, ABC):
    """A module that segments.

    It owns its preprocessing: it takes pixels of any size, and what it scales, pads and normalises, in which precision,
    is nobody else's business.
    """

    @abstractmethod
    def prepare(self, vocabulary: Vocabulary) -> Prompt:
        """All that depends on the words alone. May be called beside `forward`, from another thread."""

    @abstractmethod
    def forward(self, pixels: Tensor, prompt: Any) -> Prediction:
        """What is in images (B, 3, H, W), RGB in [0, 1], under a prompt that this model prepared."""


class Proposer(nn.Module, ABC):
    """Stage one: masks."""

    @abstractmethod
    def prepare(self, text: TextEmbeddings) -> Any:
        """What the masks need of the words; None for masks that do not depend on words."""

    def remarks(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """As of `Prompt`: what these masks make of some words, where it is not what whoever chose them expects."""
        return ()

    @abstractmethod
    def forward(self, pixels: Tensor, words: Any) -> MaskProposals:
        """Masks of images (B, 3, h, w) in [0, 1], which they cover; `words` is what `prepare` made."""


class Classifier(nn.Module, ABC):
    """Stage two: names."""

    @abstractmethod
    def prepare(self, text: TextEmbeddings) -> Any:
        """What naming needs of the words."""

    def remarks(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """As of `Prompt`: what this naming makes of some words, where it is not what whoever chose them expects."""
        return ()

    @abstractmethod
    def forward(self, pixels: Tensor, proposals: MaskProposals, words: Any) -> Tensor:
        """Logits (B, Q, K + 1) of proposals for images (B, 3, h, w) in [0, 1]; the last is "no object"."""


@dataclass(frozen=True, slots=True)
class TwoStagePrompt(Prompt):
    """What each stage made of the words."""

    proposer: Any
    classifier: Any


class TwoStage(Model):
    """Masks first, then their names, by two parts that know nothing of each other.

    Attributes:
        proposer, classifier: the stages.
        text_encoder: makes of words what either stage prepares.
        input_size: (height, width) that images are fitted into, pixels.
    """

    def __init__(
        self, proposer: Proposer, classifier: Classifier, text_encoder: TextEncoder, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.proposer, self.classifier = proposer, classifier
        self.input_size = input_size
        self.text_encoder = text_encoder

    @torch.inference_mode()
    def prepare(self, vocabulary: Vocabulary) -> TwoStagePrompt:
        """Embeds the words, of which only new ones cost time; then each stage makes of them what it needs."""
        text = self.text_encoder.encode(vocabulary)
        proposer, classifier = self.proposer, self.classifier
        remarks = (
            *self.text_encoder.remarks(text),
            *proposer.remarks(vocabulary),
            *classifier.remarks(vocabulary),
        )
        return TwoStagePrompt(
            vocabulary,
            proposer.prepare(text),
            classifier.prepare(text),
            remarks=remarks,
            descriptions=text.descriptions,
        )

    def forward(self, pixels: Tensor, prompt: TwoStagePrompt) -> Prediction:
        """See `Model`."""
        pixels = fit(pixels, self.input_size)
        return self._named(pixels, self.proposer(pixels, prompt.proposer), prompt)

    def propose(self, pixels: Tensor, prompt: TwoStagePrompt) -> MaskProposals:
        """The masks alone, of images (B, 3, H, W) in [0, 1]."""
        proposals: MaskProposals = self.proposer(fit(pixels, self.input_size), prompt.proposer)
        return proposals

    def classify(self, pixels: Tensor, proposals: MaskProposals, prompt: TwoStagePrompt) -> Prediction:
        """Names for masks, which may be anybody's, of images (B, 3, H, W) in [0, 1]."""
        return self._named(fit(pixels, self.input_size), proposals, prompt)

    def _named(self, pixels: Tensor, proposals: MaskProposals, prompt: TwoStagePrompt) -> Prediction:
        logits = self.classifier(pixels, proposals, prompt.classifier)
        return Prediction(proposals.mask_logits, logits, proposals.query_embeddings, proposals.objectness)
