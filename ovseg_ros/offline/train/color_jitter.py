"""Random colours of a view, as SSD's (Liu et al., "SSD: Single Shot MultiBox Detector", 2016)."""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ovseg_ros.core.config import STRICT

Factor = Annotated[float, Field(ge=0, le=16)]
Range = tuple[Factor, Factor]


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class ColorJitterConfig:
    """Four changes, each drawn with probability 1/2, contrast before or after saturation and hue.

    Attributes:
        brightness: largest shift of red, green and blue, in steps of 0 to 255.
        contrast: range of the factor on red, green and blue.
        saturation: range of the factor on the saturation (HSV).
        hue: largest turn of the hue, in degrees.
    """

    brightness: Annotated[float, Field(ge=0, le=255)] = 32.0
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: Annotated[float, Field(ge=0, le=180)] = 36.0

    def __post_init__(self) -> None:
        for name, ends in (("contrast", self.contrast), ("saturation", self.saturation)):
            if ends[0] > ends[1]:
                raise ValueError(f"{name} must be an ascending range, got {ends}")


@dataclass(frozen=True, slots=True)
class ColorChange:
    """What was drawn: brightness first, then contrast, saturation and hue, or contrast last.

    Attributes:
        brightness: added to red, green and blue, in steps of 0 to 255.
        contrast, saturation: factors.
        hue: degrees.
        contrast_last: whether contrast comes after saturation and hue.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_last: bool = False

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 RGB (H, W, 3) -> the same, changed; each step is cut off at black and at full colour."""
        pixels = np.clip((image.astype(np.float32) + self.brightness) / 255, 0, 1, dtype=np.float32)
        if not self.contrast_last:
            pixels = np.minimum(pixels * self.contrast, 1)
        if self.saturation != 1 or self.hue:
            hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)  # hue in degrees, the rest in [0, 1]
            hsv[..., 0] = (hsv[..., 0] + self.hue) % 360
            hsv[..., 1] = np.minimum(hsv[..., 1] * self.saturation, 1)
            pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if self.contrast_last:
            pixels = np.minimum(pixels * self.contrast, 1)
        return np.rint(pixels * 255).astype(np.uint8)


def draw_colors(config: ColorJitterConfig, rng: np.random.Generator) -> ColorChange:
    """A random change; takes nine draws, whichever changes they choose."""
    chosen = rng.random(4) < 0.5
    brightness = rng.uniform(-config.brightness, config.brightness)
    contrast, saturation = rng.uniform(*config.contrast), rng.uniform(*config.saturation)
    hue = rng.uniform(-config.hue, config.hue)
    return ColorChange(
        float(brightness) if chosen[0] else 0.0,
        float(contrast) if chosen[1] else 1.0,
        float(saturation) if chosen[2] else 1.0,
        float(hue) if chosen[3] else 0.0,
        bool(rng.random() < 0.5),
    )
