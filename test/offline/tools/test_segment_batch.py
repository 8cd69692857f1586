"""Several images of one size in one pass of the networks give what each gives alone."""

import numpy as np
import pytest

from ovseg_ros.core.errors import ImageError
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary


@pytest.fixture(scope="module")
def text(tiny_segmenter):
    return tiny_segmenter.prepare(Vocabulary.build([CategorySpec("cup"), CategorySpec("wall")]))


def images_of(count, size):
    return list(np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [(32, 48), (17, 90)])
def test_a_batch_equals_its_images_one_by_one(tiny_segmenter, text, count, size):
    images = images_of(count, size)
    together = tiny_segmenter.segment_batch(images, text)
    assert len(together) == count
    for image, result in zip(images, together, strict=True):
        alone = tiny_segmenter.segment(image, text)
        # Sums in another order may move a pixel that is undecided.
        assert (result.category_ids == alone.category_ids).mean() > 0.99
        assert np.abs(result.confidence.astype(int) - alone.confidence.astype(int)).mean() < 1
        assert result.segment_ids.shape == size


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([], "one size"),
        ([np.zeros((32, 48, 3), np.uint8), np.zeros((48, 32, 3), np.uint8)], "one size"),
        ([np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)], "RGB"),
    ],
)
def test_what_is_no_batch_is_refused(tiny_segmenter, text, images, reason):
    with pytest.raises(ImageError, match=reason):
        tiny_segmenter.segment_batch(images, text)
