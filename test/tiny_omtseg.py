"""An OMTSeg in small: as a network, as a model, and as a preset with its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ovseg_ros.core.backbones.beit3 import Beit3, Beit3Config
from ovseg_ros.core.joint.omtseg.config import AdapterConfig, DecoderConfig, OMTSegConfig
from ovseg_ros.core.joint.omtseg.model import OMTSeg
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import WordTokenizer

WORDS = ("red", "green", "blue", "black", "ball", "cube", "cup", "ring", "table", "floor", "wall", "mat")
TINY = OMTSegConfig(
    Beit3Config((64, 96), width=32, layers=4, heads=2, feed_forward_width=64, words=17, text_length=60),
    AdapterConfig(prior_width=4, heads=4, points=2),
    DecoderConfig(32, heads=4, pixel_layers=1, pixel_feed_forward_width=32, queries=7, layers=4, feed_forward_width=32),
    trained_words=40,
)
_PRESET = """\
description: A tiny OMTSeg.
model:
  kind: omtseg
  checkpoint: tiny_omtseg.safetensors
  tokenizer: {{kind: word_list, words: [{words}]}}
  architecture:
    encoder: {{image_size: [64, 96], width: 32, layers: 4, heads: 2, feed_forward_width: 64, words: 17,
               text_length: 60}}
    adapter: {{prior_width: 4, heads: 4, points: 2}}
    decoder: {{width: 32, heads: 4, pixel_layers: 1, pixel_feed_forward_width: 32, queries: 7, layers: 4,
               feed_forward_width: 32}}
    trained_words: 40
merge: {{object_threshold: 0.0, overlap_threshold: 0.0, min_area: 1}}
"""


def tiny_network(config: OMTSegConfig = TINY, *, amount: float = 0.05, **changes: Any) -> OMTSegNetwork:
    """`config` but for `changes`, in evaluation mode, no weight of which is a constant and no gate shut."""
    torch.manual_seed(0)
    config = replace(config, **changes)
    network = OMTSegNetwork(config, Beit3(config.encoder))
    stir(network, amount)
    return network.eval()


def tiny_omtseg(config: OMTSegConfig = TINY, *, unknown_likeness: float = 0.3, **changes: Any) -> OMTSeg:
    """`tiny_network` behind the seam; it knows `WORDS`."""
    network = tiny_network(config, **changes)
    return OMTSeg(network, WordTokenizer(WORDS), unknown_likeness=unknown_likeness).eval()


def write_tiny_omtseg(folder: Path) -> Path:
    """The preset of `tiny_omtseg()`, tiny_omtseg.yaml, with its weights beside it; every mask becomes a segment."""
    save_file(tiny_network().state_dict(), folder / "tiny_omtseg.safetensors")
    preset = folder / "tiny_omtseg.yaml"
    preset.write_text(_PRESET.format(words=", ".join(WORDS)))
    return preset


def stir(module: nn.Module, amount: float) -> None:
    """As if trained: moves all weights."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
