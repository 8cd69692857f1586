"""Overlays: what is painted where, names that stay inside the image, and any name drawn without a crash."""

import time

import cv2
import numpy as np
import pytest

from ovseg_ros.core.draw import draw_overlay, draw_segments
from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, color_of_name


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def halves(height: int, width: int) -> np.ndarray:
    ids = np.ones((height, width), np.uint16)
    ids[:, width // 2 :] = 2
    return ids


def test_fill_rim_line_and_void() -> None:
    ids = np.zeros((40, 40), np.uint16)
    ids[10:30, 10:30] = 7
    image = gray(40, 40)
    picture = draw_segments(image, ids, {7: "cup"}, {7: (200, 100, 0)}, alpha=0.25, show_labels=False)
    assert picture[20, 20].tolist() == [146, 121, 96]  # 0.75 x image + 0.25 x colour
    assert picture[11, 20].tolist() == [200, 100, 0]
    assert picture[9, 20].max() < 30
    np.testing.assert_array_equal(picture[:8], image[:8])
    assert (image == 128).all()


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 128), (1.0, 250)])
def test_alpha_limits(alpha: float, expected: int) -> None:
    ids = np.ones((20, 20), np.uint16)
    picture = draw_segments(gray(20, 20), ids, {1: "cup"}, {1: (250, 250, 250)}, alpha=alpha, show_labels=False)
    assert (picture == expected).all()


def test_all_void_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = draw_segments(image, np.zeros((24, 32), np.uint16), {})
    np.testing.assert_array_equal(picture, image)
    assert not np.shares_memory(picture, image)


def test_unlabelled_segments_are_left_unpainted() -> None:
    picture = draw_segments(gray(40, 40), halves(40, 40), {2: "cup"}, show_labels=False)
    assert (picture[:, :15] == 128).all()
    assert (picture[:, 30:] != 128).any()


def test_ground_truth_takes_the_colors_of_a_vocabulary() -> None:
    picture = draw_segments(gray(20, 20), np.ones((20, 20), np.uint16), {1: "red cube"}, alpha=1.0, show_labels=False)
    assert tuple(picture[10, 10].tolist()) == color_of_name("red cube")


def test_overlay_takes_the_colors_of_its_vocabulary() -> None:
    vocabulary = Vocabulary.build([CategorySpec("cup"), CategorySpec("wall", is_thing=False)])
    ids = halves(60, 120)
    segments = (
        Segment(1, 1, "wall", 0.9, False, 3600, (0, 0, 60, 60)),
        Segment(2, 0, "cup", 0.9, True, 3600, (60, 0, 60, 60)),
    )
    result = PanopticResult(ids, (2 - ids).astype(np.uint16), np.full((60, 120), 255, np.uint8), segments, 1)
    picture = draw_overlay(gray(60, 120), result, vocabulary, alpha=1.0, labels=False)
    assert tuple(picture[5, 5].tolist()) == color_of_name("wall")
    assert tuple(picture[5, -5].tolist()) == color_of_name("cup")
    named = draw_overlay(gray(60, 120), result, vocabulary, alpha=1.0)
    assert (named != picture).any()
    later = Vocabulary.build([CategorySpec("cup")], previous=vocabulary)
    with pytest.raises(ValueError, match="vocabulary version 1, not 2"):
        draw_overlay(gray(60, 120), result, later)


def test_an_empty_result_is_the_image() -> None:
    empty = PanopticResult(
        np.zeros((9, 9), np.uint16), np.full((9, 9), NO_CATEGORY, np.uint16), np.zeros((9, 9), np.uint8), (), 1
    )
    picture = draw_overlay(gray(9, 9), empty, Vocabulary.build([CategorySpec("cup")]))
    np.testing.assert_array_equal(picture, gray(9, 9))


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_names_are_written_on_plates(scale: int) -> None:
    picture = draw_segments(gray(240, 320), np.ones((240, 320), np.uint16), {1: "red cube"}, alpha=0.5, scale=scale)
    assert picture.shape == (240 * scale, 320 * scale, 3)
    rows, columns = np.nonzero(picture.min(axis=2) > 200)
    assert 7 <= np.ptp(rows) + 1 <= 20 * scale  # capitals of 8 pixels or so even on a small image
    assert 30 <= np.ptp(columns) + 1 <= 100 * scale
    around = picture[rows.min() - 1 - scale, columns.min() : columns.max()]
    assert around.max() < 40  # white on dark


def test_names_of_many_small_segments_do_not_cover_each_other() -> None:
    ids = np.zeros((480, 640), np.uint16)
    labels = {}
    for index in range(12):
        row, column = divmod(index, 4)
        cv2.circle(ids, (80 + 160 * column, 90 + 150 * row), 20, index + 1, cv2.FILLED)
        labels[index + 1] = f"green bottle {index}"
    picture = draw_segments(gray(480, 640), ids, labels, alpha=0.0)
    plates = cv2.morphologyEx((picture.max(axis=2) < 30).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 8), np.uint8))
    plates = cv2.dilate(plates, np.ones((9, 9), np.uint8))
    assert cv2.connectedComponents(plates)[0] - 1 == 12


Colors = dict[int, tuple[int, int, int]]


def discs(centers: list[tuple[int, int]], radius: int) -> tuple[np.ndarray, dict[int, str], Colors]:
    """Small segments, (x, y) on an image of 320x240, with long names and a colour each."""
    ids = np.zeros((240, 320), np.uint16)
    for index, center in enumerate(centers, start=1):
        cv2.circle(ids, center, radius, index, cv2.FILLED)
    numbers = range(1, len(centers) + 1)
    return ids, {i: f"green bottle {i}" for i in numbers}, {i: (25 * i, 255 - 25 * i, 90) for i in numbers}


