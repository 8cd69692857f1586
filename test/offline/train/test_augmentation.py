"""Views: image, segments and proposed masks are moved alike; sizes, padding and extremes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_ros.offline.data.types import PanopticSample, SegmentLabel
from ovseg_ros.offline.train.augmentation import (
    OUTSIDE_LOGIT,
    JitterConfig,
    ShortSideConfig,
    View,
    draw_jitter,
    draw_view,
    view_sizes,
    whole_view,
)
from ovseg_ros.offline.train.color_jitter import ColorChange, ColorJitterConfig, draw_colors

COLORS = np.array([[0, 0, 0], [250, 10, 10], [10, 250, 10], [10, 10, 250], [200, 200, 10]], dtype=np.uint8)


def quadrants(height: int, width: int) -> np.ndarray:
    """Segments 1 to 4, one in each quarter."""
    ids = np.ones((height, width), dtype=np.int32)
    ids[:, width // 2 :] += 1
    ids[height // 2 :] += 2
    return ids


def test_the_whole_image_at_its_own_size_is_unchanged() -> None:
    ids = quadrants(24, 32)
    view = View((24, 32), 0, 0, (24, 32), flipped=False)
    assert np.array_equal(view.of_segments(ids), ids)
    assert np.array_equal(view.of_image(COLORS[ids]), COLORS[ids])


def test_a_flip_a_cut_and_padding_by_hand() -> None:
    ids = quadrants(4, 4)
    assert View((4, 4), 0, 0, (4, 4), flipped=True).of_segments(ids).tolist()[0] == [2, 2, 1, 1]
    cut = View((4, 4), 1, 2, (4, 3), flipped=False).of_segments(ids)
    assert cut.tolist() == [[2, 2, 0], [4, 4, 0], [4, 4, 0], [0, 0, 0]]
    assert View((8, 8), 3, 3, (2, 2), flipped=False).of_segments(ids).tolist() == [[1, 2], [3, 4]]
    beside = draw_jitter((4, 4), JitterConfig((4, 6), (1.0, 1.0), flip=0, padding=(1, 2, 3)), np.random.default_rng(0))
    assert (beside.of_image(COLORS[ids])[:, 4:] == [1, 2, 3]).all() and not beside.of_segments(ids)[:, 4:].any()


def test_ids_of_24_bits_stay_exact() -> None:
    ids = np.array([[2**24 - 1, 2**24 - 2], [12_345_679, 1]], dtype=np.int32)
    view = View((10, 10), 0, 0, (10, 10), flipped=False)
    assert set(np.unique(view.of_segments(ids)).tolist()) == set(ids.ravel().tolist())


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 10_000),
    scale=st.sampled_from([(0.1, 2.0), (1.0, 1.0), (0.01, 0.02), (3.0, 4.0)]),
)  # fmt: skip
def test_views_have_their_size_and_show_nothing_new(height: int, width: int, seed: int, scale: tuple) -> None:
    ids = quadrants(height, width)
    view = draw_jitter((height, width), JitterConfig((32, 48), scale), np.random.default_rng(seed))
    shown = view.of_segments(ids)
    assert shown.shape == (32, 48) and shown.dtype == np.int32
    assert set(np.unique(shown)) <= {0, *np.unique(ids)}
    assert view.of_image(COLORS[ids]).shape == (32, 48, 3)
    assert (shown != 0).any()


@pytest.mark.parametrize("kind", [np.int32, np.int16, bool])
def test_segments_are_those_of_the_nearest_pixels_as_opencv_has_them(kind: type) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        ids = rng.integers(0, 5, size=rng.integers(1, 90, size=2)).astype(kind)
        view = draw_jitter(ids.shape, JitterConfig((32, 48), (0.02, 3.0)), rng)
        mirrored = np.ascontiguousarray(ids[:, ::-1] if view.flipped else ids)
        resized = cv2.resize(mirrored.astype(np.int32), view.resized[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        cut = resized[view.top : view.top + 32, view.left : view.left + 48]
        shown = view.of_segments(ids)
        assert np.array_equal(shown[: cut.shape[0], : cut.shape[1]], cut) and shown.dtype == kind
        assert not shown[cut.shape[0] :].any() and not shown[:, cut.shape[1] :].any()


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("resized", "top", "left"), [((64, 96), 0, 0), ((128, 192), 40, 70), ((40, 60), 0, 0)])
def test_proposed_masks_move_with_the_segments(resized: tuple[int, int], top: int, left: int, flipped: bool) -> None:
    """Masks that are the segments themselves agree with the view of the segments, but for edges."""
    ids = quadrants(96, 144)
    view = View(resized, top, left, (64, 96), flipped)
    masks = torch.from_numpy(ids)[None] == torch.arange(1, 5)[:, None, None]
    found = view.of_masks(masks.float() * 20 - 10, 4) > 0  # (4, 16, 24)
    cells = view.of_segments(ids)[2::4, 2::4]
    wanted = torch.from_numpy(cells)[None] == torch.arange(1, 5)[:, None, None]
    assert (found != wanted).float().mean() < 0.06
    assert (found.any(dim=(1, 2)) == wanted.any(dim=(1, 2))).all()


def test_padding_is_outside_every_mask_and_no_mask_is_fine() -> None:
    view = View((16, 16), 0, 0, (32, 32), flipped=True)
    masks = view.of_masks(torch.full((2, 8, 8), 9.0), 4)
    assert (masks[:, :4, :4] > 0).all() and (masks[:, 4:] == OUTSIDE_LOGIT).all() and (masks[..., 4:] == -20).all()
    assert view.of_masks(torch.zeros(0, 8, 8), 4).shape == (0, 8, 8)


def test_views_are_drawn_again_until_a_wanted_segment_shows() -> None:
    ids = np.zeros((100, 100), dtype=np.int32)
    ids[:12, :12] = 7
    config = JitterConfig((20, 20), (4.0, 4.0), flip=0.0)
    segment = SegmentLabel(7, 0, is_thing=True, is_crowd=False, area=144, declared_area=144)

    def drawn(segments: tuple[SegmentLabel, ...], seed: int) -> View:
        sample = PanopticSample(np.zeros((100, 100, 3), np.uint8), ids, segments, "corner")
        return draw_view(sample, config, np.random.default_rng(seed), 0.0)

    shows = [bool((drawn((segment,), seed).of_segments(ids) == 7).any()) for seed in range(30)]
    plain = [
        bool((draw_jitter((100, 100), config, np.random.default_rng(s)).of_segments(ids) == 7).any()) for s in range(30)
    ]
    assert sum(shows) > sum(plain) and sum(plain) < 15
    assert drawn((), 0).size == drawn((replace(segment, is_crowd=True),), 0).size == (20, 20)


def test_the_short_side_has_every_length_and_long_views_are_cut() -> None:
    sides = tuple(range(32, 129, 32))
    config = ShortSideConfig((64, 64), sides, flip=0.0)
    views = [draw_jitter((40, 60), config, np.random.default_rng(seed)) for seed in range(60)]
    assert {view.resized for view in views} == {(side, round(1.5 * side)) for side in sides}
    assert len({view.left for view in views if view.resized == (128, 192)}) > 3
    small = next(view for view in views if view.resized == (32, 48))
    assert (small.top, small.left) == (0, 0)
    shown = small.of_segments(quadrants(40, 60))
    assert shown[:32, :48].all() and not shown[32:].any() and not shown[:, 48:].any()
    assert not small.of_image(np.full((40, 60, 3), 9, np.uint8))[32:].any()
    assert view_sizes(config) == [(64, 64)] and whole_view((40, 60), config).resized == (43, 64)


@pytest.mark.parametrize("bad", [{"sides": ()}, {"sides": (0,)}, {"sides": (3, 9000)}, {}])
def test_bad_short_sides_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"validation errors? for ShortSideConfig"):
        ShortSideConfig(**{"size": (8, 8), **bad})


@pytest.mark.parametrize("bad", [{"size": (0, 3)}, {"scale": (2.0, 1.0)}, {"scale": (0.0, 1.0)}, {"flip": 1.5}])
def test_bad_jitter_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="1 validation error for JitterConfig"):
        JitterConfig(**{"size": (8, 8), **bad})


def changed(rgb: tuple[int, int, int], change: ColorChange) -> list[int]:
    """What becomes of one pixel."""
    return change.of_image(np.array([[rgb]], np.uint8))[0, 0].tolist()


def test_each_change_of_colours_by_hand() -> None:
    assert changed((10, 100, 240), ColorChange(brightness=32.0)) == [42, 132, 255]
    assert changed((10, 100, 240), ColorChange(brightness=-32.0)) == [0, 68, 208]
    assert changed((10, 100, 240), ColorChange(contrast=1.5)) == [15, 150, 255]
    # Of (200, 100, 100) value is 200 and saturation 1/2; half of that is 1/4, twice that is all of it.
    assert changed((200, 100, 100), ColorChange(saturation=0.5)) == [200, 150, 150]
    assert changed((200, 100, 100), ColorChange(saturation=3.0)) == [200, 0, 0]
    # Red is at 0 degrees, yellow at 60, magenta at -60.
    assert changed((200, 0, 0), ColorChange(hue=60.0)) == [200, 200, 0]
    assert changed((200, 0, 0), ColorChange(hue=-36.0)) == [200, 0, 120]
    assert changed((90, 90, 90), ColorChange(saturation=1.5, hue=30.0)) == [90, 90, 90]  # grey has neither


def test_the_order_of_contrast_matters_where_it_is_cut_off() -> None:
    change = ColorChange(brightness=20.0, contrast=1.5, saturation=0.5)
    # +20: (200, 120, 120), saturation 0.4. First x 1.5: (255, 180, 180), then halfway to grey: (255, 217.5, 217.5).
    assert changed((180, 100, 100), change) in ([255, 217, 217], [255, 218, 218])
    # First halfway to grey: (200, 160, 160), then x 1.5.
    assert changed((180, 100, 100), replace(change, contrast_last=True)) == [255, 240, 240]


def test_no_change_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(ColorChange().of_image(image), image)
    assert np.abs(ColorChange(hue=1e-9).of_image(image).astype(int) - image).max() <= 1  # through HSV and back


def test_each_change_is_drawn_half_the_time_from_its_range() -> None:
    config = ColorJitterConfig(brightness=10, contrast=(0.8, 0.9), saturation=(1.1, 1.2), hue=5)
    rng = np.random.default_rng(0)
    drawn = [draw_colors(config, rng) for _ in range(400)]
    for name, idle, low, high in (
        ("brightness", 0, -10, 10), ("contrast", 1, 0.8, 0.9), ("saturation", 1, 1.1, 1.2), ("hue", 0, -5, 5),
    ):  # fmt: skip
        values = [value for value in (getattr(change, name) for change in drawn) if value != idle]
        assert 150 < len(values) < 250 and all(low <= value <= high for value in values)
    assert 150 < sum(change.contrast_last for change in drawn) < 250


def test_colours_leave_padding_segments_and_the_other_draws_alone() -> None:
    image, ids = np.full((40, 60, 3), 100, np.uint8), quadrants(40, 60)
    plain = ShortSideConfig((48, 48), (32, 40), padding=(128, 128, 128))
    for seed in range(20):
        without = draw_jitter((40, 60), plain, np.random.default_rng(seed))
        colored = draw_jitter((40, 60), replace(plain, colors=ColorJitterConfig()), np.random.default_rng(seed))
        assert without.colors is None and colored == replace(without, colors=colored.colors)
        assert np.array_equal(colored.of_segments(ids), without.of_segments(ids))
        view, side = colored.of_image(image), colored.resized[0]
        assert view.dtype == np.uint8 and (view[side:] == 128).all()
        assert (view[:side] == changed((100, 100, 100), colored.colors)).all()
    assert whole_view((40, 60), replace(plain, colors=ColorJitterConfig())).colors is None


def test_bad_colours_are_refused() -> None:
    for bad in ({"contrast": (1.5, 0.5)}, {"saturation": (2.0, 1.0)}, {"hue": 181.0}, {"brightness": -1.0}):
        with pytest.raises(ValueError, match="1 validation error for ColorJitterConfig"):
            ColorJitterConfig(**bad)
