"""The pinhole camera: which ray belongs to which pixel, and back-projection of depth.

Everything is in the camera's optical frame of REP 103: x right, y down, z forward, metres. Pixel centres are at
integers, as in sensor_msgs/CameraInfo.
"""

import math
from dataclasses import dataclass

import numpy as np

from ovseg_ros.core.errors import DepthError

_ASPECT_TOLERANCE = 0.01  # of images of the same view


@dataclass(frozen=True, slots=True)
class Pinhole:
    """Intrinsics of an undistorted camera, in pixels of a `width` x `height` image.

    Raises:
        DepthError: a focal length is not positive or a value is not finite (an uncalibrated camera).
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        if (
            not all(math.isfinite(value) for value in (self.fx, self.fy, self.cx, self.cy))
            or min(self.fx, self.fy) <= 0
        ):
            raise DepthError(
                f"the camera is not calibrated: fx {self.fx}, fy {self.fy}, cx {self.cx}, cy {self.cy}; "
                "expected finite values and focal lengths above 0"
            )
        if min(self.width, self.height) < 1:
            raise DepthError(
                f"the calibration is for an image of {self.width}x{self.height} pixels; expected 1x1 or more"
            )

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, width: int, height: int) -> "Pinhole":
        """From a camera matrix, of which only fx, fy, cx and cy are read: (3, 3), or (3, 4) for a projection matrix."""
        return cls(
            float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]), int(width), int(height)
        )

    def cropped(self, x: int, y: int, width: int, height: int) -> "Pinhole":
        """The camera of a part of the image, whose first pixel is (x, y)."""
        return Pinhole(self.fx, self.fy, self.cx - x, self.cy - y, width, height)

    def resized(self, width: int, height: int) -> "Pinhole":
        """The camera of the same view at another resolution; DepthError if it is another view, by its aspect ratio."""
        if (width, height) == (self.width, self.height):
            return self
        x_scale, y_scale = width / self.width, height / self.height
        if abs(x_scale / y_scale - 1) > _ASPECT_TOLERANCE:
            raise DepthError(
                f"the calibration is for {self.width}x{self.height} pixels and the image has {width}x{height}: another "
                "aspect ratio, so it is not the same view; use the camera_info that belongs to this image"
            )
        return Pinhole(
            self.fx * x_scale,
            self.fy * y_scale,
            (self.cx + 0.5) * x_scale - 0.5,  # the image's edge, not its first pixel's centre, stays at 0
            (self.cy + 0.5) * y_scale - 0.5,
            width,
            height,
        )

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """x / z of each column (W,) and y / z of each row (H,), float32."""
        columns = (np.arange(self.width) - self.cx) / self.fx
        rows = (np.arange(self.height) - self.cy) / self.fy
        return columns.astype(np.float32), rows.astype(np.float32)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest column and row of points (N, 3) with z > 0, int64, perhaps outside the image."""
        columns = points[:, 0] / points[:, 2] * self.fx + self.cx
        rows = points[:, 1] / points[:, 2] * self.fy + self.cy
        return np.rint(columns).astype(np.int64), np.rint(rows).astype(np.int64)


def fit_depth(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """Aligned depth (H, W) at the image's resolution, by the nearest reading: a mean of two surfaces would lie on none.

    DepthError if they are different views, by their aspect ratios.
    """
    rows, columns = depth.shape
    if (columns, rows) == (width, height):
        return depth
    if abs((width / columns) / (height / rows) - 1) > _ASPECT_TOLERANCE:
        raise DepthError(
            f"depth has {columns}x{rows} pixels and the image {width}x{height}: another aspect ratio, so they do not "
            "show the same view; use depth that is aligned to (registered with) the colour image"
        )
    row = ((np.arange(height) + 0.5) * rows / height).astype(np.intp)
    column = ((np.arange(width) + 0.5) * columns / width).astype(np.intp)
    return depth[row[:, None], column]
