"""Perfect masks or perfect classes in place of the model's own: which of the two stages costs how much.

The analysis of FISA, section 3: one part of the segmenter is replaced by an oracle that knows the truth. The paper
leaves the details open; docs/evaluation.md says what is done here and why.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from ovseg_ros.core.metrics.overlaps import MaskOverlaps
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.offline.evaluate.truth import Truth

Oracle = Literal["", "masks", "classes"]

MIN_IOU = 0.5
"""A proposal that covers no true segment better than this is "no object" to the class oracle."""

_INSIDE, _OUTSIDE = 10.0, -10.0  # mask logits, a probability of all but 0 or 1
_IMPOSSIBLE = -1e4
_MOST_MASK_ELEMENTS = 1 << 26


def true_proposals(truth: Truth, own: MaskProposals) -> MaskProposals:
    """The true segments as proposals, without crowd regions and segments without a pixel.

    Masks have the image's resolution, or a fraction of it where that would be more than 64 million values.

    Args:
        truth: of the image.
        own: what the mask generator proposes for it, for the device and the widths of what comes with masks: zeros for
            query embeddings; if it has class logits, such that say "an object, of no particular class".
    """
    segments = _visible(truth)
    height, width = truth.size
    step = 1
    while len(segments) * (height // step) * (width // step) > _MOST_MASK_ELEMENTS:
        step += 1
    device = own.mask_logits.device
    ids = torch.from_numpy(truth.segment_ids).to(device)
    small = (max(1, height // step), max(1, width // step))
    logits = torch.empty((1, len(segments), *small), device=device)
    for number, segment in enumerate(segments):
        mask = torch.where(ids == segment, _INSIDE, _OUTSIDE)
        logits[0, number] = mask if step == 1 else F.interpolate(mask[None, None], size=small, mode="area")[0, 0]
    class_logits = None
    if own.class_logits is not None:
        class_logits = torch.zeros(1, len(segments), own.class_logits.shape[-1], device=device)
        class_logits[..., -1] = 2 * _OUTSIDE
    embeddings = torch.zeros(1, len(segments), own.query_embeddings.shape[-1], device=device)
    return MaskProposals(logits, embeddings, class_logits)


def named_rightly(truth: Truth, class_logits: torch.Tensor) -> tuple[int, int]:
    """How many true proposals there are, and how many have the highest of (Q, K + 1), "no object" aside, rightly."""
    best = class_logits[:, :-1].argmax(dim=-1).tolist()
    right = [index == truth.categories[i] for index, i in zip(best, _visible(truth), strict=True)]
    return len(right), sum(right)


def true_classes(truth: Truth, overlaps: MaskOverlaps, categories: int) -> torch.Tensor:
    """Every proposal's class by the true segment that it covers best: logits (1, Q, K + 1), K = `categories`.

    The class of the segment with the highest IoU has that IoU as its probability, so that the best of several
    proposals of one segment wins its pixels; the rest is "no object". With no IoU above `MIN_IOU` all of it is.
    `overlaps` are of the Q proposals with the truth without its crowd regions.
    """
    iou = overlaps.iou()  # (Q, T)
    logits = np.full((len(iou), categories + 1), _IMPOSSIBLE, dtype=np.float32)
    logits[:, -1] = 0.0
    if iou.shape[1]:
        for query, segment in enumerate(iou.argmax(axis=1)):
            if (best := float(iou[query, segment])) > MIN_IOU:
                logits[query, truth.categories[int(overlaps.segment_ids[segment])]] = np.log(best)
                logits[query, -1] = np.log(1 - best) if best < 1 else _IMPOSSIBLE
    return torch.from_numpy(logits)[None]


def _visible(truth: Truth) -> list[int]:
    """The true segments with a pixel, without crowd regions."""
    return [segment for segment in truth.visible if segment not in truth.crowd_ids]
