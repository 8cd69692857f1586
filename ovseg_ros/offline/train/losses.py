"""Set-prediction losses of mask transformers: one-to-one matching, then cross-entropy, BCE and dice.

Masks are compared everywhere, or on random points that prefer where the prediction is unsure (PointRend, Mask2Former).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.proposals.mask_network import QueryPrediction
from ovseg_ros.offline.train.loop_config import Weight, require_weight


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class MaskLossConfig:
    """Weights of the terms, in the matching cost and in the loss alike (EoMT's published values), and where to compare.

    Attributes:
        class_weight, bce_weight, dice_weight: of the terms.
        no_object_weight: of the class "no object" in the cross-entropy.
        points: points of a mask that are compared; 0 = all pixels of the mask logits.
        oversample: times `points` are drawn at random, of which the most uncertain are kept.
        importance: share of the points that are such; the rest are drawn evenly.
    """

    class_weight: Weight = 2.0
    bce_weight: Weight = 5.0
    dice_weight: Weight = 5.0
    no_object_weight: Weight = 0.1
    points: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    oversample: Annotated[float, Field(ge=1, le=100)] = 3.0
    importance: Share = 0.75

    def __post_init__(self) -> None:
        require_weight(self.class_weight, self.bce_weight, self.dice_weight)


@dataclass(frozen=True, slots=True)
class BatchShare:
    """The images that a loss is given, of a batch that is computed in several shares.

    Attributes:
        samples: which they are.
        masks: how many masks each image of the batch has.
    """

    samples: range
    masks: Sequence[int]


@dataclass(frozen=True, slots=True)
class MaskTargets:
    """Ground truth of one image: `masks` (N, h, w) in [0, 1] or bool, `classes` (N,) int64.

    Masks have the logits' resolution if all pixels are compared, and any if points are.
    """

    masks: Tensor
    classes: Tensor


def soft_masks(segment_ids: Tensor, ids: Tensor, size: Sequence[int]) -> Tensor:
    """(N, h, w): the share of every cell that each segment `ids` (N,) covers, of a map (H, W)."""
    one_hot = segment_ids[None] == ids[:, None, None]
    return F.adaptive_avg_pool2d(one_hot.float()[:, None], (size[0], size[1]))[:, 0]  # N may be 0


def mask_set_loss(
    predictions: list[QueryPrediction],
    targets: list[MaskTargets],
    config: MaskLossConfig,
    share: BatchShare | None = None,
) -> dict[str, Tensor]:
    """Sum over predictions (deep supervision) of the matched losses, normalised by the masks in the batch.

    Computed in float32, whatever the precision of the predictions. The mean over equal shares of a batch, each begun
    with the same random state, is what the whole batch has.

    Args:
        predictions: each (B, Q, h, w) and (B, Q, C + 1).
        targets: B of them, on the predictions' device; an image may have none.
        share: which part of what batch they are; None = all of one.

    Returns:
        Weighted scalars "class", "bce" and "dice"; the loss is their sum.
    """
    share = share or BatchShare(range(len(targets)), [len(target.classes) for target in targets])
    device = predictions[0].mask_logits.device
    totals = {name: torch.zeros((), device=device) for name in ("class", "bce", "dice")}
    for prediction in predictions:
        exact = QueryPrediction(prediction.mask_logits.float(), prediction.class_logits.float())
        with torch.autocast(device.type, enabled=False):
            losses = _prediction_loss(exact, targets, config, share)
        totals = {name: totals[name] + value for name, value in losses.items()}
    return totals


def _prediction_loss(
    prediction: QueryPrediction, targets: list[MaskTargets], config: MaskLossConfig, share: BatchShare
) -> dict[str, Tensor]:
    batch, queries, classes = prediction.class_logits.shape
    no_object = classes - 1
    wanted_classes = torch.full((batch, queries), no_object, device=prediction.class_logits.device)
    matched_logits, matched_masks = [], []
    for sample, count in enumerate(share.masks):
        if sample not in share.samples:
            draw_points(min(queries, count), config, prediction.mask_logits.device)
            continue
        index = sample - share.samples.start
        target = targets[index]
        mask_logits, masks = prediction.mask_logits[index], target.masks.float()  # (Q, h, w), (N, H, W)
        class_logits = prediction.class_logits[index].detach()  # (Q, C + 1)
        if config.points:
            everywhere, candidates, evenly = draw_points(min(queries, count), config, masks.device)
            logits = sample_points(mask_logits.detach()[None], everywhere)[0]  # (Q, points)
            flat = sample_points(masks[None], everywhere)[0]  # (N, points)
            rows, columns = match(logits, class_logits, flat, target.classes, config)
            chosen = uncertain_points(mask_logits[rows].detach(), candidates, evenly, config.points)
            matched_logits.append(sample_points(mask_logits[rows][:, None], chosen)[:, 0])
            matched_masks.append(sample_points(masks[columns][:, None], chosen)[:, 0])
        else:
            logits, flat = mask_logits.flatten(1), masks.flatten(1)  # (Q, h * w), (N, h * w)
            rows, columns = match(logits.detach(), class_logits, flat, target.classes, config)
            matched_logits.append(logits[rows])
            matched_masks.append(flat[columns])
        wanted_classes[index, rows] = target.classes[columns]
    logits, masks = torch.cat(matched_logits), torch.cat(matched_masks)  # (M, pixels or points)
    part = len(share.samples) / len(share.masks)
    bce, dice = bce_and_dice(logits, masks, part * max(1.0, float(sum(share.masks))))
    weights = torch.ones(classes, device=logits.device)
    weights[no_object] = config.no_object_weight
    own, whole = (
        sum(min(count, queries) + config.no_object_weight * max(0, queries - count) for count in counts)
        for counts in (share.masks[share.samples.start : share.samples.stop], share.masks)
    )  # sums of class weights, whatever is matched with what
    cross_entropy = F.cross_entropy(
        prediction.class_logits.flatten(0, 1), wanted_classes.flatten(), weights, reduction="mean" if own else "sum"
    )
    return {
        "class": config.class_weight * cross_entropy * (own / (part * whole) if own else 0.0),
        "bce": config.bce_weight * bce,
        "dice": config.dice_weight * dice,
    }


def bce_and_dice(logits: Tensor, masks: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice loss of matched masks, summed over them and divided by `count`.

    Args:
        logits, masks: (M, pixels or points); masks in [0, 1].
    """
    bce = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=1).sum() / count
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * masks).sum(dim=1) + 1
    dice = (1 - overlap / (probabilities.sum(dim=1) + masks.sum(dim=1) + 1)).sum() / count
    return bce, dice


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples (B, C, P) of maps (B, C, h, w) at points (B, P, 2), (x, y) in [0, 1] over the whole map."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def draw_points(masks: int, config: MaskLossConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random points of an image: (1, points, 2) to match by, and for each of M masks what `uncertain_points` takes."""
    evenly = config.points - int(config.points * config.importance)
    counts = ((1, config.points), (masks, int(config.points * config.oversample)), (masks, evenly))
    everywhere, candidates, rest = (torch.rand(*count, 2, device=device) for count in counts)
    return everywhere, candidates, rest


