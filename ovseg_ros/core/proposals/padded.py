"""A mask network with the pixels it was trained on: normalised, and padded to one size."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize, pad
from ovseg_ros.core.model import Proposer
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import UNKNOWN, Vocabulary


class PaddedProposer(Proposer):
    """Masks by a network that takes normalised images of one size (`EoMT`, `Mask2Former`), whatever the words."""

    def __init__(
        self,
        network: nn.Module,
        input_size: tuple[int, int],
        *,
        padding_color: tuple[float, float, float] = IMAGENET_MEAN,
    ) -> None:
        """`network`: (B, 3, *input_size) normalised by ImageNet's statistics -> MaskProposals.

        `padding_color` (RGB in [0, 1]) is what it was trained to see beside an image that does not fill the input size:
        black for the published EoMTs, the mean colour for Mask2Former.
        """
        super().__init__()
        self.network = network
        self._input_size, self._padding_color = input_size, padding_color

    def prepare(self, text: TextEmbeddings) -> Any:
        """Nothing: these masks do not depend on words."""

    def forward(self, pixels: Tensor, words: Any = None) -> MaskProposals:
        """Masks of images (B, 3, h, w) in [0, 1] that fit into the input size; h and w are multiples of 4.

        Images are padded at the right and bottom for the network, masks cut again after it.
        """
        height, width = pixels.shape[-2:]
        canvas = pad(pixels, self._input_size, self._padding_color)
        proposals = self._propose(normalize(canvas, IMAGENET_MEAN, IMAGENET_STD), words)
        rows, columns = proposals.mask_logits.shape[-2:]
        rows, columns = rows * height // self._input_size[0], columns * width // self._input_size[1]
        return replace(proposals, mask_logits=proposals.mask_logits[..., :rows, :columns])

    def _propose(self, images: Tensor, words: Any) -> MaskProposals:
        proposals: MaskProposals = self.network(images)
        return proposals


class PromptGuidedProposer(PaddedProposer):
    """Masks that words take part in making (PMP).

    A category "unknown" guides nothing: it stands for what no word fits. Before a training no word does anything, so
    what is said of the masks is the generator's own.
    """

    network: MaskNetwork

    def __init__(
        self,
        network: MaskNetwork,
        input_size: tuple[int, int],
        *,
        padding_color: tuple[float, float, float] = IMAGENET_MEAN,
        is_trained: bool = True,
    ) -> None:
        """`is_trained`: whether the network's head for words knows anything; the rest as of `PaddedProposer`."""
        super().__init__(network, input_size, padding_color=padding_color)
        self._is_trained = is_trained

    def prepare(self, text: TextEmbeddings) -> GuidingWords:
        """The words made ready to guide; ValueError if the network has no guidance."""
        if self.network.guidance is None:
            raise ValueError("words guide a network with guidance only; set network.guidance")
        unknown, owner = text.vocabulary.unknown_index, text.category_of_prompt
        present = None if unknown is None else owner != unknown
        return self.network.guidance.prepare(
            text.vectors, owner=owner, count=len(text.vocabulary.categories), present=present
        )

    def remarks(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """Says that nothing can be found where no word guides."""
        if not self._is_trained or any(category.name != UNKNOWN for category in vocabulary.categories):
            return ()
        return (f"{UNKNOWN!r} alone finds nothing with this preset, whose masks are those of words; name things, too",)

    def _propose(self, images: Tensor, words: GuidingWords) -> MaskProposals:
        proposals: MaskProposals = self.network(images, words)
        return proposals if self._is_trained else replace(proposals, word_logits=None)
