"""The only panoptic merge: scored masks in, at most one segment for every pixel out.

Everything runs on the masks' device without a loop over queries. The host waits for the device once to learn how many
queries are kept, and then once for each output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor

from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment
from ovseg_ros.core.vocabulary import Vocabulary

MAX_QUERIES = 65535
"""Segment ids fit uint16, and 0 is void."""

# Most mask values (queries x pixels) upsampled at once. On a CPU a band of 1 MiB stays in its cache, which was twice as
# fast as a whole image, and few masks reach into it, which was twice as fast again; elsewhere 64 MiB keeps the device
# busy, and a float32 can still count that many exactly.
_BAND_ELEMENTS_CPU = 1 << 18
_BAND_ELEMENTS = 1 << 24

_SURELY_BELOW_ONE = 15.0  # The sigmoid of higher logits may be rounded to 1.
_ROUNDING = 1e-3  # More than interpolation can add to a logit.
_LARGEST_LOGIT = 1e4  # Keeps infinities out of the interpolation, where infinity times zero is not a number.


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class MergeConfig:
    """When a mask becomes a segment.

    Attributes:
        object_threshold: a query counts if its best category's probability is above this, in [0, 1].
        overlap_threshold: a query is dropped if it wins less than this fraction of its own mask, in [0, 1].
        mask_threshold: a pixel belongs to a mask from this mask probability on, in [0, 1].
        min_area: smallest published segment, in pixels of the output.
    """

    object_threshold: Share = 0.4
    overlap_threshold: Share = 0.7
    mask_threshold: Share = 0.5
    min_area: NonNegativeInt = 32


@torch.inference_mode()
def merge_panoptic(
    mask_logits: Tensor,
    classification_logits: Tensor,
    vocabulary: Vocabulary,
    size: tuple[int, int],
    config: MergeConfig,
    *,
    query_embeddings: Tensor | None = None,
    band_elements: int | None = None,
) -> PanopticResult:
    """Gives every pixel to at most one segment.

    1. A query's score is its highest category probability ("no object" has a share but cannot win). It is kept if the
       score is above `object_threshold` and at least the category's own threshold.
    2. A pixel goes to the kept query with the highest score x mask probability, the first of equals, provided that
       this query's mask probability reaches `mask_threshold`; else it is void.
    3. A query that keeps less than `overlap_threshold` of its own mask is dropped. So are negatives, only now: they
       compete for pixels but are not published. Pixels of dropped queries become void; nobody inherits them.
    4. Queries of one stuff category join into one segment, whose score is the highest of theirs. A segment of fewer
       than `min_area` pixels is dropped.

    Args:
        mask_logits: (Q, h, w) before the sigmoid, covering the image; resized bilinearly. NaN counts as outside.
        classification_logits: (Q, K + 1) before the softmax, the last is "no object". A query with NaN is not kept.
        vocabulary: its K categories, in the order of the logits.
        size: (H, W) of the output in pixels.
        config: thresholds.
        query_embeddings: (Q, C), from which the result's `embeddings` are taken; None for a result without.
        band_elements: most mask values upsampled at once, None to suit the device; the result does not depend on it.

    Returns:
        Segments with ids 1 to N by descending area, equal areas in query order. `confidence` is 255 x score x mask
        probability of a pixel's winner.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check_shapes(mask_logits, classification_logits, vocabulary, size)
    device = mask_logits.device

    scores, category_index = classification_logits.float().softmax(dim=-1)[:, :-1].max(dim=-1)  # (Q,), (Q,)
    traits = torch.from_numpy(vocabulary.traits).to(device)[:, category_index]  # (4, Q)
    is_kept = (scores > config.object_threshold) & (scores >= traits[0])
    kept = is_kept.nonzero().squeeze(1)  # (N,), the one wait before upsampling
    count = kept.shape[0]
    if count == 0:
        channels = None if query_embeddings is None else query_embeddings.shape[1]
        return _all_void(size, vocabulary.version, channels)
    scores, category_index, traits = scores[kept], category_index[kept], traits[:, kept]
    is_thing, is_negative, category_id = traits[1] > 0, traits[2] > 0, traits[3].int()

    if band_elements is None:
        band_elements = _BAND_ELEMENTS_CPU if device.type == "cpu" else _BAND_ELEMENTS
    winners = _assign_pixels(mask_logits[kept], scores, size, config.mask_threshold, band_elements)

    # Which queries survive, and which segment (named by its first query) each belongs to: all (N,).
    final_areas = winners.row_counts.sum(dim=1)
    survives = (final_areas > 0) & (final_areas >= config.overlap_threshold * winners.mask_areas) & ~is_negative
    queries = torch.arange(count, device=device)
    first_of_category = torch.full((len(vocabulary.categories),), count, device=device)
    first_of_category.scatter_reduce_(0, category_index, queries, "amin")
    segment_of_query = torch.where(is_thing, queries, first_of_category[category_index])

    row_counts, column_counts = (
        torch.zeros_like(counts).index_add_(0, segment_of_query, counts * survives[:, None])
        for counts in (winners.row_counts, winners.column_counts)
    )  # (N, H), (N, W): pixels of each segment in each row and column
    areas = row_counts.sum(dim=1)
    segment_scores = torch.zeros_like(scores).scatter_reduce_(0, segment_of_query, scores * survives, "amax")
    is_published = areas >= max(config.min_area, 1)

    # Ids by descending area; the unpublished sort last and get 0, and so does the extra entry for void.
    order = torch.where(is_published, areas, -1).argsort(descending=True, stable=True)
    id_of_segment = torch.empty_like(order).scatter_(0, order, queries + 1) * is_published
    id_of_query = id_of_segment[segment_of_query] * survives
    ids = F.pad(id_of_query, (0, 1))  # (N + 1,)
    category_ids = F.pad(category_id, (0, 1)).masked_fill(ids == 0, NO_CATEGORY)

    segment_image, category_image = (
        _to_uint16(table.index_select(0, winners.owner.flatten()).view(size)) for table in (ids, category_ids)
    )
    confidence_image = winners.confidence.masked_fill((ids == 0).index_select(0, winners.owner.flatten()).view(size), 0)
    embeddings = None if query_embeddings is None else F.normalize(query_embeddings[kept][order].float(), dim=-1)
    table = torch.stack((id_of_segment, category_index, areas, *_extent(column_counts), *_extent(row_counts)))
    segments = _segments(table.cpu().numpy(), segment_scores.cpu().numpy(), vocabulary)
    return PanopticResult(
        segment_ids=segment_image,
        category_ids=category_image,
        confidence=confidence_image.cpu().numpy(),
        segments=segments,
        vocabulary_version=vocabulary.version,
        embeddings=None if embeddings is None else embeddings[: len(segments)].cpu().numpy(),
    )


