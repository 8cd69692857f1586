"""What one image contributes to every figure: counts and run-length codes, never averages.

All figures are computed from the records of all images, ordered by name. So it makes no difference which process
evaluated an image, or when.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.panoptic_quality import CategoryQuality
from ovseg_ros.offline.evaluate.instances import Instance


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image's counts.

    Attributes:
        name: of the image, unique within the split.
        fault: why the image could not be evaluated, or "". With a fault there are no counts.
        is_void: whether the truth has nothing to find. Then there are no counts either.
        size: (H, W) in pixels.
        quality: of each category, its matches and errors.
        pixels: of each category, its pixels in prediction and truth, in the prediction, in the truth; each where the
            truth is labelled.
        recall: true segments, and how many of them a proposal covers with an IoU of at least 0.5 and 0.75.
        confusion: how often segments of (true category, predicted category) have matching masks.
        classified: proposals whose category is known for certain, as with oracle masks, and how many of them have
            their highest class score there.
        detections, instances: detected and true things.
    """

    name: str
    fault: str = ""
    is_void: bool = False
    size: tuple[int, int] = (0, 0)
    quality: Mapping[int, CategoryQuality] = field(default_factory=dict)
    pixels: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    recall: tuple[int, int, int] = (0, 0, 0)
    confusion: Mapping[tuple[int, int], int] = field(default_factory=dict)
    classified: tuple[int, int] = (0, 0)
    detections: tuple[Instance, ...] = ()
    instances: tuple[Instance, ...] = ()

    @property
    def is_counted(self) -> bool:
        """Whether the image has counts."""
        return not self.fault and not self.is_void

    def to_json(self) -> dict[str, Any]:
        """Numbers, texts and lists only; floats survive exactly, since JSON writes enough digits."""
        return {
            "name": self.name,
            "fault": self.fault,
            "is_void": self.is_void,
            "size": list(self.size),
            "quality": [[k, q.tp, q.fp, q.fn, q.iou] for k, q in self.quality.items()],
            "pixels": [[k, *counts] for k, counts in self.pixels.items()],
            "recall": list(self.recall),
            "confusion": [[*pair, count] for pair, count in self.confusion.items()],
            "classified": list(self.classified),
            "detections": [[i.category, i.score, i.rle] for i in self.detections],
            "instances": [[i.category, i.is_crowd, i.rle] for i in self.instances],
        }

    @classmethod
    def from_json(cls, value: Any) -> "ImageRecord":
        """The inverse.

        Raises:
            DatasetError: the value is not a record.
        """
        try:
            return cls(
                name=str(value["name"]),
                fault=str(value["fault"]),
                is_void=bool(value["is_void"]),
                size=(int(value["size"][0]), int(value["size"][1])),
                quality={
                    int(k): CategoryQuality(int(tp), int(fp), int(fn), float(iou))
                    for k, tp, fp, fn, iou in value["quality"]
                },
                pixels={int(k): (int(both), int(p), int(t)) for k, both, p, t in value["pixels"]},
                recall=(int(value["recall"][0]), int(value["recall"][1]), int(value["recall"][2])),
                confusion={(int(t), int(p)): int(count) for t, p, count in value["confusion"]},
                classified=(int(value["classified"][0]), int(value["classified"][1])),
                detections=tuple(Instance(int(k), str(rle), float(score)) for k, score, rle in value["detections"]),
                instances=tuple(Instance(int(k), str(rle), 1.0, bool(crowd)) for k, crowd, rle in value["instances"]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DatasetError(f"not an image's counts: {type(error).__name__} {error}") from error
