"""Random views of an image: how each is scaled, flipped, cut out and coloured, alike for its segments and masks."""

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor

from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.offline.data.types import VOID, PanopticSample
from ovseg_ros.offline.train.color_jitter import ColorChange, ColorJitterConfig, draw_colors

OUTSIDE_LOGIT = -20.0
"""Of a mask where a view shows padding."""
_ATTEMPTS = 10
"""Views drawn until one shows a segment; the last is taken in any case."""

Side = Annotated[int, Field(ge=1, le=8192)]
Size = tuple[Side, Side]
Factor = Annotated[float, Field(gt=0, le=16)]
Range = tuple[Factor, Factor]
Level = Annotated[int, Field(ge=0, le=255)]


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class JitterConfig:
    """Large-scale jitter (Ghiasi et al., "Simple Copy-Paste", 2021), drawn again while a view shows no segment.

    Attributes:
        size: (height, width) of a view in pixels.
        scale: range of the size of the image, as a multiple of what just fits into the view.
        flip: probability of a mirrored view.
        padding: red, green and blue of what an image leaves free, 0 to 255.
        colors: random colours of the image, not of the padding; None = as they are.
    """

    size: Size
    scale: Range = (0.1, 2.0)
    flip: Share = 0.5
    padding: tuple[Level, Level, Level] = (0, 0, 0)
    colors: ColorJitterConfig | None = None
    kind: Literal["jitter"] = "jitter"

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be an ascending range, got {self.scale}")


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class ShortSideConfig:
    """Crops of an image whose short side has one of some lengths; drawn again while a view shows no segment.

    Attributes:
        size: (height, width) of a view in pixels.
        sides: lengths of the image's short side in pixels, drawn evenly.
        flip, padding, colors: as of `JitterConfig`.
    """

    size: Size
    sides: Annotated[tuple[Side, ...], Field(min_length=1)]
    flip: Share = 0.5
    padding: tuple[Level, Level, Level] = (0, 0, 0)
    colors: ColorJitterConfig | None = None
    kind: Literal["short_side"] = "short_side"


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class CropPhase:
    """Until `until` (share of the steps), views are crops of `size` (height, width)."""

    until: Share
    size: Size


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class CropsConfig:
    """Random crops at the image's own scale, and a random exposure.

    Attributes:
        phases: crop sizes over time. Small crops first: several times the steps for the same work.
        flip: probability of a mirrored view.
        gain: range of the factor on all colours.
        tint: range of a second factor on each colour by itself.
    """

    phases: Annotated[tuple[CropPhase, ...], Field(min_length=1)]
    flip: Share = 0.5
    gain: Range = (0.75, 1.25)
    tint: Range = (0.94, 1.06)
    kind: Literal["crops"] = "crops"

    def __post_init__(self) -> None:
        ends = [phase.until for phase in self.phases]
        if ends != sorted(ends) or ends[-1] != 1:
            raise ValueError(f"the phases must follow each other and the last one last until 1, got {ends}")


AugmentationConfig = Annotated[JitterConfig | ShortSideConfig | CropsConfig, Field(discriminator="kind")]


def view_sizes(config: AugmentationConfig) -> list[tuple[int, int]]:
    """Every (height, width) that views have in a training."""
    return [phase.size for phase in config.phases] if isinstance(config, CropsConfig) else [config.size]


