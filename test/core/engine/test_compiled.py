"""Compiled parts: one graph for each size of images, and none for words."""

import pytest
import torch
from parts_support import recorded
from torch._dynamo.testing import CompileCounter
from toy_parts import toy_segmenter, vocabulary

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.buckets import Bucketed
from ovseg_ros.core.engine.compiled import compiled
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.self_check import frames

FIVE = (3, 12, 20, 7, 3)
"""Words of five vocabularies, of which the last is the first again."""

PRESETS = ("tabletop", "tabletop_fisa", "tabletop_pmp", "tabletop_lmseg")


def test_no_graph_for_a_vocabulary_and_one_for_a_size() -> None:
    assert graphs_of_five_vocabularies(toy_segmenter()) == {"masks": [1] * 5, "reading": [1] * 5}
    part, counter = toy_segmenter().model.parts[0], CompileCounter()
    run = compiled(part, counter)
    with torch.inference_mode():
        for side in range(4, 100, 4):  # more than Dynamo's own limit of 8
            run(torch.rand(1, 3, side, 8))
    assert counter.frame_count == 24


def test_batches_and_words_of_one_length_stay_apart() -> None:
    part, counter = toy_segmenter().model.parts[1], CompileCounter()
    run = compiled(part, counter)
    with torch.inference_mode():
        for images, words in ((8, 8), (2, 8), (8, 3), (5, 5)):
            tensors = torch.randn(images, 6, 8), torch.randn(words, 8), torch.zeros(words)
            for found, wanted in zip(run(*tensors), part.module(*tensors), strict=True):
                torch.testing.assert_close(found, wanted)
    assert counter.frame_count == 1


def graphs_of_five_vocabularies(segmenter: PanopticSegmenter) -> dict[str, list[int]]:
    """How many graphs each part has after each vocabulary, as on a GPU in buckets; the last result is as without."""
    image, counters = frames()[0], {}
    wanted = segmenter.segment(image, segmenter.prepare(vocabulary(FIVE[-1])))
    for part in segmenter.model.parts:
        counters[part.name] = CompileCounter()
        part.run = Bucketed(part, compiled(part, counters[part.name]))
    counts: dict[str, list[int]] = {name: [] for name in counters}
    for count in FIVE:
        found = segmenter.segment(image, segmenter.prepare(vocabulary(count)))
        for name, counter in counters.items():
            counts[name].append(counter.frame_count)
    assert (found.category_ids == wanted.category_ids).mean() > 0.999
    return counts


@pytest.mark.parametrize("preset", PRESETS)
def test_bundled_presets_have_no_graph_for_a_vocabulary(preset: str) -> None:
    segmenter = build_segmenter(preset, "cpu")
    assert all(counts == counts[:1] * 5 for counts in graphs_of_five_vocabularies(segmenter).values())


@pytest.mark.parametrize("preset", PRESETS)
def test_filled_up_parts_of_bundled_presets_say_the_same(preset: str) -> None:
    segmenter = build_segmenter(preset, "cpu")
    inputs = recorded(segmenter, frames()[1], vocabulary(5))
    with torch.inference_mode():
        for part in segmenter.model.parts:
            for tensors in inputs[part.name]:
                for found, wanted in zip(Bucketed(part, part.module)(*tensors), part.module(*tensors), strict=True):
                    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
