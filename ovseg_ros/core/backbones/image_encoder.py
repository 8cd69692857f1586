"""What encoders of whole images have in common, whatever network they are."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class ImageEncoder(nn.Module, ABC):
    """Features of images on a grid, whose network may be run by an engine.

    Attributes:
        width: channels of the features.
    """

    width: int

    @abstractmethod
    def pixels(self, images: Tensor) -> Tensor:
        """What the network takes, in float32, of images (B, 3, H, W) in [0, 1] of any size."""

    @abstractmethod
    def features(self, pixels: Tensor) -> Tensor:
        """(B, width, rows, columns) of what `pixels` made, in any precision."""

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, width, rows, columns) of images (B, 3, H, W) in [0, 1], of any size."""
        return self.features(self.pixels(images))
