"""Pictures for people: segments filled with their category's colour, outlined and named.

Filling and outlining cost a few passes over the image whatever the number of segments; naming costs a little for each.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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

    Returns:
        uint8 RGB (H * scale, W * scale, 3), new.

    Raises:
        ImageError: `image` is not uint8 RGB.
        ValueError: `segment_ids` is not uint16 of the image's size, or `alpha` or `scale` is out of range.
    """
    _check(image, segment_ids, alpha, scale)
    if colors is None:
        colors = {segment_id: color_of_name(label) for segment_id, label in labels.items()}
    image, segment_ids = np.ascontiguousarray(image), np.ascontiguousarray(segment_ids)
    if scale > 1:
        size = (image.shape[1] * scale, image.shape[0] * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        segment_ids = cv2.resize(segment_ids, size, interpolation=cv2.INTER_NEAREST)

    picture = _fill(image, segment_ids, {segment_id: colors[segment_id] for segment_id in labels}, alpha)
    if show_labels:
        _write_names(picture, segment_ids, labels, colors)
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


@dataclass(frozen=True, slots=True)
class _Plate:
    """The rectangle behind a name, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def overlap(self, other: "_Plate") -> int:
        """Area shared with `other`, a margin of one pixel included."""
        width = min(self.left + self.width, other.left + other.width) - max(self.left, other.left) + 1
        height = min(self.top + self.height, other.top + other.height) - max(self.top, other.top) + 1
        return max(width, 0) * max(height, 0)


def _write_names(
    picture: np.ndarray, segment_ids: np.ndarray, labels: Mapping[int, str], colors: Mapping[int, Color]
) -> None:
    """Writes each name on a dark plate framed in the segment's colour, in place."""
    height, width = segment_ids.shape
    capital_height = max(8.0, 3.0 + 0.018 * min(height, width))
    font_scale = capital_height / _FONT_CAPITAL_HEIGHT
    thickness = max(1, round(capital_height / 12))
    padding = max(2, round(capital_height / 3))

    placed: list[_Plate] = []
    # Small segments first: a large one has room to move its name.
    for _, segment_id, (x, y), radius in sorted(_interiors(segment_ids, labels)):
        text = _drawable(labels[segment_id]) or f"id {segment_id}"
        text = _shortened(text, width - 2 * padding, font_scale, thickness)
        (text_width, text_height), baseline = cv2.getTextSize(text, _FONT, font_scale, thickness)
        plate_height = text_height + baseline // 2 + 2 * padding
        if not text or plate_height > height:
            continue  # An image too small for any letter.
        if radius < plate_height:
            y -= radius + plate_height // 2  # Above a small segment, which the plate would hide.
        plate = _place(text_width + 2 * padding, plate_height, (x, y), (width, height), placed)
        placed.append(plate)
        corners = (plate.left, plate.top), (plate.left + plate.width - 1, plate.top + plate.height - 1)
        cv2.rectangle(picture, *corners, _DARK, cv2.FILLED)
        cv2.rectangle(picture, *corners, colors[segment_id], 1)
        origin = (plate.left + padding, plate.top + padding + text_height)
        cv2.putText(picture, text, origin, _FONT, font_scale, _WHITE, thickness, cv2.LINE_AA)


def _interiors(segment_ids: np.ndarray, labels: Mapping[int, str]) -> Iterator[tuple[int, int, tuple[int, int], int]]:
    """Yields (area on the placing map, id, (x, y) of the pixel deepest inside, its depth) of each labelled segment."""
    step = max(1, -(-max(segment_ids.shape) // _PLACING_SIZE))
    small = segment_ids[step // 2 :: step, step // 2 :: step]
    areas = np.bincount(small.ravel(), minlength=1)
    for segment_id in np.flatnonzero(areas).tolist():
        if segment_id not in labels:
            continue
        mask = small == segment_id
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        # Padded, so that the border of the image counts as an edge.
        crop = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1).astype(np.uint8)
        depth = cv2.distanceTransform(crop, cv2.DIST_L2, 3)
        row, column = divmod(int(depth.argmax()), depth.shape[1])
        center = ((left + column - 1) * step + step // 2, (top + row - 1) * step + step // 2)
        yield int(areas[segment_id]), segment_id, center, round(float(depth.max()) * step)


def _place(
    width: int, height: int, center: tuple[int, int], image_size: tuple[int, int], placed: list[_Plate]
) -> _Plate:
    """The plate nearest to `center` that overlaps none of `placed`, else the least overlapping; inside the image."""
    best, best_cost = _Plate(0, 0, width, height), float("inf")
    for rows in (0, -1, 1, -2, 2, -3, 3):
        for columns in (0, -1, 1):
            left = round(center[0] + (0.5 * columns - 0.5) * width)
            top = round(center[1] + (rows - 0.5) * (height + 1))
            plate = _Plate(
                min(max(left, 0), image_size[0] - width), min(max(top, 0), image_size[1] - height), width, height
            )
            hidden = sum(plate.overlap(other) for other in placed)
            cost = hidden * 1e3 + abs(rows) * height + abs(columns) * width / 2
            if cost < best_cost:
                best, best_cost = plate, cost
    return best


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


def _check(image: np.ndarray, segment_ids: np.ndarray, alpha: float, scale: int) -> None:
    check_image(image)
    if segment_ids.dtype != np.uint16 or segment_ids.shape != image.shape[:2]:
        raise ValueError(
            f"segment_ids must be uint16 {image.shape[:2]}, as the image; got {segment_ids.dtype} {segment_ids.shape}"
        )
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be from 0 to 1; got {alpha}")
    if scale < 1 or scale != int(scale):
        raise ValueError(f"scale must be a whole number of 1 or more; got {scale}")
