"""Set-prediction losses of mask transformers: one-to-one matching, then cross-entropy, BCE and dice.

Masks are compared everywhere, or on random points that prefer where the prediction is unsure (PointRend, Mask2Former).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.types import QueryPrediction
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

    Masks have the logits' resolution if all pixels are compared, and any if points are. Of a network that names masks
    apart from its classes, `words` (N,) int64 are which of its words each is.
    """

    masks: Tensor
    classes: Tensor
    words: Tensor | None = None


def soft_masks(segment_ids: Tensor, ids: Tensor, size: Sequence[int]) -> Tensor:
    """(N, h, w): the share of every cell that each segment `ids` (N,) covers, of a map (H, W)."""
    one_hot = segment_ids[None] == ids[:, None, None]
    return F.adaptive_avg_pool2d(one_hot.float()[:, None], (size[0], size[1]))[:, 0]  # N may be 0


def pooled_masks(numbers: Tensor, count: int, stride: int) -> Tensor:
    """(N, H / stride, W / stride): as `soft_masks`, to the bit if `stride` is a power of two, in a part of the time.

    Args:
        numbers: (H, W) integers, multiples of `stride`: segments are numbered 1 to N, `count`; 0 = none.
    """
    rows, columns = (side // stride for side in numbers.shape)
    cells = torch.arange(rows * columns, device=numbers.device).view(rows, 1, columns, 1)
    places = numbers.view(rows, stride, columns, stride).to(torch.int64) * (rows * columns) + cells
    pixels = torch.zeros((count + 1) * rows * columns, device=numbers.device)
    pixels.index_add_(0, places.flatten(), pixels.new_ones(1).expand(places.numel()))  # whole numbers, in any order
    return pixels.view(count + 1, rows, columns)[1:] / stride**2


def mask_set_loss(
    predictions: list[QueryPrediction],
    targets: list[MaskTargets],
    config: MaskLossConfig,
    share: BatchShare | None = None,
    *,
    word_weight: float | None = None,
) -> dict[str, Tensor]:
    """Sum over predictions (deep supervision) of the matched losses, normalised by the masks in the batch.

    Computed in float32, whatever the precision of the predictions. The mean over equal shares of a batch, each begun
    with the same random state, is what the whole batch has.

    Args:
        predictions: each (B, Q, h, w) and (B, Q, C + 1).
        targets: B of them, on the predictions' device; an image may have none.
        share: which part of what batch they are; None = all of one.
        word_weight: of the words' cross-entropy, on matched queries alone. With it, the first prediction, before any
            query has seen the image, has neither class nor word in its loss. None where targets have no words.

    Returns:
        Weighted scalars "class", "bce" and "dice", and with a `word_weight` "word"; the loss is their sum.
    """
    share = share or BatchShare(range(len(targets)), [len(target.classes) for target in targets])
    device = predictions[0].mask_logits.device
    names = ("class", "bce", "dice") if word_weight is None else ("class", "bce", "dice", "word")
    totals = {name: torch.zeros((), device=device) for name in names}
    exact = [_in_float32(prediction, with_words=word_weight is not None) for prediction in predictions]
    with torch.autocast(device.type, enabled=False):
        matched = None if config.points else _matched_everywhere(exact, targets, config)
        for layer, prediction in enumerate(exact):
            pairs = _matched_at_points(prediction, targets, config, share) if matched is None else matched[layer]
            losses = _prediction_loss(prediction, targets, pairs, config, share, word_weight)
            if word_weight is not None and layer == 0:
                losses = {name: value for name, value in losses.items() if name in ("bce", "dice")}
            totals = {name: value + losses[name] if name in losses else value for name, value in totals.items()}
    return totals


def _in_float32(prediction: QueryPrediction, *, with_words: bool) -> QueryPrediction:
    words = None
    if with_words:
        assert prediction.word_logits is not None  # of a network that names masks apart from its classes
        words = prediction.word_logits.float()
    return QueryPrediction(prediction.mask_logits.float(), prediction.class_logits.float(), words)


def _words_of(target: MaskTargets) -> Tensor:
    assert target.words is not None  # as long as there is a `word_weight`
    return target.words


class _Matched(NamedTuple):
    """Queries of a batch, and the targets that they are to become.

    Attributes:
        rows: (M,) int64, of all images' queries, image after image.
        columns: (M,) int64, of all images' targets.
        logits, masks: (M, pixels or points), of both.
    """

    rows: Tensor
    columns: Tensor
    logits: Tensor
    masks: Tensor


def _matched_everywhere(
    predictions: list[QueryPrediction], targets: list[MaskTargets], config: MaskLossConfig
) -> list[_Matched]:
    """Of every prediction, all pixels compared; the device is waited for once."""
    masks = torch.cat([target.masks for target in targets]).float().flatten(1)  # (sum N, h * w)
    flat = torch.stack([one.mask_logits.detach() for one in predictions]).flatten(3)  # (L, B, Q, h * w)
    named = torch.stack([one.class_logits.detach() for one in predictions])  # (L, B, Q, C + 1)
    sizes = [len(target.classes) for target in targets]
    costs = [
        matching_cost(flat[:, index], named[:, index], own, target.classes, config)
        for index, (own, target) in enumerate(zip(masks.split(sizes), targets, strict=True))
    ]
    return [
        _Matched(rows, columns, one.mask_logits.flatten(0, 1).flatten(1)[rows], masks[columns])
        for one, (rows, columns) in zip(predictions, assign(costs), strict=True)
    ]


def _matched_at_points(
    prediction: QueryPrediction, targets: list[MaskTargets], config: MaskLossConfig, share: BatchShare
) -> _Matched:
    """Of one prediction, compared at random points, which are drawn for the whole batch."""
    queries, device = prediction.mask_logits.shape[1], prediction.mask_logits.device
    drawn = [draw_points(min(queries, count), config, device) for count in share.masks]
    drawn = drawn[share.samples.start : share.samples.stop]
    costs = []
    for index, (target, (everywhere, *_)) in enumerate(zip(targets, drawn, strict=True)):
        logits = sample_points(prediction.mask_logits[index, None].detach(), everywhere)  # (1, Q, points)
        named = prediction.class_logits[index, None].detach()
        masks = sample_points(target.masks.float()[None], everywhere)[0]  # (N, points)
        costs.append(matching_cost(logits, named, masks, target.classes, config))
    ((rows, columns),) = assign(costs)
    sizes = [len(target.classes) for target in targets]
    counts = [min(queries, size) for size in sizes]
    compared = []
    for index, own in enumerate(zip(rows.split(counts), columns.split(counts), strict=True)):
        mask_logits = prediction.mask_logits[index][own[0] - index * queries][:, None]  # (M, 1, h, w)
        masks = targets[index].masks.float()[own[1] - sum(sizes[:index])][:, None]  # (M, 1, H, W)
        _, candidates, evenly = drawn[index]
        chosen = uncertain_points(mask_logits[:, 0].detach(), candidates, evenly, config.points)
        compared.append((sample_points(mask_logits, chosen)[:, 0], sample_points(masks, chosen)[:, 0]))
    return _Matched(rows, columns, *(torch.cat(side) for side in zip(*compared, strict=True)))


def _prediction_loss(
    prediction: QueryPrediction,
    targets: list[MaskTargets],
    matched: _Matched,
    config: MaskLossConfig,
    share: BatchShare,
    word_weight: float | None,
) -> dict[str, Tensor]:
    batch, queries, classes = prediction.class_logits.shape
    no_object = classes - 1
    wanted_classes = torch.full((batch * queries,), no_object, device=prediction.class_logits.device)
    wanted_classes[matched.rows] = torch.cat([target.classes for target in targets])[matched.columns]
    part = len(share.samples) / len(share.masks)
    bce, dice = bce_and_dice(matched.logits, matched.masks, part * max(1.0, float(sum(share.masks))))
    weights = torch.ones(classes, device=wanted_classes.device)
    weights[no_object] = config.no_object_weight
    own, whole = (
        sum(min(count, queries) + config.no_object_weight * max(0, queries - count) for count in counts)
        for counts in (share.masks[share.samples.start : share.samples.stop], share.masks)
    )  # sums of class weights, whatever is matched with what
    cross_entropy = F.cross_entropy(
        prediction.class_logits.flatten(0, 1), wanted_classes, weights, reduction="mean" if own else "sum"
    )
    losses = {
        "class": config.class_weight * cross_entropy * (own / (part * whole) if own else 0.0),
        "bce": config.bce_weight * bce,
        "dice": config.dice_weight * dice,
    }
    if word_weight is not None and prediction.word_logits is not None:
        words = torch.cat([_words_of(target) for target in targets])[matched.columns]
        named = F.cross_entropy(prediction.word_logits.flatten(0, 1)[matched.rows], words, reduction="sum")
        losses["word"] = word_weight * named / (part * max(1, sum(min(count, queries) for count in share.masks)))
    return losses


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


def matching_cost(
    mask_logits: Tensor, class_logits: Tensor, masks: Tensor, classes: Tensor, config: MaskLossConfig
) -> Tensor:
    """What it costs to make each query of an image each target, (L, Q, N), in L predictions.

    Args:
        mask_logits: (L, Q, points).
        class_logits: (L, Q, C + 1).
        masks: (N, points) in [0, 1].
        classes: (N,).
    """
    points = mask_logits.shape[-1]
    class_cost = -class_logits.softmax(dim=-1)[..., classes]  # (L, Q, N)
    positive, negative = F.softplus(-mask_logits), F.softplus(mask_logits)
    bce_cost = (positive @ masks.T + negative @ (1 - masks).T) / points
    probabilities = mask_logits.sigmoid()
    sizes = probabilities.sum(dim=-1)[..., None] + masks.sum(dim=1)
    dice_cost = 1 - (2 * probabilities @ masks.T + 1) / (sizes + 1)
    cost = config.class_weight * class_cost + config.bce_weight * bce_cost + config.dice_weight * dice_cost
    return torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6)


def assign(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The cheapest one-to-one assignments of queries to targets, all in one wait for the device.

    Args:
        costs: of each image, (L, Q, N) as of `matching_cost`.

    Returns:
        Of each of L predictions, two (M,) int64 on the device: which of all images' queries, image after image, and
        which of all their targets. M, the sum of min(Q, N), is the same for each.
    """
    queries, device = costs[0].shape[1], costs[0].device
    ends = np.cumsum([cost.shape[2] for cost in costs])
    found = []
    for layer in torch.cat(list(costs), dim=2).cpu().numpy():
        pairs = []
        for index, (own, end) in enumerate(zip(np.split(layer, ends[:-1], axis=1), ends, strict=True)):
            pairs.append(np.add(linear_sum_assignment(own), [[index * queries], [end - own.shape[1]]]))
        found.append(np.concatenate(pairs, axis=1))
    return [(rows, columns) for rows, columns in torch.from_numpy(np.stack(found)).to(device)]
