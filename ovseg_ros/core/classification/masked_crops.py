"""Masked crops: every promising mask is cropped and read by CLIP, whose class token sees only the mask.

Cost grows with the number of promising masks, not with the vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor
from torchvision.ops import roi_align

from ovseg_ros.core.backbones.sentence_clip import ImageTower
from ovseg_ros.core.classification.mask_views import crop_images, rois, square_windows
from ovseg_ros.core.config import STRICT, Logit, Multiple, Share
from ovseg_ros.core.images import normalize
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.word_logits import IMPOSSIBLE, best_prompts, joined_with_objectness, with_none


@dataclass(frozen=True, slots=True, config=STRICT)
class MaskedCropConfig:
    """How masks are cropped.

    Attributes:
        max_masks: most masks read in one image, the likeliest first.
        min_objectness: masks below this probability of being any segment are not read, in [0, 1].
        context: side of the crop over the longer side of the mask's box.
        patch_share: share of a patch that the mask has to cover for the class token to read it.
        mirrored: read every crop as it is and mirrored, and average; twice the work for fewer mistakes.
        none_logit: logit of "none of these" beside the words'; 0 is as trained, lower lets words win that fit less
            well, such as rare synonyms.
    """

    max_masks: PositiveInt = 32
    min_objectness: Share = 0.25
    context: Multiple = 1.25
    patch_share: Share = 0.4
    mirrored: bool = False
    none_logit: Logit = 0.0
    kind: Literal["masked_crops"] = "masked_crops"


class MaskedCropClassifier(Classifier):
    """Names masks by CLIP on masked crops; "no object" collects what the proposer or CLIP recognise as nothing."""

    def __init__(self, tower: ImageTower, config: MaskedCropConfig) -> None:
        """`tower`: with an open_clip `VisionTransformer` of square images."""
        super().__init__()
        self.tower = tower
        self._image_size, self._grid = tower.visual.image_size, tower.visual.grid_size
        self._config = config

    def prepare(self, text: TextEmbeddings) -> TextEmbeddings:
        """The words as they are: crops are read without them."""
        return text

    def forward(self, images: Tensor, proposals: MaskProposals, text: TextEmbeddings) -> Tensor:
        """Open-vocabulary logits (B, Q, K + 1) of every proposal.

        Args:
            images: (B, 3, H, W) in [0, 1], the area that the mask logits cover.
            proposals: with class or word logits, whose last entry is "no object".
            text: from `prepare`.
        """
        if proposals.class_logits is None and proposals.word_logits is None:
            raise ValueError("masked crops need proposals with class or word logits, whose last entry is 'no object'")
        objectness = proposals.objectness  # (B, Q)
        image_index, query_index = self._promising(objectness)
        masks = proposals.mask_logits[image_index, query_index]  # (M, h, w)
        height, width = images.shape[-2:]
        windows = square_windows(masks, (height, width), self._config.context)  # (M, 4)
        embeddings = self._read(images, masks, windows, image_index)  # (M, D)
        likelihood = objectness[image_index, query_index]  # (M,)
        known = joined_with_objectness(self._word_logits(embeddings, text), likelihood)  # (M, K + 1)
        logits = known.new_full((*objectness.shape, known.shape[1]), IMPOSSIBLE)
        logits[..., -1] = 0.0
        logits[image_index, query_index] = known
        return logits

    def _promising(self, objectness: Tensor) -> tuple[Tensor, Tensor]:
        """Image and query index (M,) of the masks worth reading."""
        count = min(self._config.max_masks, objectness.shape[1])
        scores, queries = objectness.topk(count, dim=1)  # (B, count)
        image_index, rank = torch.nonzero(scores >= self._config.min_objectness, as_tuple=True)
        return image_index, queries[image_index, rank]

    def _read(self, images: Tensor, masks: Tensor, windows: Tensor, image_index: Tensor) -> Tensor:
        """Unit embeddings (M, D) of masked crops."""
        crops = crop_images(images, windows, image_index, self._image_size)
        share = roi_align(
            (masks > 0).to(images)[:, None],
            rois(torch.arange(len(masks), device=masks.device), windows),
            self._grid,
            spatial_scale=masks.shape[-1] / images.shape[-1],
            sampling_ratio=4,
            aligned=True,
        )[:, 0]  # (M, p, p)
        crops = normalize(crops, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
        inside = share >= self._config.patch_share
        embeddings = self.tower.encode_masked(crops, inside)
        if not self._config.mirrored:
            return embeddings
        return F.normalize(embeddings + self.tower.encode_masked(crops.flip(-1), inside.flip(-1)), dim=-1)

    def _word_logits(self, embeddings: Tensor, text: TextEmbeddings) -> Tensor:
        """(M, K + 1): the best prompt of each category, then "none of these", which a category "unknown" takes over."""
        prompts = self.tower.prompt_logits(embeddings, text.vectors)  # (M, P)
        best = best_prompts(prompts, text.category_of_prompt, len(text.vocabulary.categories))
        return with_none(best, best.new_full((len(best),), self._config.none_logit), text.vocabulary)
