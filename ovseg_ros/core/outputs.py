"""The outputs that an image has in the node and in bags alike: which there are, and what each is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ovseg_ros.core.draw import draw_overlay
from ovseg_ros.core.messages import Messages
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import MONO8_NO_CATEGORY, Vocabulary


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What may be chosen about outputs.

    Attributes:
        overlay_alpha: opacity of the overlay's colours, 0 to 1.
        overlay_labels: whether names are written into it.
        jpeg_quality: of its JPEG, 1 to 100.
        mask_rle: whether every segment carries its mask as a run-length code.
        label_image_encoding: 16UC1, or mono8 where the ids of what is published fit; mono8 and auto differ in the ids
            that a vocabulary gets.
    """

    overlay_alpha: float = 0.5
    overlay_labels: bool = True
    jpeg_quality: int = 85
    mask_rle: bool = False
    label_image_encoding: str = "auto"


@dataclass(frozen=True)
class SegmentedFrame:
    """All that the outputs of an image are made of.

    Attributes:
        image: uint8 RGB (H, W, 3).
        header: std_msgs/Header, which every output copies.
        result: of the image.
        vocabulary: the version that produced it.
    """

    image: np.ndarray
    header: Any
    result: PanopticResult
    vocabulary: Vocabulary
    options: OutputOptions

    @cached_property
    def overlay(self) -> np.ndarray:
        """The image with colours and names drawn into it, uint8 RGB (H, W, 3); drawn once, where somebody wants it."""
        alpha, labels = self.options.overlay_alpha, self.options.overlay_labels
        return draw_overlay(self.image, self.result, self.vocabulary, alpha=alpha, labels=labels)


@dataclass(frozen=True, slots=True)
class Output:
    """The ROS name of an output's type, and what makes its message."""

    type_name: str
    make: Callable[[Messages, SegmentedFrame], Any]


Pixels = Callable[[SegmentedFrame], tuple[np.ndarray, str]]


def _image(pixels: Pixels) -> Output:
    return Output("sensor_msgs/msg/Image", lambda make, frame: make.image(*pixels(frame), frame.header))


def _compressed(pixels: Pixels) -> Output:
    return Output(
        "sensor_msgs/msg/CompressedImage",
        lambda make, frame: make.compressed(*pixels(frame), frame.header, frame.options.jpeg_quality),
    )


def label_encoding(vocabulary: Vocabulary, wanted: str) -> str:
    """Of label images: mono8 (255 = none) while every published id is below 255, else, or if wanted, 16UC1."""
    return "mono8" if wanted != "16UC1" and vocabulary.highest_published_id < MONO8_NO_CATEGORY else "16UC1"


def _labels(frame: SegmentedFrame) -> tuple[np.ndarray, str]:
    """Category ids, none where there is no category: 255 in mono8, 65535 in 16UC1."""
    encoding = label_encoding(frame.vocabulary, frame.options.label_image_encoding)
    # The low byte of NO_CATEGORY is MONO8_NO_CATEGORY.
    return frame.result.category_ids.astype(np.uint8 if encoding == "mono8" else np.uint16, copy=False), encoding


def _segment_ids(frame: SegmentedFrame) -> tuple[np.ndarray, str]:
    return frame.result.segment_ids, "16UC1"


def _overlay(frame: SegmentedFrame) -> tuple[np.ndarray, str]:
    return frame.overlay, "rgb8"


DATA_OUTPUTS: Mapping[str, Output] = {
    "label_image": _image(_labels),
    "segment_image": _image(_segment_ids),
    "confidence_image": _image(lambda frame: (frame.result.confidence, "mono8")),
    "segments": Output(
        "ovseg_ros/msg/PanopticSegmentation",
        lambda make, frame: make.segments(frame.result, frame.header, mask_rle=frame.options.mask_rle),
    ),
}
COMPRESSED_OUTPUTS: Mapping[str, Output] = {
    "label_image/compressed": _compressed(_labels),
    "segment_image/compressed": _compressed(_segment_ids),
}
OVERLAY_OUTPUTS: Mapping[str, Output] = {
    "overlay_image": _image(_overlay),
    "overlay_image/compressed": _compressed(_overlay),
}
