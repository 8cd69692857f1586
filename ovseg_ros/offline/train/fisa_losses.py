"""What FISA learns from: frozen proposals assigned to ground truth, and the losses on words and on adapted masks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.offline.train.losses import bce_and_dice


@dataclass(frozen=True, slots=True)
class FisaLossConfig:
    """Weights of the terms (FISA Eq. 6), and which proposals count.

    Attributes:
        class_weight, bce_weight, dice_weight: of cross-entropy over words, and of BCE and dice on adapted masks.
        none_weight: weight of "none of these" in the cross-entropy, for proposals that fit no segment; 0 leaves them
            out, as MaskCLIP does.
        min_iou: a proposal fits the segment that it overlaps most if their IoU is above this. Several may fit one:
            frozen proposals are many to one segment (MasQCLIP).
    """

    class_weight: float = 2.0
    bce_weight: float = 5.0
    dice_weight: float = 5.0
    none_weight: float = 0.0
    min_iou: float = 0.6

    def __post_init__(self) -> None:
        for name in ("class_weight", "bce_weight", "dice_weight", "none_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.min_iou < 1:
            raise ValueError(f"min_iou must be in [0, 1), got {self.min_iou}")


def assign_proposals(mask_logits: Tensor, truth: Tensor, min_iou: float) -> Tensor:
    """The segment that each proposal fits, (Q,) int64 in [0, N), or -1 where it fits none.

    Args:
        mask_logits: (Q, h, w).
        truth: (N, h, w) masks in [0, 1] at the same resolution; above 0.5 is inside.
    """
    if 0 in (len(mask_logits), len(truth)):
        return torch.full((len(mask_logits),), -1, dtype=torch.int64, device=mask_logits.device)
    proposed = (mask_logits >= 0).flatten(1).float()  # (Q, h * w)
    real = (truth > 0.5).flatten(1).float()  # (N, h * w)
    shared = proposed @ real.T
    union = proposed.sum(dim=1)[:, None] + real.sum(dim=1)[None] - shared
    overlap, segment = (shared / union.clamp(min=1)).max(dim=1)
    return torch.where(overlap > min_iou, segment, -1)


def fisa_losses(
    word_logits: Tensor, categories: Tensor, adapted: Tensor, truth: Tensor, config: FisaLossConfig
) -> dict[str, Tensor]:
    """The weighted terms of FISA Eq. 6 over a batch of N masks; their sum is the loss.

    Args:
        word_logits: (N, K + 1), the last is "none of these".
        categories: (N,) int64 in [0, K]; K = fits no segment.
        adapted: (N, h, w) logits of the distribution adapter's masks.
        truth: (N, h, w) in [0, 1], the segment that each fits; unused where it fits none.

    Returns:
        "class" (a weighted mean over the masks), "bce" and "dice" (means over the masks that fit).
    """
    count = word_logits.shape[1] - 1
    weights = torch.ones(count + 1, device=word_logits.device)
    weights[count] = config.none_weight
    total = weights[categories].sum().clamp(min=1e-6)
    cross_entropy = F.cross_entropy(word_logits.float(), categories, weights, reduction="sum") / total
    fits = categories < count
    logits, masks = adapted[fits].flatten(1).float(), truth[fits].flatten(1).float()  # (M, h * w)
    bce, dice = bce_and_dice(logits, masks, max(1, len(logits)))
    return {
        "class": config.class_weight * cross_entropy,
        "bce": config.bce_weight * bce,
        "dice": config.dice_weight * dice,
    }
