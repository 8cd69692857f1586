"""Masked crops: every promising mask is cropped and read by CLIP, whose class token sees only the mask.

Cost grows with the number of promising masks, not with the vocabulary.
"""

from typing import Any, Literal

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovseg_ros.core.backbones.sentence_clip import ImageTower, MaskedReader
from ovseg_ros.core.classification.mask_views import both_ways, crop_images, likeliest, patch_shares, square_windows
from ovseg_ros.core.config import STRICT, Logit, Multiple, Share
from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.images import Canvas
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.word_logits import best_prompts, margin, of_all, unit_mean, with_none


@dataclass(frozen=True, slots=True, config=STRICT)
class MaskedCropConfig:
    """How masks are cropped.

    Attributes:
        max_masks: most masks read in one image, the likeliest first.
        min_objectness: masks below this probability of being any segment are not read, in [0, 1].
        context: side of the crop over the longer side of the mask's box.
        patch_share: share of a patch that the mask has to cover for the class token to read it.
        mirrored: read crops as they are and mirrored, and average; up to twice the work for fewer mistakes.
        mirror_margin: read so are only crops in doubt, where the best logit of words and "none of these" leads the
            second by less than this; null = all.
        none_logit: logit of "none of these" beside the words'; 0 is as trained, lower lets words win that fit less
            well, such as rare synonyms.
    """

    max_masks: PositiveInt = 32
    min_objectness: Share = 0.25
    context: Multiple = 1.25
    patch_share: Share = 0.4
    mirrored: bool = False
    mirror_margin: Logit | None = None
    none_logit: Logit = 0.0
    kind: Literal["masked_crops"] = "masked_crops"


class MaskedCropClassifier(Classifier):
    """Names masks by CLIP on masked crops; "no object" collects what the proposer or CLIP recognise as nothing.

    On a CPU only the crops that need it are read. On another device their number is not waited for: `max_masks` of each
    image are read, mirrored too, and what was not needed is not used. The logits are the same.
    """

    def __init__(self, tower: ImageTower, config: MaskedCropConfig) -> None:
        """`tower`: with an open_clip `VisionTransformer` of square images."""
        super().__init__()
        self.tower = tower
        self.pixels = Canvas(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        self._image_size, self._grid = tower.visual.image_size, tower.visual.grid_size
        self._config = config
        each = {0: "crops"}
        self._crops = Part(
            "crops",
            MaskedReader(tower.visual, self.pixels),
            inputs=[Port("crops", each, keeps_type=True), Port("inside", each)],
            outputs=[Port("embeddings", each)],
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """CLIP on crops."""
        return (self._crops,)

    def prepare(self, text: TextEmbeddings) -> TextEmbeddings:
        """The words as they are: crops are read without them."""
        return text

    def forward(
        self, images: Tensor, proposals: MaskProposals, text: TextEmbeddings, seen: Any = None, least: float = 0.0
    ) -> Tensor:
        """Open-vocabulary logits (B, Q, K + 1) of every proposal.

        Args:
            images: (B, 3, H, W) in [0, 1], the area that the mask logits cover.
            proposals: with class or word logits, whose last entry is "no object".
            text: from `prepare`.
            least: as of `Classifier`.
        """
        if proposals.class_logits is None and proposals.word_logits is None:
            raise ValueError("masked crops need proposals with class or word logits, whose last entry is 'no object'")
        objectness = proposals.objectness  # (B, Q)
        queries, is_read = likeliest(objectness, self._config.max_masks, self._config.min_objectness, least)
        if objectness.device.type == "cpu":
            image_index, rank = torch.nonzero(is_read, as_tuple=True)
        else:
            image_index = torch.arange(len(queries), device=queries.device).repeat_interleave(queries.shape[1])
            rank = torch.arange(queries.shape[1], device=queries.device).repeat(len(queries))
        queries, is_read = queries[image_index, rank], is_read[image_index, rank]  # (M,)
        crops, inside = self._crop(images, proposals.mask_logits[image_index, queries], image_index)
        words = self._word_logits(crops, inside, text)  # (M, K + 1)
        return of_all(words, objectness, image_index, queries, is_read)

    def _crop(self, images: Tensor, masks: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (M, 3, S, S) in [0, 1] around masks (M, h, w), and (M, p, p) bool: the patches inside."""
        height, width = images.shape[-2:]
        windows = square_windows(masks, (height, width), self._config.context)  # (M, 4)
        crops = crop_images(images, windows, image_index, self._image_size)
        return crops, patch_shares(masks, windows, width, self._grid) >= self._config.patch_share

    def _word_logits(self, crops: Tensor, inside: Tensor, text: TextEmbeddings) -> Tensor:
        """(M, K + 1) of crops, of those in doubt by their mirror image too."""
        least = self._config.mirror_margin
        if not len(crops) or not self._config.mirrored:
            return self._named(self._read(crops, inside), text)
        if least is None or crops.device.type != "cpu":
            as_they_are, mirrored = self._read(both_ways(crops), both_ways(inside)).chunk(2)
            averaged = self._named(unit_mean(as_they_are, mirrored), text)
            if least is None:
                return averaged
            logits = self._named(as_they_are, text)
            return torch.where((margin(logits) < least)[:, None], averaged, logits)
        embeddings = self._read(crops, inside)
        logits = self._named(embeddings, text)
        doubted = torch.nonzero(margin(logits) < least)[:, 0]
        if len(doubted):
            mirrored = self._read(crops[doubted].flip(-1), inside[doubted].flip(-1))
            logits[doubted] = self._named(unit_mean(embeddings[doubted], mirrored), text)
        return logits

    def _read(self, crops: Tensor, inside: Tensor) -> Tensor:
        """Unit embeddings (M, D) of crops; M may be 0, which PyTorch's attention refuses."""
        if not len(crops):
            return crops.new_zeros(0, self.tower.visual.proj.shape[1])
        (embeddings,) = self._crops(crops, inside)
        return embeddings

    def _named(self, embeddings: Tensor, text: TextEmbeddings) -> Tensor:
        """(M, K + 1): the best prompt of each category, then "none of these", which a category "unknown" takes over."""
        prompts = self.tower.prompt_logits(embeddings, text.vectors)  # (M, P)
        best = best_prompts(prompts, text.category_of_prompt, len(text.vocabulary.categories))
        return with_none(best, best.new_full((len(best),), self._config.none_logit), text.vocabulary)
