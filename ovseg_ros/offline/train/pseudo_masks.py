"""Masks for captioned photos by the trained mask generator, without labels or ground truth (after OVSeg, 2023).

The generator knows what a segment is, not what it is called. A photo framed around an object gets the proposal whose
box agrees best with the frame.
"""

import numpy as np
import torch
from torch import nn
from torchvision.ops import box_iou
from tqdm import tqdm

from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize

MIN_OBJECTNESS = 0.5
MIN_BOX_IOU = 0.6
_BATCH = 8


@torch.inference_mode()
def propose_masks(
    generator: nn.Module, images: np.ndarray, boxes: list[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The masks that fit boxes.

    Args:
        generator: images -> MaskProposals, in evaluation mode.
        images: uint8 RGB (N, H, W, 3), H and W multiples of its patch size.
        boxes: N arrays (M, 4) of left, top, right, bottom in pixels; M may differ and be 0.

    Returns:
        For every image, `masks` (M, h, w) bool at the generator's resolution and `fits` (M,) bool: whether any proposal
        agrees with the box at all. Where none does, the mask is empty.
    """
    found = []
    # A generator without parameters runs anywhere.
    device = next((parameter.device for parameter in generator.parameters()), torch.device("cpu"))
    for start in tqdm(range(0, len(images), _BATCH), desc="pseudo-masks", unit="batch", mininterval=5):
        pixels = torch.from_numpy(images[start : start + _BATCH]).to(device).permute(0, 3, 1, 2).float() / 255
        proposals = generator(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD))
        likely = (proposals.objectness > MIN_OBJECTNESS).cpu().numpy()  # (B, Q)
        masks = (proposals.mask_logits > 0).cpu().numpy()  # (B, Q, h, w)
        for index, wanted in enumerate(boxes[start : start + _BATCH]):
            found.append(_fit(masks[index][likely[index]], wanted, images.shape[1:3]))
    return found


def _fit(masks: np.ndarray, wanted: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Best of `masks` (P, h, w) for each wanted box (M, 4)."""
    height, width = masks.shape[1:]
    scale = np.array([size[1] / width, size[0] / height] * 2)
    masks = masks[masks.any(axis=(1, 2))]
    if not len(masks) or not len(wanted):
        return np.zeros((len(wanted), height, width), dtype=bool), np.zeros(len(wanted), dtype=bool)
    proposed = np.stack([_box(mask) for mask in masks]) * scale
    overlaps = box_iou(torch.from_numpy(wanted.astype(np.float64)), torch.from_numpy(proposed)).numpy()  # (M, P)
    fits = overlaps.max(axis=1) >= MIN_BOX_IOU
    return masks[overlaps.argmax(axis=1)] & fits[:, None, None], fits


def _box(mask: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom of a mask that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
