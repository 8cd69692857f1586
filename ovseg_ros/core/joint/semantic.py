"""A model without masks: every pixel has scores for all words, which are the masks of stuff or, cut up, of things."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.model import Model, Prompt, traits_on
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer, ScoredWords
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import Prediction
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.word_logits import IMPOSSIBLE

_NOWHERE = -100.0
"""Logit of a mask where it is not."""


@dataclass(frozen=True, slots=True)
class SemanticPrompt(Prompt):
    """A vocabulary, and its words as the scorer reads them."""

    words: ScoredWords


class SemanticModel(Model):
    """One mask for each word, as the scorer draws it; things may be split into what does not touch.

    Attributes:
        scorer: says what fits where.
        text_encoder: makes vectors of words.
    """

    text_encoder: TextEncoder

    def __init__(
        self, scorer: LMSegScorer, text_encoder: TextEncoder, *, max_components: int | None, is_trained: bool = True
    ) -> None:
        """What is around the scorer.

        Args:
            max_components: most masks in an image, the largest, where things are split; None splits nothing.
            is_trained: as of `LMSegClassifier`.
        """
        super().__init__()
        self.scorer, self.text_encoder = scorer, text_encoder
        self._max_components, self._is_trained = max_components, is_trained

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) that images are scaled to, pixels."""
        return self.scorer.config.image_size

    @property
    def parts(self) -> tuple[Part, ...]:
        """The scorer's."""
        return self.scorer.parts

    @torch.inference_mode()
    def prepare(self, vocabulary: Vocabulary) -> SemanticPrompt:
        """Embeds the words, of which only new ones cost time."""
        text = self.text_encoder.encode(vocabulary)
        remarks = (*self.text_encoder.remarks(text), *self.scorer.remarks(vocabulary, is_trained=self._is_trained))
        words = self.scorer.prepare(text)
        traits = traits_on(text.vectors.device, vocabulary)
        return SemanticPrompt(vocabulary, words, remarks=remarks, descriptions=text.descriptions, traits=traits)

    def forward(self, pixels: Tensor, prompt: SemanticPrompt, least: float = 0.0) -> Prediction:
        """See `Model`. The masks of a category are certain to be of it, so a pixel goes to the highest score."""
        scores = self.scorer(pixels, prompt.words)
        masks, categories = scores.logits, prompt.words.categories[scores.words]  # (B, k, h, w), (B, k)
        unknown = prompt.vocabulary.unknown_index
        if unknown is not None:  # as likely as the likeliest word is not
            likeliest = F.pad(masks, (0, 0, 0, 0, 0, 1), value=_NOWHERE).amax(dim=1, keepdim=True)
            masks = torch.cat([masks, -likeliest], dim=1)
            categories = torch.cat([categories, categories.new_full((len(masks), 1), unknown)], dim=1)
        if self._max_components is not None:
            masks, categories = self._split(masks, categories, prompt.vocabulary, self._max_components)
        count = len(prompt.vocabulary.categories)
        classes = torch.full((*categories.shape, count + 1), IMPOSSIBLE, device=masks.device)
        classes.scatter_(2, categories[..., None], 0.0)
        return Prediction(masks, classes, _pooled(scores.features, masks), (categories < count).float())

    def _split(self, masks: Tensor, categories: Tensor, vocabulary: Vocabulary, most: int) -> tuple[Tensor, Tensor]:
        """Masks (B, Q, h, w) of the components of things and of whole stuff, and their categories (B, Q).

        A cell belongs to the category with its highest score, where that is not below 0. A component's mask is its
        category's, but for the category's other components. Images with fewer masks than others, or none, are filled
        up with empty masks of no object; on a GPU, where nothing may depend on what is in an image, to `most`.
        """
        device = masks.device
        best, winner = masks.max(dim=1)
        winner = torch.where(best >= 0, winner, -1)  # (B, h, w)
        told = torch.cat([winner.flatten(1), categories], dim=1).cpu().numpy()  # the one wait for the device
        cells = winner[0].numel()
        owners, of_mask = told[:, :cells].reshape(winner.shape), told[:, cells:]
        is_thing = vocabulary.traits[1] > 0
        found = [_components(*one, most) for one in zip(owners, is_thing[of_mask], strict=True)]
        count = most if device.type == "cuda" else max(1, *(len(parts.owners) for parts in found))
        made = np.full((len(found), count + cells), -1)  # of what fills up, the owner is -1
        for row, parts in zip(made, found, strict=True):
            row[: len(parts.owners)], row[count:] = parts.owners, parts.numbers.ravel()
        owner, number = _sent(made, device).split([count, cells], dim=1)
        number = number.unflatten(1, winner.shape[1:])
        mask_of = owner.clamp(min=0)
        others = number[:, None] != torch.arange(count, device=device)[:, None, None]
        nowhere = (winner[:, None] == mask_of[..., None, None]) & others | (owner < 0)[..., None, None]
        split = masks.gather(1, mask_of[..., None, None].expand(nowhere.shape)).masked_fill(nowhere, _NOWHERE)
        return split, categories.gather(1, mask_of).masked_fill(owner < 0, len(vocabulary.categories))


class _Parts(NamedTuple):
    """Components of things and whole stuff, by descending area: which a cell (h, w) is in, -1 for none; of which mask
    each is.
    """

    numbers: np.ndarray
    owners: list[int]


def _components(owners: np.ndarray, is_thing: np.ndarray, most: int) -> _Parts:
    """What a map of masks (h, w), -1 for none, consists of: the `most` largest parts, of masks that `is_thing` (k,)."""
    numbers = np.full_like(owners, -1)
    of_part: list[int] = []
    for owner in np.unique(owners[owners >= 0]).tolist():
        inside = owners == owner
        count, place = 2, inside.astype(np.int32)  # 0 is outside
        if is_thing[owner]:
            count, place = cv2.connectedComponents(inside.astype(np.uint8), connectivity=8)
        numbers[inside] = place[inside] - 1 + len(of_part)
        of_part += [owner] * (count - 1)
    areas = np.bincount(numbers[numbers >= 0], minlength=len(of_part))
    order = (-areas).argsort(kind="stable")[:most]
    rank = np.full(len(of_part) + 1, -1)  # the last is of cells in no part
    rank[order] = np.arange(len(order))
    return _Parts(rank[numbers], [of_part[part] for part in order])


def _sent(values: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device, for which a GPU is not waited."""
    sent = torch.from_numpy(values)
    return sent.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sent


def _pooled(features: Tensor, masks: Tensor) -> Tensor:
    """The mean of the features (B, D, h', w') where each mask is the highest, and not below 0: (B, Q, D)."""
    wins = (masks >= 0) & (masks == masks.amax(dim=1, keepdim=True))
    inside = F.interpolate(wins.to(features.dtype), features.shape[-2:], mode="area").flatten(2)
    weights = inside / inside.sum(dim=2, keepdim=True).clamp(min=torch.finfo(inside.dtype).tiny)
    return weights @ features.flatten(2).transpose(1, 2)
