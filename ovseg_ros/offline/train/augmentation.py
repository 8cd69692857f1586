"""Large-scale jitter: a random scale, flip and crop, the same for an image, its segments and masks proposed for it."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.offline.data.types import VOID

OUTSIDE_LOGIT = -20.0
"""Of a mask where a view shows padding."""


@dataclass(frozen=True, slots=True)
class JitterConfig:
    """Random views of an image (Ghiasi et al., "Simple Copy-Paste", 2021).

    Attributes:
        size: (height, width) of a view in pixels.
        scale: range of the size of the image, as a multiple of what just fits into the view.
        flip: probability of a mirrored view.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if min(self.size) < 1 or not 0 < self.scale[0] <= self.scale[1] or not 0 <= self.flip <= 1:
            raise ValueError(
                "size must be 1 or more, scale an ascending range above 0 and flip in [0, 1], got "
                f"{self.size}, {self.scale} and {self.flip}"
            )


@dataclass(frozen=True, slots=True)
class View:
    """How an image becomes a view: mirrored if `flipped`, resized, cut out at (top, left), padded right and below.

    Attributes:
        resized: (height, width) of the whole image, pixels.
        top, left: of the cut in the resized image, pixels.
        size: (height, width) of the view, pixels.
    """

    resized: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]
    flipped: bool

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> uint8 RGB of the view's size, black where padded."""
        shrinks = self.resized[0] < image.shape[0]
        return self._cut(image, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def of_segments(self, segment_ids: np.ndarray) -> np.ndarray:
        """int32 (H, W) -> int32 of the view's size, void where padded."""
        return self._cut(segment_ids, cv2.INTER_NEAREST_EXACT)

    def of_masks(self, mask_logits: Tensor, stride: int) -> Tensor:
        """Mask logits (Q, h, w) that cover the whole image -> (Q, size / stride) float32 that cover the view.

        Args:
            stride: pixels of the view to one of the result; divides its size.
        """
        if not len(mask_logits):
            return mask_logits.new_zeros(0, self.size[0] // stride, self.size[1] // stride)
        across = self._positions(self.left, self.size[1], self.resized[1], stride, mask_logits)
        down = self._positions(self.top, self.size[0], self.resized[0], stride, mask_logits)
        if self.flipped:
            across = torch.where(across.abs() <= 1, -across, across)
        grid = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], dim=-1)  # (rows, columns, xy)
        outside = (grid.abs() > 1).any(dim=-1)
        masks = F.grid_sample(mask_logits.float()[None], grid[None], padding_mode="border", align_corners=False)[0]
        return masks.masked_fill(outside, OUTSIDE_LOGIT)

    def _positions(self, start: int, size: int, whole: int, stride: int, like: Tensor) -> Tensor:
        """Centres of the result's cells along one axis, in grid_sample's [-1, 1] over the whole image."""
        cells = torch.arange(size // stride, device=like.device, dtype=torch.float32)
        return 2 * (start + (cells + 0.5) * stride) / whole - 1

    def _cut(self, pixels: np.ndarray, method: int) -> np.ndarray:
        if self.flipped:
            pixels = pixels[:, ::-1]
        resized = cv2.resize(np.ascontiguousarray(pixels), self.resized[::-1], interpolation=method)
        cut = resized[self.top : self.top + self.size[0], self.left : self.left + self.size[1]]
        view = np.zeros((*self.size, *pixels.shape[2:]), dtype=pixels.dtype)
        view[: cut.shape[0], : cut.shape[1]] = cut
        return view


def draw_view(image_size: tuple[int, int], config: JitterConfig, rng: np.random.Generator) -> View:
    """A random view of an image of `image_size` (height, width)."""
    scale = rng.uniform(*config.scale) * min(want / have for want, have in zip(config.size, image_size, strict=True))
    resized = tuple(max(1, round(side * scale)) for side in image_size)
    top, left = (int(rng.integers(max(0, have - want) + 1)) for want, have in zip(config.size, resized, strict=True))
    return View((resized[0], resized[1]), top, left, config.size, bool(rng.random() < config.flip))


def draw_view_with_segments(
    segment_ids: np.ndarray, wanted: np.ndarray, config: JitterConfig, rng: np.random.Generator, *, attempts: int = 10
) -> View:
    """A random view that shows some of the `wanted` segments; the last one drawn if `attempts` views show none."""
    shape = (segment_ids.shape[0], segment_ids.shape[1])
    for _ in range(attempts):
        view = draw_view(shape, config, rng)
        shown = view.of_segments(segment_ids)
        if np.isin(shown[shown != VOID], wanted).any():
            break
    return view
