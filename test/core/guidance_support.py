"""Tiny mask networks that words guide, and words for them."""

import torch
import torch.nn.functional as F
from tiny_mask2former import tiny_mask2former
from torch import Tensor, nn

from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.mask2former import Mask2Former
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords, PromptConfig, PromptGuidance
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

D = 10  # text width
EOMT = {
    "image_size": (64, 64),
    "width": 48,
    "depth": 4,
    "heads": 3,
    "register_tokens": 1,
    "num_queries": 7,
    "num_classes": 5,
    "joint_blocks": 3,
}
PROMPT = PromptConfig(width=8, heads=2)
LITERAL = PromptConfig(width=32, heads=8, residual=False)
KINDS = ("eomt", "eomt_dinov3", "mask2former", "literal")


def mask2former() -> Mask2Former:
    """9 layers of 7 queries of width 32, as published ones but for the widths."""
    return Mask2Former(tiny_mask2former(layers=10))


def plain(kind: str) -> MaskNetwork:
    """A network of a kind in `KINDS` without guidance, in evaluation mode, no weight of which is a constant."""
    torch.manual_seed(0)
    is_eomt = kind.startswith("eomt")
    network = EoMT(EoMTConfig(**EOMT, dinov3=kind == "eomt_dinov3")) if is_eomt else mask2former()
    stir(network, 0.1)
    return network.eval()


def guided(kind: str, *, is_trained: bool = True) -> MaskNetwork:
    """The same with guidance, whose gates are open if it is as if trained."""
    network = plain(kind)
    torch.manual_seed(1)
    network.guidance = PromptGuidance(*network.guided_layers, D, LITERAL if kind == "literal" else PROMPT)
    if is_trained:
        stir(network.guidance, 0.3)
    return network.eval()


def stir(module: nn.Module, amount: float) -> None:
    """As if trained: moves all weights."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(amount * torch.randn_like(parameter))


def images(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    """Normalised ones."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def vectors(*shape: int, seed: int = 3) -> Tensor:
    """Unit vectors (*shape, D)."""
    return F.normalize(torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def prepared(network: MaskNetwork, rows: Tensor, present: Tensor | None = None) -> GuidingWords:
    """Text vectors (P, D) or (B, P, D), each its own category, made ready for a network with guidance."""
    assert network.guidance is not None
    return network.guidance.prepare(rows, present=present)


def text(*names: str, synonyms: int = 0) -> TextEmbeddings:
    """Categories, each with `synonyms` more prompts; a name has the same vector wherever it stands."""
    phrases = [(name, *(f"{name} {number}" for number in range(synonyms))) for name in names]
    vocabulary = Vocabulary.build([CategorySpec(first, synonyms=tuple(others)) for first, *others in phrases])
    owner = torch.arange(len(names)).repeat_interleave(1 + synonyms)
    return TextEmbeddings(read([phrase for group in phrases for phrase in group]), owner, vocabulary)


def read(phrases: list[str]) -> Tensor:
    """Unit vectors (N, D) that depend on the letters."""
    return torch.cat([vectors(1, seed=int.from_bytes(phrase.encode()[-7:])) for phrase in phrases])