@dataclass(frozen=True, slots=True)
class View:
    """How an image becomes a view: mirrored if `flipped`, resized, cut out at (top, left), padded right and below.

    Attributes:
        resized: (height, width) of the whole image, pixels.
        top, left: of the cut in the resized image, pixels.
        size: (height, width) of the view, pixels.
        exposure: factors on red, green and blue; None leaves the pixels as they are.
        padding: red, green and blue, 0 to 255.
        colors: how the pixels of the image change, those of the padding not; None leaves them as they are.
    """

    resized: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]
    flipped: bool
    exposure: tuple[float, float, float] | None = None
    padding: tuple[int, int, int] = (0, 0, 0)
    colors: ColorChange | None = None

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> RGB of the view's size: uint8, or float32 in [0, 1] if exposed."""
        shrinks = self.resized[0] < image.shape[0]
        cut = self._cut(image, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR, self.padding)
        if self.colors is not None:
            shown = cut[: self.resized[0] - self.top, : self.resized[1] - self.left]
            shown[:] = self.colors.of_image(shown)
        if self.exposure is None:
            return cut
        return np.clip(cut * (np.array(self.exposure) / 255).astype(np.float32), 0, 1, dtype=np.float32)

    def of_segments(self, segment_ids: np.ndarray) -> np.ndarray:
        """Integers (H, W), or bool -> those of the view's size, void where padded."""
        down, across = (
            _nearest(have, whole)[start : start + side]
            for have, whole, start, side in zip(
                segment_ids.shape, self.resized, (self.top, self.left), self.size, strict=True
            )
        )
        if self.flipped:
            across = segment_ids.shape[1] - 1 - across
        view = np.full(self.size, VOID, dtype=segment_ids.dtype)
        view[: len(down), : len(across)] = segment_ids.take(across, axis=1).take(down, axis=0)
        return view

    def of_masks(self, mask_logits: Tensor, stride: int) -> Tensor:
        """Mask logits (Q, h, w) that cover the whole image -> (Q, size / stride) float32 that cover the view.

        Args:
            stride: pixels of the view to one of the result; divides its size.
        """
        if not len(mask_logits):
            return mask_logits.new_zeros(0, self.size[0] // stride, self.size[1] // stride)
        # Centres of the result's cells along both axes, in grid_sample's [-1, 1] over the whole image.
        down, across = (
            2 * (start + (torch.arange(side // stride, device=mask_logits.device).float() + 0.5) * stride) / whole - 1
            for start, side, whole in zip((self.top, self.left), self.size, self.resized, strict=True)
        )
        if self.flipped:
            across = torch.where(across.abs() <= 1, -across, across)
        grid = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], dim=-1)  # (rows, columns, xy)
        outside = (grid.abs() > 1).any(dim=-1)
        masks = F.grid_sample(mask_logits.float()[None], grid[None], padding_mode="border", align_corners=False)[0]
        return masks.masked_fill(outside, OUTSIDE_LOGIT)

    def _cut(self, pixels: np.ndarray, method: int, padding: tuple[int, int, int]) -> np.ndarray:
        if self.flipped:
            pixels = pixels[:, ::-1]
        resized = cv2.resize(np.ascontiguousarray(pixels), self.resized[::-1], interpolation=method)
        cut = resized[self.top : self.top + self.size[0], self.left : self.left + self.size[1]]
        rows, columns = cut.shape[:2]
        view = np.empty((*self.size, *pixels.shape[2:]), dtype=pixels.dtype)
        free = padding[0] if len(set(padding)) == 1 else padding  # one value is written several times as fast
        view[:rows, :columns], view[:rows, columns:], view[rows:] = cut, free, free
        return view


def _nearest(have: int, want: int) -> np.ndarray:
    """Which of `have` pixels along a side each of `want` pixels shows, the nearest: (want,) int32."""
    places = np.arange(have, dtype=np.int32)[None]
    return cv2.resize(places, (want, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]


def draw_view(sample: PanopticSample, config: AugmentationConfig, rng: np.random.Generator, progress: float) -> View:
    """A random view of a sample at a share of the steps, in [0, 1)."""
    height, width = sample.segment_ids.shape
    match config:
        case JitterConfig() | ShortSideConfig():
            wanted = [segment.id for segment in sample.segments if not segment.is_crowd]
            is_wanted = np.isin(sample.segment_ids, wanted)
            for _ in range(_ATTEMPTS):
                view = draw_jitter((height, width), config, rng)
                if view.of_segments(is_wanted).any():
                    break
            return view
        case CropsConfig():
            rows, columns = next(phase.size for phase in config.phases if progress < phase.until)
            top, left = int(rng.integers(max(0, height - rows) + 1)), int(rng.integers(max(0, width - columns) + 1))
            flipped = bool(rng.random() < config.flip)
            exposure = rng.uniform(*config.gain) * rng.uniform(*config.tint, size=3)
            left = max(0, width - columns - left) if flipped else left  # the cut comes after the flip
            return View((height, width), top, left, (rows, columns), flipped, tuple(exposure.tolist()))


def whole_view(image_size: tuple[int, int], config: AugmentationConfig) -> View:
    """All of an image of `image_size` (height, width), as it is, as large as fits into the last views of a training."""
    size = view_sizes(config)[-1]
    scale = min(want / have for want, have in zip(size, image_size, strict=True))
    rows, columns = (max(1, round(side * scale)) for side in image_size)
    padding = (0, 0, 0) if isinstance(config, CropsConfig) else config.padding
    return View((rows, columns), 0, 0, size, flipped=False, padding=padding)


def draw_jitter(image_size: tuple[int, int], config: JitterConfig | ShortSideConfig, rng: np.random.Generator) -> View:
    """A random view of an image of `image_size` (height, width)."""
    if isinstance(config, JitterConfig):
        fitting = min(want / have for want, have in zip(config.size, image_size, strict=True))
        scale = rng.uniform(*config.scale) * fitting
    else:
        scale = config.sides[rng.integers(len(config.sides))] / min(image_size)
    rows, columns = (max(1, round(side * scale)) for side in image_size)
    top, left = (
        int(rng.integers(max(0, have - want) + 1)) for want, have in zip(config.size, (rows, columns), strict=True)
    )
    flipped = bool(rng.random() < config.flip)
    colors = draw_colors(config.colors, rng) if config.colors is not None else None
    return View((rows, columns), top, left, config.size, flipped, padding=config.padding, colors=colors)
