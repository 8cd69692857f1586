"""A small model with two parts, one with words, as engines see models."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Model, Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import Prediction
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

WIDTH, QUERIES = 8, 6


class Masks(nn.Module):
    """Pixels (B, 3, H, W) -> masks (B, Q, H / 4, W / 4) and queries (B, Q, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.queries = nn.Linear(WIDTH, QUERIES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.patches(pixels)
        masks = self.queries(features.movedim(1, -1)).movedim(-1, 1)
        return 10 * masks, torch.einsum("bqhw,bchw->bqc", masks.flatten(2).softmax(-1).view_as(masks), features)


class Reading(nn.Module):
    """Queries (B, Q, C) read words (P, C) under a bias (P,), which is -inf for words that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = nn.Linear(WIDTH, WIDTH)

    def forward(self, queries: Tensor, words: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        asked = self.ask(queries)
        read = queries + (asked @ words.mT + bias).softmax(-1) @ words
        return read, read @ words.mT


@dataclass(frozen=True, slots=True)
class ToyPrompt(Prompt):
    words: Tensor


class ToyModel(Model):
    """Masks of colours, named by chance, the same each time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.masks, self.reading = Masks(), Reading()
        pixels = Port("pixels", {0: "images"})
        queries = Port("queries", {0: "images"})
        self._masks = Part("masks", self.masks, (pixels,), (Port("mask_logits", {0: "images"}), queries))
        words = Port("words", {0: "words"}), Port("bias", {0: "words"}, fill=float("-inf"))
        read = Port("read", {0: "images"}), Port("logits", {0: "images", 2: "words"})
        self._reading = Part("reading", self.reading, (queries, *words), read)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self._masks, self._reading

    def prepare(self, vocabulary: Vocabulary) -> ToyPrompt:
        angles = torch.tensor([[1.0 + sum(map(ord, c.name))] for c in vocabulary.categories])
        return ToyPrompt(vocabulary, (angles * torch.arange(1, WIDTH + 1)).sin())

    def forward(self, pixels: Tensor, prompt: ToyPrompt, least: float = 0.0) -> Prediction:
        masks, queries = self._masks(pixels)
        read, logits = self._reading(queries, prompt.words, prompt.words.new_zeros(len(prompt.words)))
        names = torch.cat((5 * logits.float(), logits.new_zeros(*logits.shape[:2], 1).float()), dim=-1)
        return Prediction(masks, names, read, torch.ones(masks.shape[:2]))


def toy_segmenter() -> PanopticSegmenter:
    return PanopticSegmenter(ToyModel(), MergeConfig(min_area=1, overlap_threshold=0.1), torch.device("cpu"))


def vocabulary(count: int, offset: int = 0) -> Vocabulary:
    return Vocabulary.build([CategorySpec(f"word {chr(97 + i % 26)}{i + offset}") for i in range(count)])
