"""The merge's thresholds."""

from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class MergeConfig:
    """When a mask becomes a segment.

    Attributes:
        object_threshold: a query counts if its best category's probability is above this, in [0, 1].
        overlap_threshold: a query is dropped if it wins less than this fraction of its own mask, in [0, 1].
        mask_threshold: a pixel belongs to a mask from this mask probability on, in [0, 1].
        min_area: smallest published segment, in pixels of the output.
    """

    object_threshold: Share = 0.4
    overlap_threshold: Share = 0.7
    mask_threshold: Share = 0.5
    min_area: NonNegativeInt = 32
