"""What new words cost, by shape."""

import pytest

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.tools.count_text import count_text

HALF_PEAK = 0.4 * 989e12
"""FLOPs a second of an H200 in half precision, two fifths of the published peak."""


def test_new_words_of_clip_l() -> None:
    report = count_text("fisa_l", 150)
    assert report == {
        "words": 150,
        "templates": 1,
        "tokens": 16,
        "parameters": 123_650_304,
        "flops": 409_278_873_600,
    }
    assert report["flops"] / HALF_PEAK <= 0.03
    assert count_text("fisa_l", 10_000)["flops"] / HALF_PEAK <= 0.5


def test_new_words_in_fourteen_templates() -> None:
    report = count_text("eomt_l_convnext", 10_000)
    assert report["templates"] == 14 and report["flops"] / HALF_PEAK <= 2
    assert count_text("eomt_l_convnext", 150)["flops"] / HALF_PEAK <= 0.03


def test_new_words_of_the_bundled_preset() -> None:
    report = count_text("tabletop", 100, 6)
    assert report["templates"] == 4 and report["parameters"] == 22_565_376
    assert report["flops"] == 51_093_504_000


def test_words_that_are_read_with_the_image_have_no_tower() -> None:
    with pytest.raises(ConfigError, match="omtseg_b has no text tower"):
        count_text("omtseg_b", 10)
