"""From prompts to categories: what all do who know how well each prompt fits a mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.vocabulary import Vocabulary

IMPOSSIBLE = -1e4
"""Logit of what cannot be; finite, so that a softmax over a row of them stays a number."""


def unit(embeddings: Tensor) -> Tensor:
    """(..., D) of any type -> unit vectors in float32."""
    return F.normalize(embeddings.float(), dim=-1)


def unit_mean(one: Tensor, other: Tensor) -> Tensor:
    """The unit vectors (..., D) between unit vectors."""
    return F.normalize(one + other, dim=-1)


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


def margin(logits: Tensor) -> Tensor:
    """(...): by how much the best of (..., K + 1) logits leads the second."""
    best, second = logits.topk(2, dim=-1).values.unbind(-1)
    return best - second


def of_all(words: Tensor, objectness: Tensor, images: Tensor, queries: Tensor, is_read: Tensor) -> Tensor:
    """Logits of all masks (B, Q, K + 1), as `joined_with_objectness`; those that were not read are "no object".

    Args:
        words: (..., K + 1) logits of mask `queries` (...) of image `images`, which may be one index for several masks.
        objectness: (B, Q).
        is_read: (...) bool, False for rows that only fill up.
    """
    known = joined_with_objectness(words, objectness[images, queries])
    unread = known.new_full(known.shape[-1:], IMPOSSIBLE)
    unread[-1:] = 0.0  # of one number alone, the host would wait for its copy
    logits = unread.repeat(*objectness.shape, 1)
    logits[images, queries] = torch.where(is_read[..., None], known, unread)
    return logits
