"""The reference for BEiT-3: torchscale, which the published weights were trained with."""

import sys
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn

from ovseg_ros.core.backbones.beit3 import UNUSED_ROWS, Beit3Config

Reference = Callable[[Beit3Config], nn.Module]


@pytest.fixture(scope="session")
def torchscale_beit3() -> Reference:
    """Builds torchscale's BEiT-3 of a square image size with random weights, none of them at a special value.

    torchscale imports two functions of fairscale for training on many machines; they are never called.
    """
    fairscale, training = ModuleType("fairscale"), ModuleType("fairscale.nn")
    training.checkpoint_wrapper = training.wrap = None  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it imports names that timm has moved
        patch.setitem(sys.modules, "fairscale", fairscale)
        patch.setitem(sys.modules, "fairscale.nn", training)
        pytest.importorskip("torchscale", reason="pip install --no-deps torchscale==0.3.0")
        from torchscale.architecture.config import EncoderConfig
        from torchscale.model.BEiT3 import BEiT3

    def build(config: Beit3Config) -> nn.Module:
        arguments = EncoderConfig(
            img_size=config.image_size[0],
            patch_size=config.patch_size,
            vocab_size=config.words,
            multiway=True,
            encoder_embed_dim=config.width,
            encoder_attention_heads=config.heads,
            encoder_ffn_embed_dim=config.feed_forward_width,
            encoder_layers=config.layers,
            max_source_positions=config.text_length + UNUSED_ROWS,
            no_output_layer=True,
            layernorm_eps=1e-5,
        )
        model = BEiT3(arguments).eval()
        if model.text_embed.weight.device.type != "meta":
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    return build
