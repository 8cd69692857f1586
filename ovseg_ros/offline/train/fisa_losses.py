"""What FISA learns from: proposals assigned to ground truth, and the losses on words and on adapted masks."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovseg_ros.core.config import STRICT
from ovseg_ros.offline.train.loop_config import Weight, require_weight
from ovseg_ros.offline.train.losses import bce_and_dice


@dataclass(frozen=True, slots=True, config=STRICT)
class FisaLossConfig:
    """Weights of the terms (FISA Eq. 6), and which proposals count.

    Attributes:
        class_weight, bce_weight, dice_weight: of cross-entropy over words, and of BCE and dice on adapted masks.
        none_weight: weight of "none of these" in the cross-entropy, for proposals that fit no segment; 0 leaves them
            out, as MaskCLIP does.
        min_iou: a proposal fits the segment that it overlaps most if their IoU is above this. Several may fit one:
            frozen proposals are many to one segment (MasQCLIP).
    """

    class_weight: Weight = 2.0
    bce_weight: Weight = 5.0
    dice_weight: Weight = 5.0
    none_weight: Weight = 0.0
    min_iou: Annotated[float, Field(ge=0, lt=1)] = 0.6

    def __post_init__(self) -> None:
        require_weight(self.class_weight, self.bce_weight, self.dice_weight)


def best_segments(masks: Tensor, truth: Tensor, min_iou: float) -> Tensor:
    """The segment that each proposal fits, (Q,) int64 in [0, N), or -1 where it fits none.

    Args:
        masks: (Q, h, w) logits.
        truth: (N, h, w) masks in [0, 1] at the same resolution; above 0.5 is inside.
    """
    overlap, segment = overlaps(masks, truth)
    return torch.where(overlap > min_iou, segment, -1)


def overlaps(masks: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The largest IoU of each proposal with a segment, (Q,), and with which, (Q,) int64; 0 and -1 without any.

    Args:
        masks, truth: as of `best_segments`.
    """
    if 0 in (len(masks), len(truth)):
        nothing = torch.zeros(len(masks), device=masks.device)
        return nothing, torch.full((len(masks),), -1, dtype=torch.int64, device=masks.device)
    proposed = (masks >= 0).flatten(1).float()  # (Q, h * w)
    real = (truth > 0.5).flatten(1).float()  # (N, h * w)
    shared = proposed @ real.T
    union = proposed.sum(dim=1)[:, None] + real.sum(dim=1)[None] - shared
    overlap, segment = (shared / union.clamp(min=1)).max(dim=1)
    return overlap, segment


def assign(
    masks: Tensor, truth: Tensor, categories: Tensor, none: int, config: FisaLossConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Proposals and the segments that they fit; those that fit none are left out if they have no weight.

    Args:
        masks, truth: as of `best_segments`.
        categories: (N,) int64, of the segments.
        none: the category of proposals that fit none.

    Returns:
        M masks (M, h, w), the segment that each fits (M, h, w), zeros where it fits none, and its category (M,).
    """
    segment = best_segments(masks, truth, config.min_iou)
    if config.none_weight == 0:
        masks, segment = masks[segment >= 0], segment[segment >= 0]
    return masks, *fitted(segment, truth, categories, none)


def fitted(segment: Tensor, truth: Tensor, categories: Tensor, none: int) -> tuple[Tensor, Tensor]:
    """The truth (M, h, w) and the categories (M,) of the segments (M,) that masks fit, -1 = none; see `assign`."""
    truth = torch.cat([truth, truth.new_zeros(1, *truth.shape[1:])])  # the last row, -1, is of no segment
    categories = torch.cat([categories, categories.new_full((1,), none)])
    return truth[segment], categories[segment]


def fisa_losses(
    word_logits: Tensor,
    categories: Tensor,
    adapted: Tensor,
    truth: Tensor,
    config: FisaLossConfig,
    *,
    masks: float,
    others: float,
) -> dict[str, Tensor]:
    """The weighted terms of FISA Eq. 6 over N masks; their sum is the loss.

    Args:
        word_logits: (N, K + 1), the last is "none of these".
        categories: (N,) int64 in [0, K]; K = fits no segment.
        adapted: (N, h, w) logits of the distribution adapter's masks.
        truth: (N, h, w) in [0, 1], the segment that each fits; unused where it fits none.
        masks, others: what to divide by, as numbers of masks that fit and of others: those of the N, or of one of
            equal shares of a batch on average.

    Returns:
        "class" (a weighted mean over all), "bce" and "dice" (means over the masks that fit).
    """
    count = word_logits.shape[1] - 1
    weights = torch.ones(count + 1, device=word_logits.device)
    weights[count] = config.none_weight
    total = max(1e-6, masks + config.none_weight * others)
    cross_entropy = F.cross_entropy(word_logits.float(), categories, weights, reduction="sum") / total
    fits = categories < count
    logits, wanted = adapted[fits].flatten(1).float(), truth[fits].flatten(1).float()  # (M, h * w)
    bce, dice = bce_and_dice(logits, wanted, masks or 1.0)
    return {
        "class": config.class_weight * cross_entropy,
        "bce": config.bce_weight * bce,
        "dice": config.dice_weight * dice,
    }
