"""Images as networks take them."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.engine.precision import Float32Island
from ovseg_ros.core.engine.transfers import start_upload
from ovseg_ros.core.errors import ImageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLACK = (0.0, 0.0, 0.0)
_STRIDE = 4  # of masks, which stay aligned to the image


def check_image(image: np.ndarray) -> None:
    """Refuse, by an ImageError, anything but a non-empty uint8 RGB image (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(f"expected a non-empty uint8 RGB image (H, W, 3), got {image.dtype} {image.shape}")


def to_tensor(image: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (H, W, 3) -> float (1, 3, H, W) in [0, 1]; see `to_tensors`."""
    return to_tensors([image], device)


def to_tensors(images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """B of uint8 (H, W, 3) -> float (B, 3, H, W) in [0, 1]; converted on the device: a quarter of the bytes travel."""
    pixels = start_upload(images, device) if device.type != "cpu" else torch.from_numpy(_stacked(images))
    return pixels.permute(0, 3, 1, 2).float() / 255


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """(B, H, W, 3), of one image without a copy where torch takes it as it is."""
    image = images[0]
    # A flipped side of one pixel counts as contiguous. A bag's messages cannot be written to, which torch warns of.
    if len(images) == 1 and image.flags.c_contiguous and min(image.strides) >= 0 and image.flags.writeable:
        return image[None]
    return np.stack(images)


def fit(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) scaled to the largest size inside `size` of nearly its aspect ratio, in multiples of 4 pixels."""
    height, width = pixels.shape[-2:]
    scale = min(size[0] / height, size[1] / width)
    fitted = [max(_STRIDE, round(side * scale / _STRIDE) * _STRIDE) for side in (height, width)]
    if fitted == [height, width]:
        return pixels
    return F.interpolate(pixels, size=fitted, mode="bilinear", align_corners=False, antialias=scale < 1)


def squash(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) scaled to a size, whatever its aspect ratio."""
    height, width = pixels.shape[-2:]
    if (height, width) == size:
        return pixels
    shrinks = height > size[0] or width > size[1]
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=shrinks)


def pad(pixels: Tensor, size: tuple[int, int], color: tuple[float, float, float]) -> Tensor:
    """(B, 3, h, w) at the top left of a canvas (B, 3, *size) of one colour, RGB in [0, 1]."""
    height, width = pixels.shape[-2:]
    if (height, width) == size:
        return pixels
    canvas = torch.tensor(color, device=pixels.device)[:, None, None].expand(len(pixels), 3, *size).clone()
    canvas[..., :height, :width] = pixels
    return canvas


class Canvas(Float32Island):
    """Normalised images, on a canvas of one colour if they are smaller. Its constants are on the model's device."""

    shift: Tensor
    scale: Tensor
    color: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        color: tuple[float, float, float] = BLACK,
    ) -> None:
        """`mean`, `std` of channels in [0, 1], and the canvas's `color` in the same."""
        super().__init__()
        for name, values in (("shift", mean), ("scale", std), ("color", color)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, 3, h, w) in [0, 1] -> (B, 3, *size), the image at the top left; None for its own size."""
        height, width = pixels.shape[-2:]
        if size is not None and (height, width) != size:
            canvas = self.color.expand(len(pixels), 3, *size).clone()
            canvas[..., :height, :width] = pixels
            pixels = canvas
        return (pixels - self.shift) / self.scale


def normalize(images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Channel-wise standardisation of (B, 3, H, W) in [0, 1]."""
    shift = torch.tensor(mean, device=images.device, dtype=images.dtype)[:, None, None]
    scale = torch.tensor(std, device=images.device, dtype=images.dtype)[:, None, None]
    return (images - shift) / scale
