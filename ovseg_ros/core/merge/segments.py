"""Which queries become segments, once it is known who owns each pixel."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.merge.config import MergeConfig
from ovseg_ros.core.types import Segment
from ovseg_ros.core.vocabulary import Vocabulary


class Kept(NamedTuple):
    """Queries that may become segments, of B images; rows that are not valid fill up.

    Attributes:
        is_valid: (B, N) bool.
        scores: (B, N) float32.
        category_index: (B, N) int64.
        traits: (4, B, N) float32, those of the category.
    """

    is_valid: Tensor
    scores: Tensor
    category_index: Tensor
    traits: Tensor

    def of(self, image: int) -> "Kept":
        """Those of one image, as B = 1."""
        return Kept(*(part[..., image, None, :] for part in self))

    def taken(self, which: Tensor) -> "Kept":
        """Some of each image, (B, n) indices; those that are not valid have a score of 0."""
        is_valid = self.is_valid.gather(1, which)
        scores = torch.where(is_valid, self.scores.gather(1, which), 0.0)
        traits = self.traits.gather(2, which.expand(4, *which.shape))
        return Kept(is_valid, scores, self.category_index.gather(1, which), traits)


class Owned(NamedTuple):
    """What queries own of their images before anyone is dropped, in pixels: all (B, N) int64.

    Attributes:
        mask_areas: of the query's own thresholded mask.
        areas: owned.
        x, y, width, height: the box of what is owned; meaningless where that is nothing.
    """

    mask_areas: Tensor
    areas: Tensor
    x: Tensor
    y: Tensor
    width: Tensor
    height: Tensor


class Chosen(NamedTuple):
    """What is published.

    Attributes:
        ids: (B, N) int64, of the segment that a query's pixels belong to; 0 for none.
        order: (B, N) int64, the query that gives its name to segments 1, 2, ...; then others.
        table: (B, 7, N) int64, rows as `segments_of` takes them.
        scores: (B, N) float32, of segments.
    """

    ids: Tensor
    order: Tensor
    table: Tensor
    scores: Tensor


def choose(kept: Kept, owned: Owned, categories: int, config: MergeConfig) -> Chosen:
    """Drops queries, joins stuff and numbers segments: steps 3 and 4 of `merge_panoptic`. Never waits for a device."""
    shape, device = kept.scores.shape, kept.scores.device
    count = shape[1]
    is_thing, is_negative = kept.traits[1] > 0, kept.traits[2] > 0
    survives = (owned.areas > 0) & (owned.areas >= config.overlap_threshold * owned.mask_areas.double())
    survives = survives & ~is_negative & kept.is_valid

    # Which segment, named by its first query, each belongs to.
    queries = torch.arange(count, device=device).expand(shape)
    joins = torch.where(kept.is_valid, queries, count)
    first = torch.full((shape[0], categories), count, device=device)
    first.scatter_reduce_(1, kept.category_index, joins, "amin")
    segment = torch.where(is_thing | ~kept.is_valid, queries, first.gather(1, kept.category_index))

    areas = torch.zeros_like(owned.areas).scatter_add_(1, segment, owned.areas * survives)
    scores = torch.zeros_like(kept.scores).scatter_reduce_(1, segment, kept.scores * survives, "amax")
    corners = torch.stack((-owned.x, -owned.y, owned.x + owned.width, owned.y + owned.height))
    nowhere = torch.iinfo(torch.int32).min
    left, top, right, bottom = torch.full_like(corners, nowhere).scatter_reduce_(
        2, segment.expand(4, *shape), corners.masked_fill(~survives, nowhere), "amax"
    )

    # Ids by descending area; the unpublished sort last and get 0.
    is_published = areas >= max(config.min_area, 1)
    order = torch.where(is_published, areas, -1).argsort(dim=1, descending=True, stable=True)
    id_of_segment = torch.empty_like(order).scatter_(1, order, queries + 1) * is_published
    table = torch.stack((id_of_segment, kept.category_index, areas, -left, -top, right + left, bottom + top), dim=1)
    return Chosen(id_of_segment.gather(1, segment) * survives, order, table, scores)


def segments_of(table: np.ndarray, scores: np.ndarray, vocabulary: Vocabulary) -> tuple[Segment, ...]:
    """`table` (7, N) int64: id, category index, area, x, y, width, height of each candidate; id 0 is not published."""
    segments = []
    for column in np.argsort(table[0], kind="stable")[np.count_nonzero(table[0] == 0) :]:
        segment_id, index, area, *box = table[:, column].tolist()
        category = vocabulary.categories[index]
        segments.append(
            Segment(
                id=segment_id,
                category_id=category.id,
                label=category.name,
                score=float(scores[column]),
                is_thing=category.is_thing,
                area=area,
                box=(box[0], box[1], box[2], box[3]),
            )
        )
    return tuple(segments)