def uncertain_points(mask_logits: Tensor, candidates: Tensor, evenly: Tensor, points: int) -> Tensor:
    """Points (M, points, 2) of masks (M, h, w): `evenly` (M, E, 2), and of the candidates (M, C, 2) those whose logit
    is nearest to 0."""
    certainty = sample_points(mask_logits[:, None], candidates)[:, 0].abs()  # (M, C)
    chosen = certainty.topk(points - evenly.shape[1], dim=1, largest=False).indices
    return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), evenly], dim=1)


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
        Queries and their targets, min(Q, N) int64 of each.
    """
    points = mask_logits.shape[1]
    class_cost = -class_logits.softmax(dim=-1)[:, classes]  # (Q, N)
    positive, negative = F.softplus(-mask_logits), F.softplus(mask_logits)
    bce_cost = (positive @ masks.T + negative @ (1 - masks).T) / points
    probabilities = mask_logits.sigmoid()
    sizes = probabilities.sum(dim=1)[:, None] + masks.sum(dim=1)[None, :]
    dice_cost = 1 - (2 * probabilities @ masks.T + 1) / (sizes + 1)
    cost = config.class_weight * class_cost + config.bce_weight * bce_cost + config.dice_weight * dice_cost
    assigned = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
    rows, columns = (torch.as_tensor(side, dtype=torch.int64, device=mask_logits.device) for side in assigned)
    return rows, columns
