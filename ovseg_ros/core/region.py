"""A region of interest: only a part of the image is segmented, and the maps still have the size of all of it."""

from dataclasses import dataclass, replace

import numpy as np

from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in pixels. A width or height of 0 reaches to the image's edge, so that all zeros are the whole image.

    Raises:
        ImageError: a number is negative.
    """

    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        if min(self.x, self.y, self.width, self.height) < 0:
            raise ImageError(f"{self} has a negative number; give x, y, width and height in pixels, 0 or more")

    @property
    def is_whole(self) -> bool:
        """Whether it covers images of every size."""
        return self == Region()

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The part of (H, W, ...) inside the region, a view; ImageError if image and region have no pixel in common."""
        height, width = image.shape[:2]
        if self.x >= width or self.y >= height:
            raise ImageError(f"{self} lies outside the image of {width}x{height} pixels; move it inside")
        return image[self.y : self.y + (self.height or height), self.x : self.x + (self.width or width)]

    def place(self, result: PanopticResult, size: tuple[int, int]) -> PanopticResult:
        """The result of the cropped part as one of the whole image (H, W); what is outside the region is void."""
        if self.is_whole:
            return result
        rows, columns = result.segment_ids.shape
        inside = np.s_[self.y : self.y + rows, self.x : self.x + columns]

        def spread(part: np.ndarray, outside: int) -> np.ndarray:
            whole = np.full(size, outside, part.dtype)
            whole[inside] = part
            return whole

        return replace(
            result,
            segment_ids=spread(result.segment_ids, 0),
            category_ids=spread(result.category_ids, NO_CATEGORY),
            confidence=spread(result.confidence, 0),
            segments=tuple(
                replace(s, box=(s.box[0] + self.x, s.box[1] + self.y, s.box[2], s.box[3])) for s in result.segments
            ),
        )
