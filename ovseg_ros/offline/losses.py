"""Set-prediction losses of mask transformers: one-to-one matching, then cross-entropy, BCE and dice."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovseg_ros.core.proposals.eomt import QueryPrediction


@dataclass(frozen=True, slots=True)
class MaskLossConfig:
    """Weights of the terms, in the matching cost and in the loss alike (EoMT's published values)."""

    class_weight: float = 2.0
    bce_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1


@dataclass(frozen=True, slots=True)
class MaskTargets:
    """Ground truth of one image: `masks` (N, h, w) in [0, 1] at the logits' resolution, `classes` (N,) int64."""

    masks: Tensor
    classes: Tensor


def mask_set_loss(
    predictions: list[QueryPrediction], targets: list[MaskTargets], config: MaskLossConfig
) -> dict[str, Tensor]:
    """Sum over predictions (deep supervision) of the matched losses, normalised by the masks in the batch.

    Args:
        predictions: each (B, Q, h, w) and (B, Q, C + 1).
        targets: B of them; an image may have none.

    Returns:
        Weighted scalars "class", "bce" and "dice"; the loss is their sum.
    """
    count = max(1, sum(len(target.classes) for target in targets))
    totals = {"class": torch.zeros(()), "bce": torch.zeros(()), "dice": torch.zeros(())}
    totals = {name: value.to(predictions[0].mask_logits.device) for name, value in totals.items()}
    for prediction in predictions:
        for name, value in _prediction_loss(prediction, targets, config, count).items():
            totals[name] = totals[name] + value
    return totals


def _prediction_loss(
    prediction: QueryPrediction, targets: list[MaskTargets], config: MaskLossConfig, count: int
) -> dict[str, Tensor]:
    batch, queries, classes = prediction.class_logits.shape
    no_object = classes - 1
    wanted_classes = torch.full((batch, queries), no_object, device=prediction.class_logits.device)
    matched_logits, matched_masks = [], []
    for index, target in enumerate(targets):
        logits = prediction.mask_logits[index].flatten(1)  # (Q, h * w)
        masks = target.masks.flatten(1)  # (N, h * w)
        rows, columns = match(logits.detach(), prediction.class_logits[index].detach(), masks, target.classes, config)
        wanted_classes[index, rows] = target.classes[columns]
        matched_logits.append(logits[rows])
        matched_masks.append(masks[columns])
    logits, masks = torch.cat(matched_logits), torch.cat(matched_masks)  # (M, h * w)
    weights = torch.ones(classes, device=logits.device)
    weights[no_object] = config.no_object_weight
    cross_entropy = F.cross_entropy(prediction.class_logits.flatten(0, 1), wanted_classes.flatten(), weights)
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=1).sum() / count
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * masks).sum(dim=1) + 1
    dice = (1 - overlap / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)).sum() / count
    return {
        "class": config.class_weight * cross_entropy,
        "bce": config.bce_weight * bce,
        "dice": config.dice_weight * dice,
    }


def match(
    mask_logits: Tensor, class_logits: Tensor, masks: Tensor, classes: Tensor, config: MaskLossConfig
) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment of queries to targets.

    Args:
        mask_logits: (Q, points).
        class_logits: (Q, C + 1).
        masks: (N, points) in [0, 1].
        classes: (N,).

    Returns:
        Query indices and target indices, min(Q, N) of each.
    """
    points = mask_logits.shape[1]
    class_cost = -class_logits.softmax(dim=-1)[:, classes]  # (Q, N)
    positive, negative = F.softplus(-mask_logits), F.softplus(mask_logits)
    bce_cost = (positive @ masks.T + negative @ (1 - masks).T) / points
    probabilities = mask_logits.sigmoid()
    sizes = probabilities.sum(dim=1)[:, None] + masks.sum(dim=1)[None, :]
    dice_cost = 1 - (2 * probabilities @ masks.T + 1) / (sizes + 1)
    cost = config.class_weight * class_cost + config.bce_weight * bce_cost + config.dice_weight * dice_cost
    rows, columns = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
    return (
        torch.as_tensor(rows, dtype=torch.int64, device=mask_logits.device),
        torch.as_tensor(columns, dtype=torch.int64, device=mask_logits.device),
    )
