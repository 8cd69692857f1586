"""Masks and their class scores as one category for every pixel, as MaskFormer and its successors do it."""

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.merge import upsampled_bands
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import Vocabulary

# Most scores (categories x pixels) or mask values held at once.
_BAND_ELEMENTS = 1 << 23


@torch.inference_mode()
def semantic_map(
    mask_logits: Tensor, class_logits: Tensor, vocabulary: Vocabulary, size: tuple[int, int]
) -> np.ndarray:
    """The category with the highest score at every pixel.

    A category's score at a pixel is the sum over queries of its probability times the mask probability. "No object" has
    its share in the softmax but is no category. Scores exist at the output's resolution before the highest is taken;
    labels are never resized.

    Args:
        mask_logits: (Q, h, w) before the sigmoid, covering the image; resized bilinearly.
        class_logits: (Q, K + 1) before the softmax, the last is "no object".
        vocabulary: its K categories, in the order of the logits.
        size: (H, W) of the output in pixels.

    Returns:
        (H, W) uint16 category ids; `NO_CATEGORY` where every score is zero, as without any query, or where a negative
        has the highest.
    """
    probabilities = class_logits.float().softmax(dim=-1)[:, :-1].nan_to_num(nan=0.0)  # (Q, K)
    counts = probabilities.sum(dim=1) > 0
    probabilities, mask_logits = probabilities[counts], mask_logits[counts]
    output = np.full(size, NO_CATEGORY, dtype=np.uint16)
    if len(probabilities) == 0:
        return output
    ids = [NO_CATEGORY if category.negative else category.id for category in vocabulary.categories]
    id_of_index = np.array(ids, dtype=np.uint16)
    rows = max(1, _BAND_ELEMENTS // (max(probabilities.shape) * size[1]))
    for top, _, logits in upsampled_bands(mask_logits, size, rows):
        scores = torch.einsum("qk,qrw->krw", probabilities, logits.sigmoid_())  # (K, rows, W)
        best, index = scores.max(dim=0)
        band = id_of_index[index.cpu().numpy()]
        band[(best <= 0).cpu().numpy()] = NO_CATEGORY
        output[top : top + len(band)] = band
    return output
