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
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.engine.streams import SideBySide
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
        traits: `Vocabulary.traits` on the model's device, so that no frame sends them there; None leaves it to frames.
    """

    vocabulary: Vocabulary
    remarks: tuple[str, ...] = field(default=(), kw_only=True)
    descriptions: Descriptions | None = field(default=None, kw_only=True)
    traits: Tensor | None = field(default=None, kw_only=True)


def traits_on(device: torch.device, vocabulary: Vocabulary) -> Tensor:
    """A prompt's `traits`."""
    return torch.from_numpy(vocabulary.traits).to(device)


class Model(nn.Module, ABC):
    """A module that segments.

    It owns its preprocessing: it takes pixels of any size, and what it scales, pads and normalises, in which precision,
    is nobody else's business.

    Attributes:
        text_encoder: what reads words, if that is no part of the module; whoever converts this converts that.
    """

    text_encoder: TextEncoder | None = None

    @abstractmethod
    def prepare(self, vocabulary: Vocabulary) -> Prompt:
        """All that depends on the words alone. May be called beside `forward`, from another thread."""

    @abstractmethod
    def forward(self, pixels: Tensor, prompt: Any, least: float = 0.0) -> Prediction:
        """What is in images (B, 3, H, W), RGB in [0, 1], under a prompt that this model prepared.

        `least`: a probability. Masks that surely are any segment with no more than this need not be named: they may
        come back as "no object".
        """

    @property
    def own_words(self) -> tuple[str, ...]:
        """All that it can find; empty of a model with an open vocabulary."""
        return ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What engines run; all heavy work is in them."""
        return ()


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

    @property
    def parts(self) -> tuple[Part, ...]:
        """As of `Model`."""
        return ()


class Classifier(nn.Module, ABC):
    """Stage two: names."""

    @abstractmethod
    def prepare(self, text: TextEmbeddings) -> Any:
        """What naming needs of the words."""

    def remarks(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """As of `Prompt`: what this naming makes of some words, where it is not what whoever chose them expects."""
        return ()

    def look(self, pixels: Tensor) -> Any:
        """What naming needs of images (B, 3, h, w) in [0, 1], whatever their masks: it may be made beside them."""
        return None

    @abstractmethod
    def forward(
        self, pixels: Tensor, proposals: MaskProposals, words: Any, seen: Any = None, least: float = 0.0
    ) -> Tensor:
        """Logits (B, Q, K + 1) of proposals for images (B, 3, h, w) in [0, 1]; the last is "no object".

        Args:
            words: from `prepare`.
            seen: from `look`, of these images; None looks now.
            least: as of `Model`: proposals with no more objectness may come back as "no object".
        """

    @property
    def parts(self) -> tuple[Part, ...]:
        """As of `Model`."""
        return ()


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

    text_encoder: TextEncoder

    def __init__(
        self, proposer: Proposer, classifier: Classifier, text_encoder: TextEncoder, input_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.proposer, self.classifier = proposer, classifier
        self.input_size = input_size
        self.text_encoder = text_encoder
        self._side_by_side = SideBySide()

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
            traits=traits_on(text.vectors.device, vocabulary),
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Those of both stages."""
        return (*self.proposer.parts, *self.classifier.parts)

    def forward(self, pixels: Tensor, prompt: TwoStagePrompt, least: float = 0.0) -> Prediction:
        """See `Model`. On a GPU the classifier looks at the images while the masks are made."""
        pixels = fit(pixels, self.input_size)
        seen, proposals = self._side_by_side(
            pixels.device, lambda: self.classifier.look(pixels), lambda: self.proposer(pixels, prompt.proposer)
        )
        return self._named(pixels, proposals, prompt, seen, least)

    def propose(self, pixels: Tensor, prompt: TwoStagePrompt) -> MaskProposals:
        """The masks alone, of images (B, 3, H, W) in [0, 1]."""
        proposals: MaskProposals = self.proposer(fit(pixels, self.input_size), prompt.proposer)
        return proposals

    def classify(self, pixels: Tensor, proposals: MaskProposals, prompt: TwoStagePrompt) -> Prediction:
        """Names for masks, which may be anybody's, of images (B, 3, H, W) in [0, 1]."""
        return self._named(fit(pixels, self.input_size), proposals, prompt)

    def _named(
        self, pixels: Tensor, proposals: MaskProposals, prompt: TwoStagePrompt, seen: Any = None, least: float = 0.0
    ) -> Prediction:
        logits = self.classifier(pixels, proposals, prompt.classifier, seen, least)
        return Prediction(proposals.mask_logits, logits, proposals.query_embeddings, proposals.objectness)
