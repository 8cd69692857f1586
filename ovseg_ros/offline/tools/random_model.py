"""A preset's model with random weights, which nobody has to fetch first: as fast as with its own, or slower where those
leave out what cannot win."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg_ros.core.devices import pick_device
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.joint.semantic import SemanticModel
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.start import installed
from ovseg_ros.offline.tools.model_shapes import model_shapes

_SPREAD = 0.02
"""Of weights, as vision transformers are initialised."""


def random_segmenter(preset: str, device: str, options: EngineOptions) -> PanopticSegmenter:
    """Finds noise, under any words. Nothing checks its engine and precision, since noise agrees with nothing.

    Raises:
        ConfigError: as of `model_shapes`; the engine cannot run here.
    """
    target = pick_device(device)
    model = model_shapes(preset).to_empty(device=target)
    torch.manual_seed(0)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter, std=_SPREAD)
        for buffer in module.buffers(recurse=False):
            buffer.fill_(1)  # a variance, a scale, a place in a table
    if isinstance(model, TwoStage | SemanticModel):
        width = model.text_encoder.vectors(["word"]).shape[1]

        def encode(sentences: Sequence[str]) -> Tensor:
            return F.normalize(torch.randn(len(sentences), width, device=target), dim=-1)

        model.text_encoder.replace(encode)  # a classifier may hold it too, for words of its own
    segmenter = PanopticSegmenter(model, load_preset(preset).merge, target)
    return installed(segmenter, preset, options)
