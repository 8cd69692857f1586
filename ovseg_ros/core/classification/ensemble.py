"""The proposer's own classes and CLIP's words, joined as FC-CLIP joins them (Yu et al., NeurIPS 2023, Eq. 7).

Pure functions of probabilities; `pooled.py` puts them together, by the classes that `class_names.py` matches.

Notation: N classes that the proposer was trained with, K categories of the vocabulary.
"""

from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovseg_ros.core.config import STRICT, Share


@dataclass(frozen=True, slots=True, config=STRICT)
class EnsembleConfig:
    """How much CLIP counts beside the proposer. The defaults are the published ones, not tuned here.

    Attributes:
        alpha: CLIP's share for categories that the proposer was trained with, in [0, 1].
        beta: CLIP's share for all others.
        gamma: how far CLIP's confidence lowers the proposer's "no object", in [0, 1]; 0 leaves it as it is.
        synonyms: vocabulary whose categories describe the proposer's classes, in their order: a name in
            config/vocabularies or a path. None leaves each class only the name that its checkpoint gives it.
        background: words that compete for masks but are never published, beside the vocabulary's own negatives. With
            few words asked for, every mask would otherwise be one of them. Empty for benchmarks, which forbid it.
    """

    alpha: Share = 0.4
    beta: Share = 0.8
    gamma: Share = 0.5
    synonyms: str | None = None
    background: tuple[str, ...] = ()


class ClassShares(NamedTuple):
    """What of the proposer's classes a vocabulary's categories receive, made ready for every frame.

    Attributes:
        shares: (N, K) from `class_names.match_classes`.
        seen: (K,) bool, whether a category is any class.
        unseen: how many are not, or 1.
        clip: (K,) CLIP's share a of each category.
    """

    shares: Tensor
    seen: Tensor
    unseen: int
    clip: Tensor


def class_shares(shares: Tensor, config: EnsembleConfig, device: torch.device) -> ClassShares:
    """Of shares (N, K) on the CPU, their like on `device`."""
    seen = shares.any(dim=0)
    clip = torch.where(seen, config.alpha, config.beta)
    return ClassShares(shares.to(device), seen.to(device), max(1, int((~seen).sum())), clip.to(device))


def in_vocabulary(class_probabilities: Tensor, classes: ClassShares) -> Tensor:
    """The proposer's opinion on the vocabulary; what it gives to classes nobody asked for goes to unseen categories.

    Args:
        class_probabilities: (..., N), without "no object", each row adding up to 1.
        classes: what of them the K categories receive.

    Returns:
        (..., K): seen categories their classes' probability, unseen ones the rest in equal parts. Rows add up to 1
        unless every category is seen.
    """
    matched = class_probabilities @ classes.shares.to(class_probabilities.dtype)  # (..., K)
    rest = (1 - matched.sum(dim=-1, keepdim=True)).clamp(min=0)
    return torch.where(classes.seen, matched, rest / classes.unseen)


def geometric_ensemble(inside: Tensor, clip: Tensor, share: Tensor | float) -> Tensor:
    """p_in^(1 - a) * p_clip^a, made a distribution again.

    Args:
        inside, clip: (..., K) probabilities of the proposer and of CLIP.
        share: a, CLIP's share, in [0, 1]: of all categories, or (K,) of each.

    Returns:
        (..., K), each row adding up to 1.
    """
    smallest = torch.finfo(torch.float32).tiny
    logits = (1 - share) * inside.clamp(min=smallest).log() + share * clip.clamp(min=smallest).log()
    return logits.softmax(dim=-1)


def corrected_void(void: Tensor, clip: Tensor, gamma: float) -> Tensor:
    """COAT's correction: p_void' = p_void * (1 - gamma * max_c p_clip(c)).

    The proposer calls "no object" what it was not trained with; the more certain CLIP is of a word, the less that
    counts.

    Args:
        void: (...) probability of "no object".
        clip: (..., K) CLIP's probabilities.
    """
    return void * (1 - gamma * clip.amax(dim=-1))
