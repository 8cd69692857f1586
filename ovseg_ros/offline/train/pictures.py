"""Pictures of a training: what the model finds, beside what it should."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.draw import draw_segments
from ovseg_ros.offline.data.types import VOID

_MIN_PROBABILITY = 0.5


def label_map(mask_logits: Tensor, class_logits: Tensor, size: Sequence[int]) -> Tensor:
    """Every pixel's most probable query, counted from 1: (H, W) int32 on the CPU; void where no mask covers it.

    Args:
        mask_logits: (Q, h, w).
        class_logits: (Q, N + 1), the last is "no object"; queries that are most likely that are left out.
        size: (height, width) of the result.
    """
    scores, classes = class_logits.float().softmax(dim=-1).max(dim=-1)
    kept = classes < class_logits.shape[-1] - 1
    if not kept.any():
        return torch.full(tuple(size), VOID, dtype=torch.int32)
    logits = F.interpolate(mask_logits[kept].float()[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    probabilities = logits.sigmoid()  # (K, H, W)
    best = (probabilities * scores[kept, None, None]).argmax(dim=0)
    covered = probabilities.gather(0, best[None])[0] >= _MIN_PROBABILITY
    numbers = torch.nonzero(kept)[:, 0] + 1
    return torch.where(covered, numbers[best], VOID).to(torch.int32).cpu()


def compare_segments(image: Tensor, wanted: Tensor, found: Tensor) -> np.ndarray:
    """Image, ground truth and prediction side by side: uint8 RGB (H, 3 W, 3).

    Args:
        image: (3, H, W), uint8 or in [0, 1].
        wanted, found: segment ids (H, W); 0 = void.
    """
    image = (255 * image).byte() if image.is_floating_point() else image
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    drawn = [pixels]
    for ids in (wanted, found):
        # The ids of a data set may be too large for a picture's 16 bits.
        numbers, places = np.unique(ids.cpu().numpy(), return_inverse=True)
        shown = (places.reshape(ids.shape) + 1).astype(np.uint16)
        labels = {place: str(number) for place, number in enumerate(numbers, start=1) if number != VOID}
        drawn.append(draw_segments(pixels, shown, labels, show_labels=False))
    return np.concatenate(drawn, axis=1)


def compare_names(
    image: Tensor, mask_logits: Tensor, wanted: Sequence[str], found: Sequence[str], *, scale: int = 1
) -> np.ndarray:
    """An image's masks under the names that they should have, beside those that they get.

    Args:
        image: uint8 (3, H, W).
        mask_logits: (N, h, w), covering the image; where several overlap the smallest is seen. N may be 0.
        wanted, found: N names each.
        scale: enlarges the picture, to uint8 RGB (H * scale, 2 W * scale, 3).
    """
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    ids = np.zeros(pixels.shape[:2], np.uint16)
    if len(mask_logits):
        logits = F.interpolate(mask_logits.float()[None], size=ids.shape, mode="bilinear", align_corners=False)[0]
        inside = (logits >= 0).cpu().numpy()  # (N, H, W)
        for index in np.argsort(-inside.sum(axis=(1, 2)), kind="stable"):
            ids[inside[index]] = index + 1
    drawn = [draw_segments(pixels, ids, dict(enumerate(names, start=1)), scale=scale) for names in (wanted, found)]
    return np.concatenate(drawn, axis=1)
