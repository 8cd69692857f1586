"""The node `ovseg` with its real pipeline, but text that costs nothing: hashes instead of a transformer.

Thousands of words and a thousand changes then take seconds.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.backbones.sentence_clip import ClipConfig
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.ros.node.node_process import run_node
from ovseg_ros.ros.node.segment_node import SegmentNode


def make_segmenter(preset: str, device: str, options: EngineOptions, tell: Callable[[str], None]) -> PanopticSegmenter:
    segmenter = build_segmenter(preset, device, options, tell)
    segmenter.model.text_encoder = TextEncoder(hashed_vectors, ["{}"])
    return segmenter


def hashed_vectors(sentences: Sequence[str]) -> Tensor:
    """One random unit vector for each sentence, the same in every process."""
    seeds = [
        int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=4).digest(), "big") for sentence in sentences
    ]
    rows = [np.random.default_rng(seed).normal(size=ClipConfig().embed_dim) for seed in seeds]
    return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)


if __name__ == "__main__":
    run_node(lambda: SegmentNode(make_segmenter), "ovseg")
