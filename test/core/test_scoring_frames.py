"""LMSeg in each of its uses, on odd frames and under odd vocabularies."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_lmseg import write_tiny_lmseg, write_tiny_semantic

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

PRESETS = {
    "lmseg": lambda folder: write_tiny_lmseg(folder),
    "semantic": lambda folder: write_tiny_semantic(folder),
    "components": lambda folder: write_tiny_semantic(folder, instances="components", max_instances=5),
    "windows": lambda folder: write_tiny_semantic(folder, scorer={"windows": True}),
    "all words": lambda folder: write_tiny_semantic(folder, instances="components", scorer={"padded_words": 0}),
}
RNG = np.random.default_rng(0)
FRAMES = {
    "one pixel": RNG.integers(0, 256, (1, 1, 3), dtype=np.uint8),
    "black": np.zeros((48, 64, 3), np.uint8),
    "a column": RNG.integers(0, 256, (4000, 10, 3), dtype=np.uint8),
    "white": np.full((48, 64, 3), 255, np.uint8),
    "noise": RNG.integers(0, 256, (96, 64, 3), dtype=np.uint8),
}
WORDS = {
    "one": ["cup"],
    "unknown": ["unknown"],
    "one and unknown": ["unknown", "cup"],
    "a thousand": [f"thing {number}" for number in range(1000)],
}


def words(*names: str) -> Vocabulary:
    """Every third is stuff."""
    return Vocabulary.build([CategorySpec(name, is_thing=place % 3 != 2) for place, name in enumerate(names)])


@pytest.fixture(scope="module", params=PRESETS)
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PanopticSegmenter:
    make: Callable[[Path], Path] = PRESETS[request.param]
    return build_segmenter(str(make(tmp_path_factory.mktemp("preset"))), "cpu")


@pytest.mark.parametrize("asked", WORDS)
def test_odd_frames_and_vocabularies_are_segmented(segmenter: PanopticSegmenter, asked: str) -> None:
    prompt = segmenter.prepare(words(*WORDS[asked]))
    for name, frame in list(FRAMES.items())[: 2 if len(WORDS[asked]) > 2 else None]:  # masks of many words take a while
        result = segmenter.segment(frame, prompt)
        assert result.segment_ids.shape == frame.shape[:2] and result.segments, name
        assert {segment.label for segment in result.segments} <= set(WORDS[asked]), name
        assert result.embeddings is not None and np.isfinite(result.embeddings).all(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_same_map(dtype: torch.dtype) -> None:
    segmenter = build_segmenter("tabletop_lmseg", "cpu")
    with Image.open(Path(__file__).parents[2] / "config/self_check/tabletop_0.jpg") as picture:
        frame = np.array(picture)
    prompt = segmenter.prepare(words("red cube", "blue cup", "table", "green ball", "wall", "floor", "mug"))
    expected = segmenter.segment(frame, prompt).category_ids
    assert len(np.unique(expected)) > 4
    store(segmenter.model, dtype)
    for part in segmenter.model.parts:
        part.dtype = dtype
    assert (segmenter.segment(frame, prompt).category_ids == expected).mean() >= 0.995
