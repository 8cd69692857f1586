"""OMTSeg behind the seam: a vocabulary becomes one text, which the network reads together with each image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.images import BLACK, IMAGENET_MEAN, IMAGENET_STD, Canvas, fit
from ovseg_ros.core.joint.omtseg.network import OBJECT, OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import Tokenizer, write_text
from ovseg_ros.core.model import Model, Prompt, traits_on
from ovseg_ros.core.types import Prediction
from ovseg_ros.core.vocabulary import Category, Vocabulary, as_read
from ovseg_ros.core.vocabulary.lists import listed, not_told_apart
from ovseg_ros.core.word_logits import best_prompts, joined_with_objectness, with_none

_UNTRAINED = (
    "this preset names no checkpoint, so its masks and names are noise; train it, and name what the training wrote"
)

_INPUTS = (
    Port("images", {0: "images"}),
    Port("text", {0: "tokens"}),
    Port("places", {0: "words"}),
    Port("present", {0: "tokens"}),  # filled up with tokens and words that are not
    Port("named", {0: "words"}),
)
_OUTPUTS = (
    *(Port(name, {0: "images"}) for name in ("mask_logits", "objectness_logits")),
    Port("word_logits", {0: "images", 2: "words"}),
    Port("queries", {0: "images"}),
)


@dataclass(frozen=True, slots=True)
class OMTSegPrompt(Prompt):
    """A vocabulary as the network reads it.

    Attributes:
        text: (L, D), embedded.
        places: (P,) int64, where in the text each name or synonym begins.
        owner: (P,) int64 in [0, K), the category of each.
        present, named: (L,) and (P,) bool, True: all of these are of the vocabulary.
    """

    text: Tensor
    places: Tensor
    owner: Tensor
    present: Tensor
    named: Tensor


@dataclass(frozen=True, slots=True)
class _Reading:
    """A name or synonym, the category that it is of, and its tokens."""

    phrase: str
    owner: int
    tokens: tuple[int, ...]


class OMTSeg(Model):
    """Masks and their names at once.

    The order of the words matters, as in any text: another order gives other, about as good, masks.

    Attributes:
        network: what reads both.
        tokenizer: of the words.
    """

    def __init__(
        self, network: OMTSegNetwork, tokenizer: Tokenizer, *, unknown_likeness: float, is_trained: bool = True
    ) -> None:
        """What is around the network.

        Args:
            unknown_likeness: the cosine of "none of these", or a category "unknown", with every mask, in [-1, 1].
            is_trained: whether the network has learned anything; if not, every prompt has a remark on it.
        """
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        self._unknown_likeness, self._is_trained = unknown_likeness, is_trained
        self.canvas = Canvas(IMAGENET_MEAN, IMAGENET_STD, BLACK)
        self._part = Part("omtseg", _Last(network), _INPUTS, _OUTPUTS)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The network."""
        return (self._part,)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) that images are fitted into and padded to, in black, pixels."""
        return self.network.config.encoder.image_size

    @torch.inference_mode()
    def prepare(self, vocabulary: Vocabulary) -> OMTSegPrompt:
        """Writes and embeds the text. Synonyms are in it if it is as short as those of the training even so."""
        longest = self.network.config.trained_words
        names = self._read([(c.name, k) for k, c in _named(vocabulary)])
        synonyms = self._read([(synonym, k) for k, c in _named(vocabulary) for synonym in c.synonyms])
        readings = sorted([*names, *synonyms], key=lambda reading: reading.owner)  # stable: a name before its synonyms
        remarks = [] if self._is_trained else [_UNTRAINED]
        if self._length(readings) > longest:
            readings = names
            if synonyms:
                remarks.append(f"the {len(synonyms)} synonyms are left out: with them, {self._too_long(longest)}")
            if self._length(names) > longest:
                remarks.append(
                    f"{self._too_long(longest)}: these {len(names)} names make {self._length(names)} tokens; positions "
                    "are interpolated, which nothing was trained for; expect less and slower, or name fewer things"
                )
        written = write_text([reading.tokens for reading in readings], self.tokenizer)
        device = self.network.name_mark.device
        text = self.network.embed(torch.tensor(written.ids, device=device))
        places = torch.tensor(written.places, dtype=torch.int64, device=device)
        return OMTSegPrompt(
            vocabulary,
            text,
            places,
            torch.tensor([reading.owner for reading in readings], dtype=torch.int64, device=device),
            torch.ones(len(text), dtype=torch.bool, device=device),
            torch.ones(len(places), dtype=torch.bool, device=device),
            remarks=(*remarks, *self._misread(readings)),
            traits=traits_on(device, vocabulary),
        )

    def forward(self, pixels: Tensor, prompt: OMTSegPrompt, least: float = 0.0) -> Prediction:
        """See `Model`."""
        fitted = fit(pixels, self.input_size)
        images = self.canvas(fitted, self.input_size)
        masks, objectness_logits, words, queries = self._part(
            images, prompt.text, prompt.places, prompt.present, prompt.named
        )
        rows, columns = self.network.mask_size(*fitted.shape[-2:])
        objectness = objectness_logits.float().softmax(dim=-1)[..., OBJECT]
        return Prediction(
            masks[..., :rows, :columns], self._named_logits(words, objectness, prompt), queries, objectness
        )

    def _named_logits(self, words: Tensor, objectness: Tensor, prompt: OMTSegPrompt) -> Tensor:
        """Logarithms of probabilities (B, Q, K + 1), the last of "no object"."""
        best = best_prompts(words.float(), prompt.owner, len(prompt.vocabulary.categories))
        # Else the only word of a query would be the name of every object.
        none = (self.network.scale * self._unknown_likeness).expand_as(objectness)
        return joined_with_objectness(with_none(best, none, prompt.vocabulary), objectness)

    def _read(self, phrases: list[tuple[str, int]]) -> list[_Reading]:
        return [_Reading(phrase, owner, tuple(self.tokenizer.tokens(as_read(phrase)))) for phrase, owner in phrases]

    def _length(self, readings: list[_Reading]) -> int:
        return len(write_text([reading.tokens for reading in readings], self.tokenizer).ids)

    def _too_long(self, longest: int) -> str:
        return f"the text is longer than the {longest} tokens of this preset's training"

    def _misread(self, readings: list[_Reading]) -> list[str]:
        """Which names are not known, or read as another category's, in sentences."""
        unknown = [reading.phrase for reading in readings if self.tokenizer.unknown in reading.tokens]
        owners: dict[tuple[int, ...], list[_Reading]] = {}
        for reading in readings:
            owners.setdefault(reading.tokens, []).append(reading)
        same = [
            list(dict.fromkeys(reading.phrase for reading in group))
            for group in owners.values()
            if len({reading.owner for reading in group}) > 1
        ]
        remarks = not_told_apart("this preset", same)
        if unknown:
            remarks.append(f"this preset does not know all of {listed(unknown)}; use other words")
        return remarks


class _Last(nn.Module):
    """What a network's last layer says, as tensors."""

    def __init__(self, network: OMTSegNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, text: Tensor, places: Tensor, present: Tensor, named: Tensor
    ) -> tuple[Tensor, ...]:
        states, masks, meanings = self.network.read(images, text, places, present, named)
        word_logits = self.network.word_logits(states[-1], self.network.unit_names(meanings))
        return masks[-1], self.network.objectness(states[-1]), word_logits, states[-1]


def _named(vocabulary: Vocabulary) -> list[tuple[int, Category]]:
    """The categories that are written, with their index: all but "unknown", which stands for what no word fits."""
    return [(k, category) for k, category in enumerate(vocabulary.categories) if k != vocabulary.unknown_index]
