"""The merge as a whole: which queries are kept, who owns each pixel, what becomes a segment."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.engine.transfers import start_download
from ovseg_ros.core.merge import boxes, device
from ovseg_ros.core.merge.config import MergeConfig
from ovseg_ros.core.merge.segments import Kept, choose, segments_of
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult
from ovseg_ros.core.vocabulary import Vocabulary

MAX_QUERIES = 65535
"""Segment ids fit uint16, and 0 is void."""

_CANDIDATES = 64


@dataclass(slots=True)
class Candidates:
    """How many queries of an image a GPU merges, which would have to be waited for to know how many are kept.

    Images of which more are kept are merged again, with a second wait; those that follow are merged with as many.
    """

    most: int = _CANDIDATES

    def grow(self, kept: int) -> None:
        """Makes room for so many."""
        self.most = max(self.most, -(-kept // _CANDIDATES) * _CANDIDATES)


def merge_panoptic(
    mask_logits: Tensor,
    classification_logits: Tensor,
    vocabulary: Vocabulary,
    size: tuple[int, int],
    config: MergeConfig,
    *,
    query_embeddings: Tensor | None = None,
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

    Returns:
        Segments with ids 1 to N by descending area, equal areas in query order. `confidence` is 255 x score x mask
        probability of a pixel's winner.

    Raises:
        ValueError: the shapes do not fit together.
    """
    embeddings = None if query_embeddings is None else query_embeddings[None]
    return start_merge(mask_logits[None], classification_logits[None], vocabulary, size, config, embeddings)()[0]


@torch.inference_mode()
def start_merge(
    mask_logits: Tensor,
    classification_logits: Tensor,
    vocabulary: Vocabulary,
    size: tuple[int, int],
    config: MergeConfig,
    query_embeddings: Tensor | None = None,
    traits: Tensor | None = None,
    candidates: Candidates | None = None,
) -> Callable[[], list[PanopticResult]]:
    """As `merge_panoptic`, for B images of one size: all tensors have a first axis more.

    On a CPU the results are there at once. On a GPU the work is queued, and the host waits for it, once, where what is
    returned is called.

    Args:
        traits: `vocabulary.traits` on the device; None sends them there, for which the host waits.
        candidates: as earlier images left them; None begins anew.
    """
    _check_shapes(mask_logits, classification_logits, vocabulary, size)
    where = mask_logits.device
    scores, category_index = classification_logits.float().softmax(dim=-1)[..., :-1].max(dim=-1)  # (B, Q), (B, Q)
    if traits is None:
        traits = torch.from_numpy(vocabulary.traits).to(where)
    traits_of = traits[:, category_index]  # (4, B, Q)
    is_kept = (scores > config.object_threshold) & (scores >= traits_of[0])
    queries = Kept(is_kept, scores, category_index, traits_of)
    if scores.shape[1] == 0:
        channels = None if query_embeddings is None else query_embeddings.shape[-1]
        nothing = [_all_void(size, vocabulary.version, channels) for _ in scores]
        return lambda: nothing
    if where.type != "cpu":
        return _start_on_device(
            mask_logits, queries, vocabulary, size, config, query_embeddings, candidates or Candidates()
        )
    results = [
        _on_cpu(
            mask_logits[image],
            queries.of(image),
            vocabulary,
            size,
            config,
            None if query_embeddings is None else query_embeddings[image],
        )
        for image in range(len(scores))
    ]
    return lambda: results


def _on_cpu(
    mask_logits: Tensor,
    queries: Kept,
    vocabulary: Vocabulary,
    size: tuple[int, int],
    config: MergeConfig,
    query_embeddings: Tensor | None,
) -> PanopticResult:
    """One image; `queries` (1, Q)."""
    which = queries.is_valid[0].nonzero().squeeze(1)
    if len(which) == 0:
        return _all_void(size, vocabulary.version, None if query_embeddings is None else query_embeddings.shape[1])
    kept = queries.taken(which[None])
    masks = [mask_logits[query].float() for query in which.tolist()]
    winners = boxes.assign_pixels(masks, kept.scores[0], size, config.mask_threshold)
    chosen = choose(kept, winners.owned, len(vocabulary.categories), config)
    segment_ids = F.pad(chosen.ids[0], (1, 0)).numpy().astype(np.uint16).take(winners.owner, mode="clip")
    embeddings = None if query_embeddings is None else F.normalize(query_embeddings[which][chosen.order[0]].float())
    return _result(
        chosen.table[0].numpy(),
        chosen.scores[0].numpy(),
        segment_ids,
        winners.confidence * (segment_ids > 0),
        None if embeddings is None else embeddings.numpy(),
        vocabulary,
    )


