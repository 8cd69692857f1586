"""The demonstration's pictures: camera, segmentation and ground truth side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from ovseg_ros.core.draw import Color, draw_segments
from ovseg_ros.ros.demo.scoring import DemoFrame

SCALE = 2  # names are legible on 320x240 images only when these are enlarged
TITLE_HEIGHT = 36  # pixels
GAP = 8  # pixels
_BACKGROUND = 32
_TITLE_COLOR = (240, 240, 240)


def contact_sheet(frames: Sequence[DemoFrame], vocabulary_name: str, colors: Mapping[int, Color]) -> np.ndarray:
    """One row a frame: camera image, the node's segments, and the truth in the words of the vocabulary.

    Args:
        frames: at least one, all of one size.
        vocabulary_name: for the title.
        colors: (red, green, blue) of each category id.

    Returns:
        uint8 RGB.
    """
    titles = ("camera", f"ovseg, vocabulary: {vocabulary_name}", "ground truth")
    rows = [_row(frame, colors) for frame in frames]
    panel_width = frames[0].image.shape[1] * SCALE
    title = np.full((TITLE_HEIGHT, rows[0].shape[1], 3), _BACKGROUND, dtype=np.uint8)
    for index, text in enumerate(titles):
        left = index * (panel_width + GAP) + GAP
        cv2.putText(title, text, (left, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.7, _TITLE_COLOR, 2, cv2.LINE_AA)
    gap = np.full((GAP, rows[0].shape[1], 3), _BACKGROUND, dtype=np.uint8)
    return np.concatenate([title, *(part for row in rows for part in (row, gap))])


def _row(frame: DemoFrame, colors: Mapping[int, Color]) -> np.ndarray:
    height, width = frame.image.shape[:2]
    camera = cv2.resize(frame.image, (width * SCALE, height * SCALE), interpolation=cv2.INTER_CUBIC)
    found, truth = (
        draw_segments(
            frame.image,
            part.ids,
            part.labels,
            {segment_id: colors[category] for segment_id, category in part.categories.items()},
            scale=SCALE,
        )
        for part in (frame.found, frame.truth)
    )
    gap = np.full((height * SCALE, GAP, 3), _BACKGROUND, dtype=np.uint8)
    return np.concatenate([camera, gap, found, gap, truth], axis=1)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes a uint8 RGB (H, W, 3) image; raises OSError where it cannot."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())
