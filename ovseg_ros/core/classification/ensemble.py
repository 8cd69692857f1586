"""The proposer's own classes and CLIP's words, joined as FC-CLIP joins them (Yu et al., NeurIPS 2023, Eq. 7).

Pure functions of probabilities, and the names of classes; `pooled.py` puts them together.

Notation: N classes that the proposer was trained with, K categories of the vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.vocabulary import Category, find_vocabulary, load_vocabulary_file, normalize_name


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


def class_phrases(names: Sequence[str], vocabulary: str | None) -> list[tuple[str, ...]]:
    """Every name of each class: the checkpoint's own, and those of the vocabulary's category at the same place."""
    if vocabulary is None:
        return [(name,) for name in names]
    path = find_vocabulary(vocabulary)
    specs = load_vocabulary_file(path)[: len(names)]
    described = [(spec.name, *spec.synonyms) for spec in specs]
    known = [{normalize_name(phrase) for phrase in phrases} for phrases in described]
    agreeing = sum(normalize_name(name) in phrases for name, phrases in zip(names, known, strict=False))
    if len(described) != len(names) or 2 * agreeing < len(names):
        raise ConfigError(
            f"ensemble.synonyms: {path} does not describe the mask generator's {len(names)} classes ({names[0]}, ...): "
            f"{agreeing} of its {len(described)} categories agree; name another vocabulary, or null"
        )
    return [(name, *phrases) for name, phrases in zip(names, described, strict=True)]


def match_classes(categories: Sequence[Category], class_phrases: Sequence[Sequence[str]]) -> Tensor:
    """Which classes of the proposer are which categories, by any name or synonym that they share.

    Args:
        categories: K, with their synonyms.
        class_phrases: N, each the names of one class.

    Returns:
        (N, K) float32: the share of a class's probability that a category receives. A class that fits several
        categories is shared equally among them; a class that fits none has a row of zeros. A category is *seen* if its
        column is not zero.
    """
    owners: dict[str, set[int]] = {}
    for index, category in enumerate(categories):
        for phrase in (category.name, *category.synonyms):
            owners.setdefault(normalize_name(phrase), set()).add(index)
    shares = torch.zeros(len(class_phrases), len(categories))
    for row, phrases in enumerate(class_phrases):
        fitting = sorted(set().union(*(owners.get(normalize_name(phrase), set()) for phrase in phrases)))
        if fitting:
            shares[row, fitting] = 1 / len(fitting)
    return shares


class ClassShares(NamedTuple):
    """What of the proposer's classes a vocabulary's categories receive, made ready for every frame.

    Attributes:
        shares: (N, K) from `match_classes`.
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
