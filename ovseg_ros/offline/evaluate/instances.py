"""Masks and their class scores as detections of things, for average precision."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch import Tensor

from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.evaluate.truth import Truth

MAX_DETECTIONS = 100
"""Detections of one image, as in COCO's evaluation."""


class Instance(NamedTuple):
    """A detected or a true thing.

    Attributes:
        rle: COCO's compressed run-length code of its mask (H, W).
        score: of a detection, in [0, 1]; 1 for the truth.
        is_crowd: of the truth: a region of several things.
    """

    category: int
    rle: str
    score: float = 1.0
    is_crowd: bool = False


@torch.inference_mode()
def detected_instances(
    mask_logits: Tensor, class_logits: Tensor, vocabulary: Vocabulary, size: tuple[int, int]
) -> tuple[Instance, ...]:
    """The likeliest (query, category) pairs as detections; a query may be detected as several categories.

    As in Mask2Former: the 100 highest class probabilities over all queries and categories, of which those of things
    are kept; a mask is where its logit is above 0; its score is the class probability times the mean mask probability
    inside the mask. Empty masks are left out.

    Args:
        mask_logits: (Q, h, w) before the sigmoid, covering the image.
        class_logits: (Q, K + 1) before the softmax, the last is "no object".
        vocabulary: its K categories, in the order of the logits.
        size: (H, W) of the image in pixels.
    """
    probabilities = class_logits.float().softmax(dim=-1)[:, :-1].nan_to_num(nan=0.0)  # (Q, K)
    highest, places = probabilities.flatten().topk(min(MAX_DETECTIONS, probabilities.numel()))
    masks: dict[int, tuple[float, str]] = {}
    found = []
    for place, probability in zip(places.tolist(), highest.tolist(), strict=True):
        query, index = divmod(place, probabilities.shape[1])
        category = vocabulary.categories[index]
        if not category.is_thing or category.negative or probability <= 0:
            continue
        if query not in masks:
            masks[query] = _quality_and_code(mask_logits[query], size)
        quality, rle = masks[query]
        if quality > 0:
            found.append(Instance(category.id, rle, probability * quality))
    return tuple(found)


def true_instances(truth: Truth, vocabulary: Vocabulary) -> tuple[Instance, ...]:
    """The things of a panoptic truth, crowd regions marked; those without a pixel are left out."""
    return tuple(
        Instance(truth.categories[segment], _code(truth.segment_ids == segment), is_crowd=segment in truth.crowd_ids)
        for segment in truth.visible
        if vocabulary.categories[truth.categories[segment]].is_thing
    )


def upsampled_masks(mask_logits: Tensor, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Each query's mask (H, W) bool at the image's size, one at a time, so that memory does not grow with queries."""
    for logits in mask_logits:
        yield (_upsampled(logits, size) > 0).cpu().numpy()


def _upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits.float()[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]


def _quality_and_code(logits: Tensor, size: tuple[int, int]) -> tuple[float, str]:
    upsampled = _upsampled(logits, size)
    inside = upsampled > 0
    area = int(inside.sum())
    if area == 0:
        return 0.0, ""
    return float(upsampled.sigmoid()[inside].double().mean()), _code(inside.cpu().numpy())


def _code(mask: np.ndarray) -> str:
    return str(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii"))
