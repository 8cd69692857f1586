"""The dataclasses that cross rooms. Each checks its own shapes when made.

Notation: B images, Q queries, K categories, P prompts, D text width, C query width, (H, W) image, (h, w) mask logits.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ovseg_ros.core.descriptions import Descriptions
from ovseg_ros.core.vocabulary import Vocabulary

NO_CATEGORY = 65535
"""Value of `PanopticResult.category_ids` where no published category was found."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_queries(mask_logits: torch.Tensor, **parts: torch.Tensor | None) -> None:
    """Masks are (B, Q, h, w), and what comes with them (B, Q, channels)."""
    _require(mask_logits.ndim == 4, f"mask_logits must be (B, Q, h, w), got {tuple(mask_logits.shape)}")
    queries = tuple(mask_logits.shape[:2])
    for name, part in parts.items():
        if part is not None and (part.ndim != 3 or part.shape[:2] != queries):
            raise ValueError(f"{name} must be {queries} + (channels,), got {tuple(part.shape)}")


@dataclass(frozen=True, slots=True)
class TextEmbeddings:
    """A vocabulary as vectors, from which the stages prepare; made once for each vocabulary, never for a frame.

    Attributes:
        vectors: (P, D) float, unit norm, one row for each name or synonym (its sentences already averaged).
        category_of_prompt: (P,) int64 in [0, K): index into `vocabulary.categories`.
        vocabulary: the vocabulary that was embedded.
        descriptions: what was in force of descriptions; None where nobody asked for any.
    """

    vectors: torch.Tensor
    category_of_prompt: torch.Tensor
    vocabulary: Vocabulary
    descriptions: Descriptions | None = None

    def __post_init__(self) -> None:
        _require(self.vectors.ndim == 2, f"vectors must be (P, D), got {tuple(self.vectors.shape)}")
        _require(
            self.category_of_prompt.shape == self.vectors.shape[:1],
            f"category_of_prompt must be ({self.vectors.shape[0]},), got {tuple(self.category_of_prompt.shape)}",
        )


@dataclass(frozen=True, slots=True)
class QueryPrediction:
    """What the heads of a mask transformer say after one layer.

    Attributes:
        mask_logits: (B, Q, h, w).
        class_logits: (B, Q, N + 1), the last is "no object".
        word_logits: (B, Q, P) over the words that the network was given, what a model of its own adds to them
            included; None where it was given none.
    """

    mask_logits: torch.Tensor
    class_logits: torch.Tensor
    word_logits: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class MaskProposals:
    """Masks without names.

    Attributes:
        mask_logits: (B, Q, h, w) before the sigmoid, covering the whole image.
        query_embeddings: (B, Q, C).
        class_logits: (B, Q, N + 1) over the proposer's own closed set, the last is "no object"; None if it has none.
        word_logits: (B, Q, K + 1) over the vocabulary whose words guided the masks, the last is "no object"; None if
            none did.
    """

    mask_logits: torch.Tensor
    query_embeddings: torch.Tensor
    class_logits: torch.Tensor | None = None
    word_logits: torch.Tensor | None = None

    def __post_init__(self) -> None:
        _check_queries(
            self.mask_logits,
            query_embeddings=self.query_embeddings,
            class_logits=self.class_logits,
            word_logits=self.word_logits,
        )

    @property
    def objectness(self) -> torch.Tensor:
        """(B, Q) in [0, 1], float32 of logits of any type: the probability of being any segment, of the words that
        guided the masks if any did; 1 where the proposer does not say."""
        logits = self.class_logits if self.word_logits is None else self.word_logits
        if logits is None:
            return self.mask_logits.new_ones(self.mask_logits.shape[:2])
        return 1 - logits.float().softmax(dim=-1)[..., -1]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of images under a vocabulary: all that the merge and the evaluation need.

    Attributes:
        mask_logits: (B, Q, h, w) before the sigmoid, covering the whole image.
        class_logits: (B, Q, K + 1) before the softmax over the last axis; the last entry is "no object".
        query_embeddings: (B, Q, C), what the model knows of each mask beside its name.
        objectness: (B, Q) in [0, 1], how likely each mask is any segment at all, whatever its name.
    """

    mask_logits: torch.Tensor
    class_logits: torch.Tensor
    query_embeddings: torch.Tensor
    objectness: torch.Tensor

    def __post_init__(self) -> None:
        _check_queries(self.mask_logits, class_logits=self.class_logits, query_embeddings=self.query_embeddings)
        shape = tuple(self.mask_logits.shape[:2])
        _require(self.objectness.shape == shape, f"objectness must be {shape}, got {tuple(self.objectness.shape)}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One thing, or all pixels of one stuff category.

    Attributes:
        id: value of its pixels in `PanopticResult.segment_ids`, 1 or more.
        category_id: `Category.id`, stable across vocabulary changes.
        label: the category's name.
        score: confidence in [0, 1].
        is_thing: thing (countable) or stuff.
        area: number of pixels.
        box: (x, y, width, height) in pixels, tight around the mask.
        track_id: identity across frames, 1 or more; 0 where nothing tracks.
    """

    id: int
    category_id: int
    label: str
    score: float
    is_thing: bool
    area: int
    box: tuple[int, int, int, int]
    track_id: int = 0


@dataclass(frozen=True, slots=True)
class PanopticResult:
    """Every pixel's segment and category, all from one image and one vocabulary version.

    Attributes:
        segment_ids: (H, W) uint16, 0 = void.
        category_ids: (H, W) uint16, `Category.id`; `NO_CATEGORY` where void.
        confidence: (H, W) uint8, 0 to 255; 0 where void.
        segments: one entry for each id in `segment_ids`, ordered by id.
        vocabulary_version: `Vocabulary.version` that produced it.
        embeddings: (N, C) float32 unit rows, what the mask generator knows of each of `segments` beside its name; of
            stuff, that of one of its masks. Where words guide the masks (PMP), those of two vocabularies cannot be
            compared. None where it was not asked for or there is none.
    """

    segment_ids: np.ndarray
    category_ids: np.ndarray
    confidence: np.ndarray
    segments: tuple[Segment, ...]
    vocabulary_version: int
    embeddings: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = self.segment_ids.shape
        for name, dtype in (("segment_ids", np.uint16), ("category_ids", np.uint16), ("confidence", np.uint8)):
            value = getattr(self, name)
            if value.ndim != 2 or value.shape != shape or value.dtype != dtype:  # several times a frame: no message yet
                raise ValueError(f"{name} must be {shape} {np.dtype(dtype).name}, got {value.shape} {value.dtype}")
        if self.embeddings is not None:
            _require(
                self.embeddings.ndim == 2 and len(self.embeddings) == len(self.segments),
                f"embeddings must be ({len(self.segments)}, C), got {self.embeddings.shape}",
            )
