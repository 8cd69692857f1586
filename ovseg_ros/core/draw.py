"""Pictures for people: segments filled with their category's colour, outlined and named.

Filling and outlining cost a few passes over the image whatever the number of segments; naming costs a little for each.
"""

import math
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from ovseg_ros.core.images import check_image
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import Vocabulary, color_of_name

Color = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_CAPITAL_HEIGHT = 21  # pixels at font scale 1
_DARK: Color = (16, 16, 16)
_WHITE: Color = (255, 255, 255)
_SMALL = 5  # A thin segment whose box is less high and wide than so many plates are high is not to be hidden by them.
_HIDING = 6.0  # So many pixels away is a name better than one that hides a row of its plate's height of such a segment.
_PLACING_SIZE = 320  # Names are placed on a map of at most this many pixels a side; finer costs time and shows nothing.

# Letters that Unicode does not decompose into a Latin letter and an accent.
_LATIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
    | {"þ": "th", "Þ": "Th", "ð": "d", "Ð": "D"}
    | {"\u0131": "i", "\u2018": "'", "\u2019": "'", "\u2013": "-", "\u2014": "-"}  # dotless i, quotes, dashes
)


def draw_overlay(
    image: np.ndarray,
    result: PanopticResult,
    vocabulary: Vocabulary,
    *,
    alpha: float = 0.5,
    labels: bool = True,
) -> np.ndarray:
    """Draws a result over the image that it came from.

    Args:
        image: uint8 RGB (H, W, 3).
        result: of the same (H, W).
        vocabulary: the version that produced `result`; gives the colours.
        alpha, labels: as `alpha` and `show_labels` of `draw_segments`, which says what comes back.

    Raises:
        ImageError, ValueError: as `draw_segments`, or `result` and `vocabulary` are of different versions.
    """
    if result.vocabulary_version != vocabulary.version:
        raise ValueError(
            f"the result is of vocabulary version {result.vocabulary_version}, not {vocabulary.version} as given; "
            "pass the vocabulary that produced the result"
        )
    color_of_category = {category.id: category.color for category in vocabulary.categories}
    return draw_segments(
        image,
        result.segment_ids,
        {segment.id: segment.label for segment in result.segments},
        {segment.id: color_of_category[segment.category_id] for segment in result.segments},
        alpha=alpha,
        show_labels=labels,
    )


