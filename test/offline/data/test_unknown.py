"""The word `unknown` with the bundled preset, from a rendered picture to its segments."""

import numpy as np
import pytest

pytest.importorskip("ovseg_ros.sim.simulator", reason="the picture is rendered by mujoco")

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import UNKNOWN, Vocabulary, color_of_name, parse_names
from ovseg_ros.sim.simulator import TabletopSimulator

KNOWN = "purple cube"


def test_objects_that_no_word_fits_are_unknown_instead_of_void():
    with TabletopSimulator(seed=3, split="val", width=320, height=240) as simulator:
        frame = simulator.render()
    pixels = {
        is_known: np.isin(
            frame.segment_ids,
            [truth.id for truth in frame.segments if truth.is_thing and (truth.label == KNOWN) == is_known],
        )
        for is_known in (True, False)
    }
    assert all(area.sum() > 400 for area in pixels.values())  # both are in the picture
    segmenter = build_segmenter("tabletop", "cpu")

    without = Vocabulary.build(parse_names(f"{KNOWN}, table, floor, wall"))
    result = segmenter.segment(frame.image, segmenter.prepare(without))
    assert np.mean(result.category_ids[pixels[False]] == NO_CATEGORY) > 0.5
    assert UNKNOWN not in {segment.label for segment in result.segments}

    # Case does not matter, and no word changes its id or colour by the company.
    vocabulary = Vocabulary.build(parse_names(f"Unknown, {KNOWN}, table, floor, wall"), previous=without)
    unknown, known = vocabulary.categories[:2]
    assert (unknown.id, unknown.color, unknown.is_thing) == (4, color_of_name(UNKNOWN), True)
    assert known == without.categories[0]
    result = segmenter.segment(frame.image, segmenter.prepare(vocabulary))
    assert result.vocabulary_version == 2
    assert np.mean(result.category_ids[pixels[True]] == known.id) > 0.6
    assert np.mean(result.category_ids[pixels[False]] == unknown.id) > 0.6
    assert np.mean(result.category_ids[pixels[False]] == known.id) < 0.1

    found = [segment for segment in result.segments if segment.label == "Unknown"]
    assert len(found) > 3  # things: each its own segment
    for segment in found:
        mask = result.segment_ids == segment.id
        assert (segment.category_id, segment.is_thing, segment.area) == (unknown.id, True, mask.sum())
        assert np.all(result.category_ids[mask] == unknown.id)
    known_ids = {category.id for category in vocabulary.categories}
    assert set(np.unique(result.category_ids).tolist()) <= known_ids | {NO_CATEGORY}
