"""From prompts to categories: what all do who know how well each prompt fits a mask."""

import torch
from torch import Tensor

from ovseg_ros.core.vocabulary import Vocabulary

IMPOSSIBLE = -1e4
"""Logit of what cannot be; finite, so that a softmax over a row of them stays a number."""


def best_prompts(prompts: Tensor, owner: Tensor, count: int) -> Tensor:
    """The highest logit among the prompts of each category, (..., K) of (..., P).

    Args:
        owner: (P,) int64 in [0, K), the category of each prompt.
        count: K.
    """
    best = prompts.new_full((*prompts.shape[:-1], count), IMPOSSIBLE)
    return best.scatter_reduce(-1, owner.expand(prompts.shape), prompts, reduce="amax")


def with_none(best: Tensor, none: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Logits (..., K + 1) of categories (..., K) and "none of these" (...); a category "unknown" takes its place."""
    logits = torch.cat([best, none[..., None]], dim=-1)
    unknown = vocabulary.unknown_index
    if unknown is not None:
        logits[..., unknown], logits[..., -1] = none, IMPOSSIBLE
    return logits


def joined_with_objectness(words: Tensor, objectness: Tensor) -> Tensor:
    """A mask is nothing if the proposer says so, or else if no word fits it.

    Args:
        words: (..., K + 1) logits, the last is "none of these".
        objectness: (...), the proposer's probability that the mask is any segment.

    Returns:
        (..., K + 1) logarithms of probabilities, the last is "no object".
    """
    words = words.log_softmax(dim=-1)
    likelihood = objectness[..., None].to(words).clamp(1e-6, 1 - 1e-6)
    nothing = (1 - likelihood * (1 - words[..., -1:].exp())).log()
    return torch.cat([words[..., :-1] + likelihood.log(), nothing], dim=-1)
