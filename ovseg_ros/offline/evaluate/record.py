"""What one image contributes to every figure: counts and run-length codes, never averages.

All figures are computed from the records of all images, ordered by name. So it makes no difference which process
evaluated an image, or when.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import NamedTuple

from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.metrics.panoptic_quality import CategoryCounts
from ovseg_ros.offline.evaluate.instances import Instance


class KeptSegment(NamedTuple):
    """A segment of a prediction: id in its PNG, the category's own id, confidence in [0, 1], pixels, x y w h."""

    id: int
    category_id: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, config=STRICT)
class Kept:
    """An image's prediction in files, and what the index of all of them says of it.

    Attributes:
        image_id, image: the id and the file of the photograph, as the data set has them.
        file: of the prediction, in `panoptic/` and `semantic/`.
        segments: of the panoptic prediction.
    """

    image_id: int | str
    image: str
    file: str
    segments: tuple[KeptSegment, ...] = ()


@dataclass(frozen=True, slots=True, config=STRICT)
class ImageRecord:
    """One image's counts.

    Attributes:
        name: of the image, unique within the split.
        fault: why the image could not be evaluated, or "". With a fault there are no counts.
        is_void: whether the truth has nothing to find. Then there are no counts either.
        size: (H, W) in pixels.
        quality: of each category, its matches and errors.
        unnamed: the same where all segments are of one category, 0.
        renamed: as `quality`, under each vocabulary of held-out names.
        pixels: of each category, its pixels in prediction and truth, in the prediction, in the truth; each where the
            truth is labelled.
        recall: true segments; how many of them a proposal covers with an IoU of at least 0.5 and 0.75; and how many of
            them a final segment covers with at least 0.5.
        confusion: (true category, predicted category, how often segments of them have matching masks).
        classified: proposals whose category is known for certain, as with oracle masks, and how many of them have
            their highest class score there.
        detections, instances: detected and true things; detected ones also of a void image whose prediction is kept.
        kept: its prediction, if such are kept.
        seconds: from the image to its segments; 0 where an oracle took part.
    """

    name: str
    fault: str = ""
    is_void: bool = False
    size: tuple[int, int] = (0, 0)
    quality: tuple[CategoryCounts, ...] = ()
    unnamed: tuple[CategoryCounts, ...] = ()
    renamed: Mapping[str, tuple[CategoryCounts, ...]] = field(default_factory=dict)
    pixels: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    recall: tuple[int, int, int, int] = (0, 0, 0, 0)
    confusion: tuple[tuple[int, int, int], ...] = ()
    classified: tuple[int, int] = (0, 0)
    detections: tuple[Instance, ...] = ()
    instances: tuple[Instance, ...] = ()
    seconds: float = 0.0
    kept: Kept | None = None

    @property
    def is_counted(self) -> bool:
        """Whether the image has counts."""
        return not self.fault and not self.is_void