@dataclass(frozen=True, slots=True)
class _Winners:
    """Who owns each pixel before anyone is dropped, for N kept queries.

    Attributes:
        owner: (H, W) int32, index of the winning query; N where nobody's mask covers the pixel.
        confidence: (H, W) uint8, 255 x score x mask probability of the winner.
        mask_areas: (N,) float64, pixels of each query's own thresholded mask.
        row_counts, column_counts: (N, H) and (N, W) int64, pixels owned in each row and column.
    """

    owner: Tensor
    confidence: Tensor
    mask_areas: Tensor
    row_counts: Tensor
    column_counts: Tensor


def _assign_pixels(
    mask_logits: Tensor, scores: Tensor, size: tuple[int, int], mask_threshold: float, band_elements: int
) -> _Winners:
    """`mask_logits` (N, h, w), `scores` (N,); N >= 1."""
    (height, width), count, device = size, mask_logits.shape[0], mask_logits.device
    owner = torch.empty(size, dtype=torch.int32, device=device)
    confidence = torch.empty(size, dtype=torch.uint8, device=device)
    mask_areas = torch.zeros(count, dtype=torch.float64, device=device)
    row_counts = torch.empty(count, height, dtype=torch.int64, device=device)
    column_counts = torch.zeros(count, width, dtype=torch.int64, device=device)
    columns = torch.arange(width, device=device)
    # Highest for the first query, so that the first of equals wins on every device.
    precedence = torch.arange(count, 0, -1, dtype=torch.float32, device=device)[:, None, None]
    # Most masks are small. On a CPU each band does without those that can win nothing in it; a GPU would have to wait.
    least = _least_logits(scores, mask_threshold) if device.type == "cpu" else None

    band_height = max(1, band_elements // (count * width))
    for top, members, logits in upsampled_bands(mask_logits, size, band_height, least=least):
        rows = logits.shape[1]
        band = slice(top, top + rows)
        if len(members) == 0:
            owner[band], confidence[band], row_counts[:, band] = count, 0, 0
            continue
        probabilities = logits.sigmoid_()  # (M, rows, W)
        is_inside = probabilities >= mask_threshold
        mask_areas[members] += is_inside.float().sum(dim=(1, 2))
        weighted = probabilities.mul_(scores[members, None, None])
        best = weighted.amax(dim=0)  # (rows, W)
        # The index of the maximum; `max(dim=0)` gives it too, but is several times slower on a CPU.
        first = precedence[-len(members) :]
        winner = len(members) - torch.where(weighted == best, first, 0.0).amax(dim=0).long()
        won = is_inside.gather(0, winner[None])[0]
        band_owner = torch.where(won, members[winner], count)
        owner[band] = band_owner
        confidence[band] = (best * 255).round_().to(torch.uint8)
        row_counts[:, band] = _histogram(
            band_owner * rows + torch.arange(rows, device=device)[:, None], (count + 1, rows)
        )[:-1]
        column_counts += _histogram(band_owner * width + columns, (count + 1, width))[:-1]
    return _Winners(owner, confidence, mask_areas, row_counts, column_counts)


def _least_logits(scores: Tensor, mask_threshold: float) -> Tensor:
    """Logits (N,) below which a query can neither reach `mask_threshold` nor win a pixel from one that does.

    Such a rival's score x probability is at least the lowest score x `mask_threshold`.
    """
    least = torch.logit(mask_threshold * scores.min() / scores).clamp(max=_SURELY_BELOW_ONE)
    return least - _ROUNDING


class Band(NamedTuple):
    """Some rows of masks that were resized.

    Attributes:
        top: the first row.
        members: (M,) int64, which masks.
        logits: (M, rows, W) float32.
    """

    top: int
    members: Tensor
    logits: Tensor


def upsampled_bands(
    mask_logits: Tensor, size: tuple[int, int], band_height: int, *, least: Tensor | None = None
) -> Iterator[Band]:
    """Resizes (N, h, w) to `size` in bands of rows.

    Equal to `F.interpolate(mode="bilinear", align_corners=False)` of the whole, up to rounding. Columns are resized
    first and only for the source rows that the band touches, so each output pixel is computed in the same way however
    the image is cut.

    Args:
        least: (N,), masks that stay below this everywhere in a band are left out of it; None keeps all, and does not
            make the host wait for the device.
    """
    height, width = size
    source_height = mask_logits.shape[1]
    logits = mask_logits.float().nan_to_num(nan=-_LARGEST_LOGIT).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    # Which source rows of a mask reach its least, (N, h).
    counts = None if least is None else logits.amax(dim=2) >= least[:, None]
    everyone = torch.arange(len(logits), device=logits.device)
    # Pixel centres, in float64 on the host: no wait for the device to learn which source rows a band needs.
    position = ((np.arange(height) + 0.5) * (source_height / height) - 0.5).clip(0, source_height - 1)
    above = position.astype(np.int64)
    below = np.minimum(above + 1, source_height - 1)
    fraction = (position - above).astype(np.float32)
    for top in range(0, height, band_height):
        band = slice(top, min(top + band_height, height))
        rows = slice(int(above[band][0]), int(below[band][-1]) + 1)
        members, source = everyone, logits[None, :, rows]
        if counts is not None:
            members = everyone[counts[:, rows].any(dim=1)]
            source = source[:, members]
        if len(members):
            shape = (source.shape[2], width)
            source = F.interpolate(source, size=shape, mode="bilinear", align_corners=False)[0]
        else:
            source = source.new_empty(0, source.shape[2], width)
        upper, lower, weight = (
            torch.from_numpy(values).to(mask_logits.device)
            for values in (above[band] - rows.start, below[band] - rows.start, fraction[band])
        )
        yield Band(top, members, torch.lerp(source[:, upper], source[:, lower], weight[None, :, None]))


def _histogram(indices: Tensor, shape: tuple[int, int]) -> Tensor:
    """How often each index occurs, as int64 of `shape`; unlike `bincount`, without waiting for a CUDA device."""
    flat = indices.flatten()
    ones = torch.ones(1, dtype=torch.int64, device=flat.device).expand_as(flat)
    counts = torch.zeros(shape[0] * shape[1], dtype=torch.int64, device=flat.device)
    return counts.scatter_add_(0, flat, ones).view(shape)


def _extent(counts: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied position and length of the occupied range along the last axis; meaningless for empty rows."""
    occupied = (counts > 0).to(torch.uint8)
    first = occupied.argmax(dim=1)
    last = counts.shape[1] - 1 - occupied.flip(1).argmax(dim=1)
    return first, last - first + 1


def _to_uint16(image: Tensor) -> np.ndarray:
    # torch has few uint16 operations; int16 wraps to the same bits.
    return image.to(torch.int16).cpu().numpy().view(np.uint16)


def _segments(table: np.ndarray, scores: np.ndarray, vocabulary: Vocabulary) -> tuple[Segment, ...]:
    """`table` (7, N) int64: id, category index, area, x, width, y, height of each candidate; id 0 is not published."""
    segments = []
    for column in np.argsort(table[0], kind="stable")[np.count_nonzero(table[0] == 0) :]:
        segment_id, index, area, x, width, y, height = (int(value) for value in table[:, column])
        category = vocabulary.categories[index]
        segments.append(
            Segment(
                id=segment_id,
                category_id=category.id,
                label=category.name,
                score=float(scores[column]),
                is_thing=category.is_thing,
                area=area,
                box=(x, y, width, height),
            )
        )
    return tuple(segments)


def _all_void(size: tuple[int, int], version: int, channels: int | None) -> PanopticResult:
    """Nothing found; `channels` C of the embeddings that there would be, as of any other result of the model."""
    return PanopticResult(
        segment_ids=np.zeros(size, np.uint16),
        category_ids=np.full(size, NO_CATEGORY, np.uint16),
        confidence=np.zeros(size, np.uint8),
        segments=(),
        vocabulary_version=version,
        embeddings=None if channels is None else np.zeros((0, channels), np.float32),
    )


def _check_shapes(
    mask_logits: Tensor, classification_logits: Tensor, vocabulary: Vocabulary, size: tuple[int, int]
) -> None:
    if mask_logits.ndim != 3 or 0 in mask_logits.shape[1:] or mask_logits.shape[0] > MAX_QUERIES:
        raise ValueError(
            f"mask_logits must be (Q, h, w) with Q <= {MAX_QUERIES}, h and w >= 1; got {tuple(mask_logits.shape)}"
        )
    expected = (mask_logits.shape[0], len(vocabulary.categories) + 1)
    if tuple(classification_logits.shape) != expected:
        raise ValueError(
            f"classification_logits must be (Q, K + 1) = {expected} for {expected[1] - 1} categories; "
            f"got {tuple(classification_logits.shape)}"
        )
    if min(size) < 1:
        raise ValueError(f"size must be (H, W) of 1 or more, got {size}")
