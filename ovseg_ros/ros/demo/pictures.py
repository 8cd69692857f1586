"""The demonstration's pictures: camera, segmentation and ground truth side by side, and a tour that moves."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ovseg_ros.core.draw import Color, draw_segments
from ovseg_ros.ros.demo.scoring import DemoFrame, DemoSegments

SCALE = 2  # names are legible on 320x240 images only when these are enlarged
LETTERS = 1.6  # on a page that shows a contact sheet at half its size
TOUR_LETTERS = 1.2
TURNS = 4  # of the vocabularies on a tour
TITLE_HEIGHT = 44  # pixels
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
        _write(title, text, index * (panel_width + GAP) + GAP, 1.0)
    gap = np.full((GAP, rows[0].shape[1], 3), _BACKGROUND, dtype=np.uint8)
    return np.concatenate([title, *(part for row in rows for part in (row, gap))])


def _write(title: np.ndarray, text: str, left: int, font_scale: float) -> None:
    """Writes into a title, in place."""
    bottom = round(title.shape[0] / 2 + 10 * font_scale)
    cv2.putText(title, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, font_scale, _TITLE_COLOR, 2, cv2.LINE_AA)


def _row(frame: DemoFrame, colors: Mapping[int, Color]) -> np.ndarray:
    height, width = frame.image.shape[:2]
    camera = cv2.resize(frame.image, (width * SCALE, height * SCALE), interpolation=cv2.INTER_CUBIC)
    found, truth = (_drawn(frame.image, part, colors, LETTERS) for part in (frame.found, frame.truth))
    gap = np.full((height * SCALE, GAP, 3), _BACKGROUND, dtype=np.uint8)
    return np.concatenate([camera, gap, found, gap, truth], axis=1)


def _drawn(image: np.ndarray, part: DemoSegments, colors: Mapping[int, Color], letters: float) -> np.ndarray:
    of_segments = {segment_id: colors[category] for segment_id, category in part.categories.items()}
    return draw_segments(image, part.ids, part.labels, of_segments, scale=SCALE, letters=letters)


def tour_pictures(
    measured: Sequence[tuple[str, Sequence[DemoFrame], Mapping[int, Color]]],
) -> tuple[list[np.ndarray], float]:
    """The camera's path once, on which the vocabulary changes `TURNS` - 1 times; the node's segments of every frame.

    Args:
        measured: of each vocabulary its name, its frames, at least two of one path, and the colour of each category id.

    Returns:
        uint8 RGB pictures, all of one size, and the seconds from one to the next.
    """
    pictures = []
    for turn in range(TURNS):
        name, frames, colors = measured[turn % len(measured)]
        for frame in frames[turn * len(frames) // TURNS : (turn + 1) * len(frames) // TURNS]:
            found = _drawn(frame.image, frame.found, colors, TOUR_LETTERS)
            title = np.full((TITLE_HEIGHT * 3 // 4, found.shape[1], 3), _BACKGROUND, dtype=np.uint8)
            _write(title, f"vocabulary: {name}", GAP, 0.7)
            pictures.append(np.concatenate([title, found]))
    frames = measured[0][1]
    return pictures, min(after.stamp - before.stamp for before, after in pairwise(frames)) / 1e9


def write_tour(path: Path, pictures: Sequence[np.ndarray], period: float) -> None:
    """Writes an animated WebP that begins anew at its end, a picture every `period` seconds.

    Not a GIF, which is seven times as large for these pictures, and shows fewer colours.

    Args:
        pictures: uint8 RGB, all of one size.

    Raises:
        OSError: it cannot be written.
    """
    first, *others = (Image.fromarray(picture) for picture in pictures)
    first.save(path, save_all=True, append_images=others, duration=round(period * 1000), loop=0, quality=60, method=4)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes a uint8 RGB (H, W, 3) image; raises OSError where it cannot."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    path.write_bytes(data.tobytes())