def test_names_leave_small_segments_to_be_seen() -> None:
    """One above the other, where a name right above each would hide its neighbour."""
    ids, labels, colors = discs([(160, 80), (160, 106), (160, 132)], 10)
    picture = draw_segments(gray(240, 320), ids, labels, colors, alpha=1.0)
    for number, color in colors.items():
        assert ((picture == color).all(axis=2) & (ids == number)).sum() > 0.5 * (ids == number).sum()


def test_a_line_leads_from_a_name_that_is_far_off_to_its_segment() -> None:
    ids, labels, colors = discs([(140 + 20 * (i % 3), 100 + 20 * (i // 3)) for i in range(9)], 6)
    picture = draw_segments(gray(240, 320), ids, labels, colors, alpha=1.0)
    own = (picture == colors[9]).all(axis=2)
    segment, plate = np.argwhere(own & (ids == 9)), np.argwhere(own & (ids == 0))[-1]
    assert np.hypot(*(segment - plate).T).min() > 30
    assert cv2.connectedComponents(own.astype(np.uint8))[0] - 1 == 1  # segment, line and the plate's frame


def test_larger_letters() -> None:
    def height(letters: float) -> int:
        picture = draw_segments(gray(240, 320), np.ones((240, 320), np.uint16), {1: "red cube"}, letters=letters)
        return int(np.ptp(np.nonzero(picture.min(axis=2) > 200)[0])) + 1

    assert height(2.0) == pytest.approx(2 * height(1.0), abs=3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (5, 7), (14, 14), (17, 31), (2, 2000)])
@pytest.mark.parametrize("scale", [1, 3])
def test_images_of_any_size(shape: tuple[int, int], scale: int) -> None:
    picture = draw_segments(gray(*shape), halves(*shape), {1: "a rather long name for a cup", 2: "b"}, scale=scale)
    assert picture.shape == (shape[0] * scale, shape[1] * scale, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("crème brûlée", "creme brulee"),
        ("Smørrebrød", "Smorrebrod"),
        ("straße", "strasse"),
        ("日本語", "id 1"),
        ("", "id 1"),
        ("\x00\u202e\ud800", "id 1"),
        ("tea 茶", "tea ?"),
    ],
)
def test_names_beyond_ascii(name: str, same_as: str) -> None:
    ids, colors = np.ones((100, 200), np.uint16), {1: (10, 200, 10)}
    np.testing.assert_array_equal(
        draw_segments(gray(100, 200), ids, {1: name}, colors), draw_segments(gray(100, 200), ids, {1: same_as}, colors)
    )


def test_long_names_are_shortened_to_the_image() -> None:
    picture = draw_segments(gray(100, 120), np.ones((100, 120), np.uint16), {1: "m" * 100}, {1: (0, 255, 0)})
    frame = (picture == (0, 255, 0)).all(axis=2)
    columns = np.flatnonzero(frame.any(axis=0))
    assert 60 < np.ptp(columns) < 120


def test_views_that_are_not_contiguous() -> None:
    image, ids = gray(40, 60)[:, ::-1].transpose(1, 0, 2), halves(40, 60).T
    assert draw_segments(image, ids, {1: "cup", 2: "bowl"}).shape == (60, 40, 3)


def test_read_only_images() -> None:
    image, ids = gray(40, 60), halves(40, 60)
    image.flags.writeable = ids.flags.writeable = False
    assert draw_segments(image, ids, {1: "cup", 2: "bowl"}).flags.writeable


@pytest.mark.parametrize(
    ("image", "ids", "options", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint16), {}, ImageError, r"uint8 RGB .* got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint16), {}, ImageError, "got float32"),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4), np.uint16), {}, ImageError, r"got uint8 \(0, 4, 3\)"),
        (gray(4, 4), np.zeros((4, 5), np.uint16), {}, ValueError, r"uint16 \(4, 4\).*got uint16 \(4, 5\)"),
        (gray(4, 4), np.zeros((4, 4), np.int32), {}, ValueError, "got int32"),
        (gray(4, 4), np.zeros((4, 4), np.uint16), {"alpha": 1.5}, ValueError, "alpha must be from 0 to 1; got 1.5"),
        (gray(4, 4), np.zeros((4, 4), np.uint16), {"scale": 0}, ValueError, "scale must be .* got 0"),
        (gray(4, 4), np.zeros((4, 4), np.uint16), {"letters": 0.0}, ValueError, "letters must be .* got 0.0"),
        (gray(4, 4), np.zeros((4, 4), np.uint16), {"letters": float("nan")}, ValueError, "letters must be .* got nan"),
    ],
)
def test_refused(
    image: np.ndarray, ids: np.ndarray, options: dict[str, float], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        draw_segments(image, ids, {}, **options)  # type: ignore[arg-type]


def test_filling_does_not_slow_down_with_the_number_of_segments() -> None:
    image = gray(480, 640)

    def fastest(count: int) -> float:
        ids = (np.arange(480 * 640) % count + 1).astype(np.uint16).reshape(480, 640)
        labels = {index + 1: "cup" for index in range(count)}
        colors = {index + 1: (0, 255, 0) for index in range(count)}
        times = []
        for _ in range(7):
            started = time.perf_counter()
            draw_segments(image, ids, labels, colors, show_labels=False)
            times.append(time.perf_counter() - started)
        return min(times)

    assert fastest(200) < 3 * fastest(2) + 0.002
