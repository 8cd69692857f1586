"""Image, truth and prediction side by side, for people who want to see what a figure means."""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from ovseg_ros.core.draw import draw_segments
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.evaluate.figures import image_score
from ovseg_ros.offline.evaluate.record import ImageRecord
from ovseg_ros.offline.evaluate.truth import Truth

_PANEL_WIDTHS = 400, 640  # pixels; smaller images are enlarged and larger ones reduced, so that names can be read
_LONGEST_NAME = 28  # characters; longer ones would cover the picture
_TITLE_HEIGHT = 28
_GAP = 6
_BACKGROUND = 255
_MOST_SEGMENTS = 65535


def worst_and_median(records: Sequence[ImageRecord], count: int) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Up to `count` images with the lowest score, and as many around the middle, each from low to high.

    At most a third of the images each, so that no image is in both and the middle is the middle. Images of one score
    are ordered by name; those without a score are left out.
    """
    scored = [(image_score(record), record.name, record) for record in records if record.is_counted]
    ranked = [record for score, _, record in sorted(scored, key=lambda entry: entry[:2]) if not math.isnan(score)]
    count = min(count, max(1, len(ranked) // 3))
    start = (len(ranked) - count + 1) // 2
    return ranked[:count], ranked[max(start, count) :][:count]


def comparison(
    truth: Truth, segment_ids: np.ndarray, categories: Mapping[int, int], vocabulary: Vocabulary
) -> np.ndarray:
    """The image, its truth and what was predicted, next to each other under their titles: uint8 RGB (H', W', 3).

    Segments have the colour and name of their category; void is left as it is. Panels are 400 to 640 pixels wide,
    unless images are very small. `segment_ids` and `categories` are what `Evaluator.segments` gives.
    """
    panels = [
        _panel(truth.image, np.zeros(truth.size, dtype=np.int32), {}, vocabulary),
        _panel(truth.image, truth.segment_ids, truth.categories, vocabulary),
        _panel(truth.image, segment_ids, categories, vocabulary),
    ]
    titled = [_titled(panel, title) for panel, title in zip(panels, ("image", "truth", "prediction"), strict=True)]
    gap = np.full((titled[0].shape[0], _GAP, 3), _BACKGROUND, dtype=np.uint8)
    return np.concatenate([titled[0], gap, titled[1], gap, titled[2]], axis=1)


def _panel(
    image: np.ndarray, segment_ids: np.ndarray, categories: Mapping[int, int], vocabulary: Vocabulary
) -> np.ndarray:
    """Ids are numbered anew, since a data set's own may be above 16 bits."""
    height, width = image.shape[:2]
    scale = 1
    if width > _PANEL_WIDTHS[1]:
        size = (_PANEL_WIDTHS[1], max(1, round(height * _PANEL_WIDTHS[1] / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        segment_ids = cv2.resize(segment_ids, size, interpolation=cv2.INTER_NEAREST)
    elif width < _PANEL_WIDTHS[0]:
        scale = min(16, -(-_PANEL_WIDTHS[0] // width))
    present, index = np.unique(segment_ids, return_inverse=True)
    shown = {number: int(i) for number, i in enumerate(present[:_MOST_SEGMENTS], start=1) if int(i) in categories}
    numbered = (index.reshape(segment_ids.shape) + 1).clip(max=_MOST_SEGMENTS).astype(np.uint16)
    labels = {number: _short(vocabulary.categories[categories[i]].name) for number, i in shown.items()}
    colors = {number: vocabulary.categories[categories[i]].color for number, i in shown.items()}
    return draw_segments(image, numbered, labels, colors, scale=scale)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 2].rstrip()}.."


def _titled(panel: np.ndarray, title: str) -> np.ndarray:
    strip = np.full((_TITLE_HEIGHT, panel.shape[1], 3), _BACKGROUND, dtype=np.uint8)
    cv2.putText(strip, title, (4, _TITLE_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, panel])
