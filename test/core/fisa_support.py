"""Tiny CLIPs, proposals and vocabularies for the FISA tests."""

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SCALE = torch.tensor(10.0).log()


def tower(*, quick: bool = False, seed: int = 0, **changes: object) -> VisionTransformer:
    """3 layers of width 32 with 2 heads, 32x32 pixels in 8-pixel patches, into 16 dimensions."""
    torch.manual_seed(seed)
    arguments = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "heads": 2, "mlp_ratio": 2.0}
    arguments |= {"output_dim": 16, "act_layer": QuickGELU if quick else torch.nn.GELU, **changes}
    visual = VisionTransformer(**arguments)
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms too
    return visual.eval()


def make(visual: VisionTransformer | None = None, *, bias: float | None = None, **changes: object) -> FisaClassifier:
    """A FISA on a tiny tower, in evaluation mode, at the tower's own 32 pixels."""
    arguments = {"input_size": 32, "seve_width": 8, "seve_heads": 2, "adapter_width": 4, **changes}
    return FisaClassifier(
        visual if visual is not None else tower(),
        FisaConfig(**arguments),
        logit_scale=SCALE,
        logit_bias=None if bias is None else torch.tensor(bias),
        mean=MEAN,
        std=STD,
    ).eval()


def words(count: int, *, synonyms: int = 0, seed: int = 1) -> TextEmbeddings:
    """`count` categories with random unit vectors, each with `synonyms` more prompts."""
    generator = torch.Generator().manual_seed(seed)
    prompts = count * (1 + synonyms)
    vectors = torch.nn.functional.normalize(torch.randn(prompts, 16, generator=generator), dim=-1)
    vocabulary = Vocabulary.build([CategorySpec(f"word {number}") for number in range(count)])
    return TextEmbeddings(vectors, torch.arange(count).repeat_interleave(1 + synonyms), vocabulary)


def proposals(batch: int, count: int, size: tuple[int, int] = (16, 16), *, closed_set: bool = False) -> MaskProposals:
    """Random smooth masks."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(batch, max(count, 1), 4, 4, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[:, :count]
    logits = torch.randn(batch, count, 3, generator=generator) if closed_set else None
    return MaskProposals(masks, torch.zeros(batch, count, 1), logits)


def photos(batch: int, height: int = 32, width: int = 32) -> Tensor:
    """Random images in [0, 1]."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def stir(classifier: FisaClassifier, amount: float = 0.2) -> FisaClassifier:
    """As if trained: moves everything that trains."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(amount * torch.randn_like(parameter))
    return classifier


def embed(classifier: FisaClassifier, images: Tensor, masks: Tensor, text: TextEmbeddings) -> Tensor:
    """Unit embeddings (B, M, D) of masks (B, M, h, w), step by step."""
    return classifier.embed(classifier.views_of(images, masks), classifier.adapter(masks), classifier.prepare(text))


def classify(classifier: FisaClassifier, images: Tensor, found: MaskProposals, text: TextEmbeddings) -> Tensor:
    """Logits (B, Q, K + 1) of all proposals."""
    return classifier(images, found, classifier.prepare(text))
