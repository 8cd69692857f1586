"""Others' code beside ours, in the same run, on the same numbers."""

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

_SIDE, _STRIDE = 640, 4  # of the square that images are fitted into, and of its masks
_QUERIES, _THINGS, _CATEGORIES = 200, 80, 133  # as published for COCO


class MergeTimes(NamedTuple):
    """How long the merge takes, and how long a peer's.

    Attributes:
        kept: masks that are kept, of all queries.
        ours_ms, theirs_ms: medians of calls that took turns.
        segments, their_segments: found by each.
        equal_percent: pixels that both give to the same segment, or to none.
    """

    kept: int
    ours_ms: float
    theirs_ms: float
    segments: int
    their_segments: int
    equal_percent: float


def merge_against_transformers(
    size: tuple[int, int] = (480, 640), kept: Sequence[int] = (20, 60, 120), repeats: int = 15
) -> tuple[MergeTimes, ...]:
    """Our merge and the post-processing of transformers' EoMT, on one device's CPU, on the same logits.

    Args:
        size: (height, width) of the output in pixels.
        kept: how many masks are kept.
        repeats: calls of each.
    """
    from transformers import EomtImageProcessor

    processor = EomtImageProcessor(size={"shortest_edge": _SIDE, "longest_edge": _SIDE})
    specs = [CategorySpec(f"category {index}", is_thing=index < _THINGS) for index in range(_CATEGORIES)]
    vocabulary = Vocabulary.build(specs)
    config = MergeConfig(object_threshold=0.5, overlap_threshold=0.8, mask_threshold=0.5, min_area=1)
    scale = _SIDE / max(size)
    cells = [max(1, round(side * scale / _STRIDE)) for side in size]

    def compared(count: int) -> MergeTimes:
        masks, classes = blobs(count, (cells[0], cells[1]), _QUERIES, _CATEGORIES)
        padded = torch.full((1, _QUERIES, _SIDE // _STRIDE, _SIDE // _STRIDE), float(masks.min()))
        padded[0, :, : cells[0], : cells[1]] = masks
        outputs = SimpleNamespace(masks_queries_logits=padded, class_queries_logits=classes[None])

        def ours() -> PanopticResult:
            return merge_panoptic(masks, classes, vocabulary, size, config)

        @torch.no_grad()
        def theirs() -> dict[str, Any]:
            result: dict[str, Any] = processor.post_process_panoptic_segmentation(
                outputs,
                target_sizes=[size],
                threshold=config.object_threshold,
                mask_threshold=config.mask_threshold,
                overlap_mask_area_threshold=config.overlap_threshold,
                stuff_classes=list(range(_THINGS, _CATEGORIES)),
            )[0]
            return result

        found, peer = ours(), theirs()
        seconds = [(_seconds(ours), _seconds(theirs)) for _ in range(repeats)]
        ours_ms, theirs_ms = 1000 * np.median(seconds, axis=0)
        equal = _equal_share(found.segment_ids, peer["segmentation"].numpy().astype(np.int64) + 1)
        segments, their_segments = len(found.segments), len(peer["segments_info"])
        return MergeTimes(count, float(ours_ms), float(theirs_ms), segments, their_segments, 100 * equal)

    return tuple(compared(count) for count in kept)


def blobs(kept: int, cells: tuple[int, int], queries: int, categories: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A scene as a mask generator sees it: objects of all sizes, the smaller in front of the larger.

    Args:
        kept: queries with a mask and a sure name, one of them of what is behind all objects.
        cells: (h, w) of masks.
        queries, categories: Q, `kept` or more, and K.
        seed: another scene.

    Returns:
        Mask logits (Q, h, w) with soft borders, and class logits (Q, K + 1), the last of "no object".
    """
    rng = np.random.default_rng(seed)
    height, width = cells
    y, x = (np.mgrid[:height, :width].astype(np.float32) + 0.5) / height
    label = np.zeros(cells, np.int64)
    for query in range(1, kept):
        radius = 0.5 * np.exp(-2.5 * query / kept) * rng.uniform(0.6, 1.2) * min(1.0, (12 / kept) ** 0.5)
        stretch, angle = np.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0, np.pi)
        right, down = x - rng.uniform(0, width / height), y - rng.uniform(0, 1)
        along = right * np.cos(angle) + down * np.sin(angle)
        beside = down * np.cos(angle) - right * np.sin(angle)
        dents = 1 + 0.3 * np.sin(3 * np.arctan2(beside, along) + rng.uniform(0, 2 * np.pi))
        label[(along / (radius * stretch)) ** 2 + (beside * stretch / radius) ** 2 < dents] = query
    masks = np.full((queries, height, width), -9, np.float32)
    for query in range(kept):
        soft = cv2.GaussianBlur((label == query).astype(np.float32), (0, 0), 1.0)
        grain = rng.standard_normal((max(1, height // 8), max(1, width // 8))).astype(np.float32)
        masks[query] = 16 * soft - 8 + 0.7 * cv2.resize(grain, (width, height))
    is_kept = np.arange(queries) < kept
    classes = rng.standard_normal((queries, categories + 1)).astype(np.float32) - 3
    sureness = np.log(categories) + rng.uniform(3.5, 7, queries)
    classes[np.arange(queries), rng.integers(0, categories, queries)] += np.where(is_kept, sureness, 0)
    classes[:, -1] += np.where(is_kept, 0, 9)
    order = rng.permutation(queries)
    return torch.from_numpy(masks[order]), torch.from_numpy(classes[order])


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _equal_share(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of pixels in the same segment, once each of ours has the number it mostly has there; 0 is none."""
    pairs = ours.astype(np.int64) * (theirs.max() + 1) + theirs
    counts = np.bincount(pairs.ravel(), minlength=(int(ours.max()) + 1) * (int(theirs.max()) + 1))
    table = counts.reshape(-1, int(theirs.max()) + 1)
    best = np.concatenate([table[:1, 0], table[1:, 1:].max(axis=1, initial=0)])
    return float(best.sum() / ours.size)
