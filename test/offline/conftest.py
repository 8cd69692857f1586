"""A tiny segmenter, real but for its random weights and words: pooled colours against hashed vectors."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Classifier, TwoStage
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.padded import PaddedProposer
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside the tests

WIDTH = 8


def hashed_vectors(sentences):
    """One random unit vector for each sentence, the same in every process."""
    seeds = [
        int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=4).digest(), "big") for sentence in sentences
    ]
    rows = [np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds]
    return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)


class PooledColourClassifier(Classifier):
    """Scores a mask by its mean colour, projected at random into the text space."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(3, WIDTH)

    def prepare(self, text):
        return text

    def forward(self, images, proposals, text, seen=None, least=0.0):
        masks = proposals.mask_logits.sigmoid()
        pixels = F.interpolate(images, size=masks.shape[-2:])
        colours = torch.einsum("bqhw,bchw->bqc", masks, pixels) / masks.sum(dim=(2, 3))[..., None].clamp(min=1e-6)
        similarity = 40 * F.normalize(self.projection(colours), dim=-1) @ text.vectors.T  # (B, Q, P)
        categories = len(text.vocabulary.categories)
        logits = torch.full((*similarity.shape[:2], categories), -1e4)
        index = text.category_of_prompt.expand(similarity.shape)
        logits = logits.scatter_reduce(-1, index, similarity, reduce="amax")
        return torch.cat([logits, torch.zeros_like(logits[..., :1])], dim=-1)


@pytest.fixture(scope="session")
def tiny_segmenter():
    torch.manual_seed(0)
    size = (32, 48)
    eomt = EoMT(
        EoMTConfig(size, patch_size=16, width=16, depth=2, heads=2, num_queries=6, num_classes=2, joint_blocks=1)
    )
    model = TwoStage(
        PaddedProposer(eomt, size), PooledColourClassifier(), TextEncoder(hashed_vectors, ["{}"]), input_size=size
    )
    merge = MergeConfig(object_threshold=0.0, overlap_threshold=0.0, min_area=1)
    return PanopticSegmenter(model, merge, torch.device("cpu"))


@pytest.fixture
def no_frame_counted(monkeypatch):
    """`ovseg count` without the whole frame, which takes seconds and has tests of its own."""
    frame = {"size": [1, 1], "flops": 0, "weight_bytes": 0, "written_bytes": 0, "parts": {}}
    monkeypatch.setattr("ovseg_ros.offline.tools.count.count_frame", lambda preset, size, words: frame)
