"""On a GPU the host waits once for a frame of any system, or twice at most; who waits is named."""

import numpy as np
import pytest
import torch
from systems import NAMES, system, words_of
from waits import counted_waits

from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

ONCE_MORE = {"LMSeg, components"}
"""What touches what is found out by the host."""


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_of_any_system_waits_once_or_twice(name: str) -> None:
    """Batches and "unknown" included; the results are those of the CPU's way."""
    segmenter = system(name)
    first, *others = words_of(name)
    specs = [CategorySpec(first, synonyms=("globe",)), *map(CategorySpec, others), CategorySpec("unknown")]
    prompt = segmenter.prepare(Vocabulary.build(specs))
    images = list(np.random.default_rng(0).integers(0, 255, (2, 48, 72, 3), dtype=np.uint8))
    expected = segmenter.segment_batch(images, prompt)
    segmenter.device = torch.device("cuda")
    with counted_waits() as waits:
        found = segmenter.segment_batch(images, prompt)
    assert len(waits.found) == (2 if name in ONCE_MORE else 1), "\n".join(waits.found)
    assert waits.found[-1].startswith("core/engine/transfers.py")
    for one, other in zip(found, expected, strict=True):
        assert (one.category_ids == other.category_ids).mean() > 0.99