def draw_segments(
    image: np.ndarray,
    segment_ids: np.ndarray,
    labels: Mapping[int, str],
    colors: Mapping[int, Color] | None = None,
    *,
    alpha: float = 0.5,
    show_labels: bool = True,
    scale: int = 1,
    letters: float = 1.0,
) -> np.ndarray:
    """Draws any segmentation, such as ground truth, over an image.

    Args:
        image: uint8 RGB (H, W, 3).
        segment_ids: (H, W) uint16, 0 = void. Segments without a label are left unpainted, as void is.
        labels: name of each segment id.
        colors: (red, green, blue) of each labelled segment id; None takes the colour that a vocabulary gives the label.
        alpha: weight of the colour, 0 to 1.
        show_labels: whether to write names.
        scale: enlarges the picture, 1 or more.
        letters: enlarges the names, for a picture that is shown smaller than it is; more than 0.

    Returns:
        uint8 RGB (H * scale, W * scale, 3), new.

    Raises:
        ImageError: `image` is not uint8 RGB.
        ValueError: `segment_ids` is not uint16 of the image's size, or `alpha`, `scale` or `letters` is out of range.
    """
    _check(image, segment_ids, alpha, scale, letters)
    if colors is None:
        colors = {segment_id: color_of_name(label) for segment_id, label in labels.items()}
    image, segment_ids = np.ascontiguousarray(image), np.ascontiguousarray(segment_ids)
    if scale > 1:
        size = (image.shape[1] * scale, image.shape[0] * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        segment_ids = cv2.resize(segment_ids, size, interpolation=cv2.INTER_NEAREST)

    picture = _fill(image, segment_ids, {segment_id: colors[segment_id] for segment_id in labels}, alpha)
    if show_labels:
        _write_names(picture, segment_ids, labels, colors, letters)
    return picture


def _fill(image: np.ndarray, segment_ids: np.ndarray, colors: Mapping[int, Color], alpha: float) -> np.ndarray:
    """Blends colours in, then draws each segment's rim in its solid colour and a dark line between segments."""
    # One packed table look-up for a pixel's colour and whether it is painted at all.
    table = np.zeros((65536, 4), np.uint8)
    for segment_id, color in colors.items():
        table[segment_id] = (*color, 255)
    painted = table.view(np.uint32)[:, 0].take(segment_ids, mode="wrap").view(np.uint8).reshape(*segment_ids.shape, 4)
    solid = cv2.cvtColor(painted, cv2.COLOR_RGBA2RGB)
    is_painted = cv2.extractChannel(painted, 3)

    picture = cv2.copyTo(cv2.addWeighted(image, 1.0 - alpha, solid, alpha, 0.0), is_painted, image.copy())
    line_width = max(1, round(min(segment_ids.shape) / 480))
    line = _boundaries(segment_ids)
    if line_width > 1:
        line = cv2.dilate(line, np.ones((line_width, line_width), np.uint8))
    rim = cv2.dilate(line, np.ones((4 * line_width + 1, 4 * line_width + 1), np.uint8))
    cv2.copyTo(solid, cv2.bitwise_and(rim, is_painted), picture)
    cv2.copyTo(np.full_like(solid, _DARK[0]), line, picture)
    return picture


def _boundaries(segment_ids: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 255 where the pixel to the right or below belongs to another segment."""
    differs = np.zeros(segment_ids.shape, np.bool_)
    np.not_equal(segment_ids[:, 1:], segment_ids[:, :-1], out=differs[:, :-1])
    differs[:-1] |= segment_ids[1:] != segment_ids[:-1]
    return differs.view(np.uint8) * np.uint8(255)


class _Plate(NamedTuple):
    """A rectangle in pixels, such as that behind a name."""

    left: int
    top: int
    width: int
    height: int


class _Spot(NamedTuple):
    """Where a segment is: its area on the placing map, its id, its deepest pixel (x, y) with its depth, and its box."""

    area: int
    segment_id: int
    inside: tuple[int, int]
    depth: int
    box: _Plate


def _write_names(
    picture: np.ndarray, segment_ids: np.ndarray, labels: Mapping[int, str], colors: Mapping[int, Color], letters: float
) -> None:
    """Writes each name on a dark plate framed in the segment's colour, in place; lines lead to those far off."""
    height, width = segment_ids.shape
    capital_height = letters * max(8.0, 3.0 + 0.018 * min(height, width))
    font_scale = capital_height / _FONT_CAPITAL_HEIGHT
    thickness = max(1, round(capital_height / 10))
    padding = max(2, round(capital_height / 3))

    (_, text_height), baseline = cv2.getTextSize("X", _FONT, font_scale, thickness)
    plate_height = text_height + baseline // 2 + 2 * padding
    if plate_height > height:
        return  # An image too small for any letter.
    step, map_ids = _placing_map(segment_ids)
    spots = sorted(_spots(map_ids, step, labels))
    most = _SMALL * plate_height
    small = {s.segment_id for s in spots if s.depth < plate_height and max(s.box.width, s.box.height) < most}
    covered = _Covered(map_ids, step, small)

    placed: list[tuple[_Spot, str, _Plate]] = []
    # Small segments first: a large one has room to move its name.
    for spot in spots:
        text = _drawable(labels[spot.segment_id]) or f"id {spot.segment_id}"
        text = _shortened(text, width - 2 * padding, font_scale, thickness)
        if not text:
            continue
        plate_width = cv2.getTextSize(text, _FONT, font_scale, thickness)[0][0] + 2 * padding
        middle = spot.inside
        if spot.segment_id in small:  # Above it, which the plate would hide.
            middle = spot.box.left + spot.box.width // 2, spot.box.top - plate_height // 2 - 1
        others = [plate for _, _, plate in placed]
        plate = _place(plate_width, plate_height, middle, spot.box, (width, height), others, covered)
        placed.append((spot, text, plate))

    for spot, _, plate in placed:
        if _gap(*plate, spot.box) > plate_height / 2:
            x, y = spot.inside
            nearest = (
                min(max(x, plate.left), plate.left + plate.width - 1),
                min(max(y, plate.top), plate.top + plate.height - 1),
            )
            cv2.line(picture, nearest, (x, y), _DARK, thickness + 3)
            cv2.line(picture, nearest, (x, y), colors[spot.segment_id], thickness + 1)
    for spot, text, plate in placed:
        corners = (plate.left, plate.top), (plate.left + plate.width - 1, plate.top + plate.height - 1)
        cv2.rectangle(picture, *corners, _DARK, cv2.FILLED)
        cv2.rectangle(picture, *corners, colors[spot.segment_id], 1)
        origin = (plate.left + padding, plate.top + padding + text_height)
        cv2.putText(picture, text, origin, _FONT, font_scale, _WHITE, thickness, cv2.LINE_AA)


def _spots(map_ids: np.ndarray, step: int, labels: Mapping[int, str]) -> Iterator[_Spot]:
    """Where each labelled segment is, by the placing map."""
    areas = np.bincount(map_ids.ravel(), minlength=1)
    for segment_id in np.flatnonzero(areas).tolist():
        if segment_id not in labels:
            continue
        mask = map_ids == segment_id
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        # Padded, so that the border of the image counts as an edge.
        crop = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.uint8)
        depth = cv2.distanceTransform(crop, cv2.DIST_L2, 3)
        row, column = divmod(int(depth.argmax()), depth.shape[1])
        center = ((left + column - 1) * step + step // 2, (top + row - 1) * step + step // 2)
        box = _Plate(left * step, top * step, (crop.shape[1] - 2) * step, (crop.shape[0] - 2) * step)
        yield _Spot(int(areas[segment_id]), segment_id, center, round(float(depth.max()) * step), box)


def _gap(left: Any, top: Any, width: int, height: int, box: _Plate) -> Any:
    """Pixels between rectangles, of which `left` and `top` may be arrays, and a box."""
    across = np.maximum(left - box.left - box.width, box.left - left - width).clip(0)
    down = np.maximum(top - box.top - box.height, box.top - top - height).clip(0)
    return np.hypot(across, down)


def _placing_map(segment_ids: np.ndarray) -> tuple[int, np.ndarray]:
    """Every few pixels of a segment image, and how many those are."""
    step = max(1, -(-max(segment_ids.shape) // _PLACING_SIZE))
    return step, segment_ids[step // 2 :: step, step // 2 :: step]


class _Covered:
    """Counts pixels of small segments in rectangles, on the placing map."""

    def __init__(self, map_ids: np.ndarray, step: int, small: Collection[int]) -> None:
        is_small = np.zeros(65536, np.uint8)
        is_small[list(small)] = 1
        self._step, self._sums = step, cv2.integral(is_small[map_ids])

    def count(self, left: np.ndarray, top: np.ndarray, width: int, height: int) -> np.ndarray:
        """Of rectangles with these corners, (N,) pixels of the image."""
        x, y = left // self._step, top // self._step
        x_end = np.minimum((left + width) // self._step, self._sums.shape[1] - 1)
        y_end = np.minimum((top + height) // self._step, self._sums.shape[0] - 1)
        sums = self._sums
        return (sums[y_end, x_end] - sums[y, x_end] - sums[y_end, x] + sums[y, x]) * self._step**2


# Places of a plate, in its own heights and widths away from where it would be best.
_ROWS, _COLUMNS = (axis.ravel() for axis in np.meshgrid(np.arange(-4, 4.5, 0.5), np.arange(-1, 1.25, 0.25)))


def _place(
    width: int,
    height: int,
    center: tuple[int, int],
    box: _Plate,
    image_size: tuple[int, int],
    placed: Sequence[_Plate],
    covered: _Covered,
) -> _Plate:
    """The plate near `center` that overlaps none of `placed`, else the least overlapping; inside the image.

    Of those one that is near, also to the segment's `box`, and hides little of small segments.
    """
    left = np.rint(center[0] + (_COLUMNS - 0.5) * width).astype(int).clip(0, image_size[0] - width)
    top = np.rint(center[1] + _ROWS * (height + 1) - 0.5 * height).astype(int).clip(0, image_size[1] - height)
    away = np.hypot(left + 0.5 * width - center[0], top + 0.5 * height - center[1])
    cost = away + 2.0 * _gap(left, top, width, height, box) + _HIDING * covered.count(left, top, width, height) / height
    if placed:
        # A margin of one pixel between plates.
        x, y, widths, heights = (np.array(part)[:, None] for part in zip(*placed, strict=True))
        common = np.minimum(left + width, x + widths) - np.maximum(left, x) + 1
        common_rows = np.minimum(top + height, y + heights) - np.maximum(top, y) + 1
        cost = cost + 1e3 * (common.clip(0) * common_rows.clip(0)).sum(axis=0)
    best = int(cost.argmin())
    return _Plate(int(left[best]), int(top[best]), width, height)


def _drawable(name: str) -> str:
    """`name` in the printable ASCII that OpenCV's fonts have: accents dropped, other scripts as "?"; "" if all are."""
    decomposed = unicodedata.normalize("NFKD", name.translate(_LATIN))
    plain = "".join(character for character in decomposed if not unicodedata.combining(character))
    drawable = "".join(character if " " <= character <= "~" else "?" for character in plain)
    return drawable if drawable.strip("? ") else ""


def _shortened(text: str, width: int, font_scale: float, thickness: int) -> str:
    """`text`, or as much of its start with ".." as `width` pixels take; "" if not even one letter fits."""
    if cv2.getTextSize(text, _FONT, font_scale, thickness)[0][0] <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        shortened = text[:length].rstrip() + ".."
        if cv2.getTextSize(shortened, _FONT, font_scale, thickness)[0][0] <= width:
            return shortened
    return ""


def _check(image: np.ndarray, segment_ids: np.ndarray, alpha: float, scale: int, letters: float) -> None:
    check_image(image)
    if segment_ids.dtype != np.uint16 or segment_ids.shape != image.shape[:2]:
        raise ValueError(
            f"segment_ids must be uint16 {image.shape[:2]}, as the image; got {segment_ids.dtype} {segment_ids.shape}"
        )
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be from 0 to 1; got {alpha}")
    if scale < 1 or scale != int(scale):
        raise ValueError(f"scale must be a whole number of 1 or more; got {scale}")
    if not 0.0 < letters < math.inf:
        raise ValueError(f"letters must be a number of more than 0; got {letters}")
