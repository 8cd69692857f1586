"""A mask network with the pixels it was trained on: normalised, and padded to one size."""

from typing import Any

import torch
from torch import Tensor, nn

from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, Canvas
from ovseg_ros.core.model import Proposer
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords
from ovseg_ros.core.text_attention import KeyValues
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import UNKNOWN, Vocabulary
from ovseg_ros.core.word_logits import best_prompts

_IMAGES = Port("images", {0: "images"})
_MASKS = tuple(Port(name, {0: "images"}) for name in ("mask_logits", "query_embeddings", "class_logits"))
_GUIDING = (
    Port("keys", {2: "words"}, keeps_type=True),
    Port("values", {2: "words"}, keeps_type=True),
    Port("vectors", {0: "words"}, keeps_type=True),
    Port("present", {0: "words"}),  # filled up with words that are not
)
_NAMES = (Port("word_logits", {0: "images", 2: "words"}), Port("nothing_logits", {0: "images"}))


class PaddedProposer(Proposer):
    """Masks by a network that takes normalised images of one size (`EoMT`, `Mask2Former`), whatever the words."""

    def __init__(
        self,
        network: nn.Module,
        input_size: tuple[int, int],
        *,
        padding_color: tuple[float, float, float] = IMAGENET_MEAN,
        pads: bool = True,
    ) -> None:
        """What is around a network with its weights, which do not change any more but by a training.

        Args:
            network: (B, 3, H, W) normalised by ImageNet's statistics -> MaskProposals with class logits.
            input_size: (height, width) that images are padded to, pixels.
            padding_color: RGB in [0, 1], what it was trained to see beside an image that does not fill the input size:
                black for the published EoMTs, the mean colour for Mask2Former.
            pads: False spares the network what is beside an image, but for what fills its patches; patches are told
                that they are where they would be with it. For a `MaskNetwork`.
        """
        super().__init__()
        self.canvas = Canvas(IMAGENET_MEAN, IMAGENET_STD, padding_color)
        self._input_size = input_size
        self._unit = network.patch_size if isinstance(network, MaskNetwork) and not pads else None
        self.hold(network)

    def hold(self, network: nn.Module) -> None:
        """Take this network, of the same architecture, in place of its own, or one whose weights have changed."""
        self.network = network
        if isinstance(network, MaskNetwork):
            network.on_canvas(*self._input_size)
        self._masks = self._make_part()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The network."""
        return (self._masks,)

    def prepare(self, text: TextEmbeddings) -> Any:
        """Nothing: these masks do not depend on words."""

    def forward(self, pixels: Tensor, words: Any = None) -> MaskProposals:
        """Masks of images (B, 3, h, w) in [0, 1] that fit into the input size; h and w are multiples of 4.

        Images are padded at the right and bottom for the network, masks cut again after it.
        """
        height, width = pixels.shape[-2:]
        size = self._size_for(height, width)
        masks, *others = self._propose(self.canvas(pixels, size), words)
        rows, columns = masks.shape[-2:]
        rows, columns = rows * height // size[0], columns * width // size[1]
        return MaskProposals(masks[..., :rows, :columns], *others)

    def _size_for(self, height: int, width: int) -> tuple[int, int]:
        """What images of a size are padded to."""
        if self._unit is None:
            return self._input_size
        return height + -height % self._unit, width + -width % self._unit

    def _make_part(self) -> Part:
        return Part("masks", _Plain(self.network), (_IMAGES,), _MASKS)

    def _propose(self, images: Tensor, words: Any) -> tuple[Tensor, ...]:
        """What makes `MaskProposals`, of normalised images."""
        return self._masks(images)


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
        pads: bool = True,
        is_trained: bool = True,
    ) -> None:
        """`is_trained`: whether the network's head for words knows anything; the rest as of `PaddedProposer`."""
        super().__init__(network, input_size, padding_color=padding_color, pads=pads)
        self._is_trained = is_trained

    def hold(self, network: nn.Module) -> None:
        """As of `PaddedProposer`; its head for words counts from now on."""
        super().hold(network)
        self._is_trained = True

    def prepare(self, text: TextEmbeddings) -> GuidingWords:
        """The words made ready to guide; ValueError if the network has no guidance."""
        if self.network.guidance is None:
            raise ValueError("words guide a network with guidance only; set network.guidance")
        unknown, owner = text.vocabulary.unknown_index, text.category_of_prompt
        present = torch.ones_like(owner, dtype=torch.bool) if unknown is None else owner != unknown
        return self.network.guidance.prepare(
            text.vectors, owner=owner, count=len(text.vocabulary.categories), present=present
        )

    def remarks(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """Says that nothing can be found where no word guides."""
        if not self._is_trained or any(category.name != UNKNOWN for category in vocabulary.categories):
            return ()
        return (f"{UNKNOWN!r} alone finds nothing with this preset, whose masks are those of words; name things, too",)

    def _make_part(self) -> Part:
        return Part("masks", _Guided(self.network), (_IMAGES, *_GUIDING), (*_MASKS, *_NAMES))

    def _propose(self, images: Tensor, words: GuidingWords) -> tuple[Tensor, ...]:
        assert words.present is not None and words.owner is not None  # from `prepare`
        *masks, rows, nothing = self._masks(images, *words.layers, words.vectors, words.present)
        if not self._is_trained:
            return tuple(masks)
        best = best_prompts(rows.float(), words.owner, words.count)
        return (*masks, torch.cat([best, nothing.float()[..., None]], dim=-1))


class _Plain(nn.Module):
    """A network with a tuple in the place of its `MaskProposals`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found: MaskProposals = self.network(images)
        masks = found.mask_logits, found.query_embeddings
        return masks if found.class_logits is None else (*masks, found.class_logits)


class _Guided(nn.Module):
    """The same for a network that words guide: logits of each word and of "no object", whosever name it is."""

    def __init__(self, network: MaskNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, keys: Tensor, values: Tensor, vectors: Tensor, present: Tensor
    ) -> tuple[Tensor, ...]:
        words = GuidingWords(vectors, KeyValues(keys, values), present, None, vectors.shape[0])
        found: MaskProposals = self.network(images, words)
        assert found.class_logits is not None and found.word_logits is not None
        logits = found.word_logits
        return found.mask_logits, found.query_embeddings, found.class_logits, logits[..., :-1], logits[..., -1]
