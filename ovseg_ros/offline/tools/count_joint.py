"""What of `ovseg count` is about models that make masks and names at once: their size, and what words cost (OMTSeg)."""

from typing import Any

import torch

from ovseg_ros.core.backbones.beit3 import Beit3
from ovseg_ros.core.joint.omtseg.config import OMTSegConfig
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.sections import OMTSegSection
from ovseg_ros.offline.tools.shapes import FEW_WORDS, MANY_WORDS, META, flops_of, parameters_of, print_row

_TOKENS, _OF_NAMES = 500, 133
"""As many as COCO's names have in BEiT-3's tokens, with the mark and the separator of each: 3.76 a name."""
_TITLES = {
    "encoder": "BEiT-3",
    "heads": "heads, projections of words and the mark",
    "trained": "trained in all",
    "trained_positions": "of that, positions of BEiT-3",
}


def omtseg_shapes(architecture: OMTSegConfig) -> OMTSegNetwork:
    """A network on the meta device."""
    with META:
        network = OMTSegNetwork(architecture, Beit3(architecture.encoder)).eval()
    network.requires_grad_(False)  # PyTorch's counter fails on views of parameters that want gradients
    return network.to(META)  # some of its parameters are made elsewhere all the same


def count_omtseg(config: OMTSegSection, words: int) -> dict[str, Any]:
    """Parameters and FLOPs of an OMTSeg at its input size; nothing of the words but their vectors is kept for later."""
    network = omtseg_shapes(config.architecture)
    few, some, many = (_frame(network, number) for number in (FEW_WORDS, words, MANY_WORDS))
    return {
        "parameters": _parameters(network, encoder_is_public=config.encoder_weights is not None),
        "tokens": tokens_of(words),
        "flops": {"frame": some, "each_word": (many - few) // (MANY_WORDS - FEW_WORDS)},
        "words_ratio": {"words": [FEW_WORDS, MANY_WORDS], "frame": many / few},
    }


def _parameters(network: OMTSegNetwork, *, encoder_is_public: bool) -> dict[str, int]:
    encoder = network.encoder
    text = sum(value.numel() for name, value in network.decoder.named_parameters() if ".text_" in name)
    parts = {
        "encoder": parameters_of(encoder),
        "adapter": parameters_of(network.adapter),
        "pixel_decoder": parameters_of(network.pixel_decoder),
        "decoder": parameters_of(network.decoder) - text,
        "text_attention": text,
    }
    heads = parameters_of(network) - sum(parts.values())
    positions = parameters_of(encoder.encoder.embed_positions)
    trained = sum(value.numel() for value in network.trained_state(encoder_is_public=encoder_is_public).values())
    return {**parts, "heads": heads, "trained": trained, "trained_positions": positions}


def _frame(network: OMTSegNetwork, words: int) -> int:
    """FLOPs of an image under a vocabulary."""
    encoder = network.config.encoder
    image = torch.empty(1, 3, *encoder.image_size, device=META)
    text = torch.empty(tokens_of(words), encoder.width, device=META)
    places = torch.arange(words, device=META)
    return flops_of(lambda: network(image, text, places))


def tokens_of(words: int) -> int:
    """Tokens of a text of so many names: a beginning and an end, too."""
    return 2 + round(words * _TOKENS / _OF_NAMES)


def print_omtseg(report: dict[str, Any]) -> None:
    """A readable table on stdout."""
    print(f"preset {report['preset']}, {report['words']} words of {report['tokens']} tokens")
    for name, count in report["parameters"].items():
        print(f"{_TITLES.get(name, name.replace('_', ' ')):40}{'parameters':>14} {count:14,}")
    print_row("an image under these words", "GFLOP", report["flops"]["frame"] / 1e9)
    print_row("each word, between 10 and 1000", "GFLOP", report["flops"]["each_word"] / 1e9)
    few, many = report["words_ratio"]["words"]
    print(f"FLOPs of an image at {many} words over {few}: {report['words_ratio']['frame']:.4f}")