def _start_on_device(
    mask_logits: Tensor,
    queries: Kept,
    vocabulary: Vocabulary,
    size: tuple[int, int],
    config: MergeConfig,
    query_embeddings: Tensor | None,
    candidates: Candidates,
) -> Callable[[], list[PanopticResult]]:
    """All images, and all of it queued."""
    most = candidates.most
    images = torch.arange(len(mask_logits), device=mask_logits.device)[:, None]
    which = (~queries.is_valid).byte().argsort(dim=1, stable=True)[:, :most]  # (B, N), the kept first, in order
    kept = queries.taken(which)
    owner, confidence, owned = device.assign_pixels(mask_logits, which, kept, size, config.mask_threshold)
    chosen = choose(kept, owned, len(vocabulary.categories), config)
    segment_ids = F.pad(chosen.ids, (0, 1)).gather(1, owner.flatten(1)).view(owner.shape)
    parts: list[tuple[Tensor, type[np.generic]]] = [
        (chosen.table, np.int64),
        (queries.is_valid.sum(dim=1, keepdim=True), np.int64),
        (chosen.scores, np.float32),
        (segment_ids.to(torch.int16), np.uint16),  # wraps to the same bits; torch does little with uint16
        (confidence * (segment_ids > 0), np.uint8),
    ]
    if query_embeddings is not None:
        parts.append((F.normalize(query_embeddings[images, which.gather(1, chosen.order)].float(), dim=2), np.float32))
    arrays = start_download(parts)

    @torch.inference_mode()
    def results() -> list[PanopticResult]:
        tables, counts, *maps = arrays()
        if counts.max() > most:
            candidates.grow(int(counts.max()))
            return _start_on_device(mask_logits, queries, vocabulary, size, config, query_embeddings, candidates)()
        scores, segments, confidences, *rest = maps
        return [
            _result(tables[image], scores[image], segments[image], confidences[image], embeddings, vocabulary)
            for image, embeddings in enumerate(rest[0] if rest else [None] * len(tables))
        ]

    return results


def _result(
    table: np.ndarray,
    scores: np.ndarray,
    segment_ids: np.ndarray,
    confidence: np.ndarray,
    embeddings: np.ndarray | None,
    vocabulary: Vocabulary,
) -> PanopticResult:
    segments = segments_of(table, scores, vocabulary)
    category_ids = np.array([NO_CATEGORY, *(segment.category_id for segment in segments)], np.uint16)
    return PanopticResult(
        segment_ids=segment_ids,
        category_ids=category_ids.take(segment_ids, mode="clip"),
        confidence=confidence,
        segments=segments,
        vocabulary_version=vocabulary.version,
        embeddings=None if embeddings is None else embeddings[: len(segments)],
    )


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
    if mask_logits.ndim != 4 or 0 in mask_logits.shape[2:] or mask_logits.shape[1] > MAX_QUERIES:
        raise ValueError(
            f"mask_logits must be (Q, h, w) with Q <= {MAX_QUERIES}, h and w >= 1; got {tuple(mask_logits.shape[1:])}"
        )
    expected = (*mask_logits.shape[:2], len(vocabulary.categories) + 1)
    if tuple(classification_logits.shape) != expected:
        raise ValueError(
            f"classification_logits must be (Q, K + 1) = {expected[1:]} for {expected[2] - 1} categories; "
            f"got {tuple(classification_logits.shape[1:])}"
        )
    if min(size) < 1:
        raise ValueError(f"size must be (H, W) of 1 or more, got {size}")
