"""A model with random weights runs, background words of its own included."""

from functools import partial

import numpy as np
import pytest
import torch
from guidance_support import plain
from systems import CONVNEXT, SIZE, ensemble, pooled
from torch import Tensor

from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.proposals.padded import PaddedProposer
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.tools import random_model


def shapes(preset: str) -> TwoStage:
    """Without numbers, the text encoder neither."""

    def encode(sentences: object) -> Tensor:
        return torch.empty(len(sentences), 16, device="meta")  # type: ignore[arg-type]

    encoder = TextEncoder(encode, ("{}",))
    background = partial(encoder.encode, Vocabulary.build([CategorySpec("dog"), CategorySpec("sky")]))
    classifier = pooled(CONVNEXT, **ensemble(), background=background)
    return TwoStage(PaddedProposer(plain("eomt"), SIZE), classifier, encoder, SIZE).to("meta")


def test_background_words_are_random_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_model, "model_shapes", shapes)
    segmenter = random_model.random_segmenter("tabletop", "cpu", REPRODUCIBLE)
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("cup")]))
    assert segmenter.segment(np.zeros((40, 60, 3), np.uint8), prompt).segment_ids.shape == (40, 60)
