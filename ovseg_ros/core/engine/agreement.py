"""Whether a model says the same whatever runs it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.engine.fallback import spoils

LEAST_EQUAL = 0.995
"""Share of pixels of the same category, void among them."""

MOST_LOGIT_ERROR = 0.25
"""Median over the pixels of masks that are kept."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was made of one image.

    Attributes:
        categories: (H, W) category ids.
        mask_logits: (Q, h, w).
        class_logits: (Q, K + 1).
        is_kept: (Q,) bool, which masks count.
    """

    categories: np.ndarray
    mask_logits: Tensor
    class_logits: Tensor
    is_kept: Tensor


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near something comes to the reference.

    Attributes:
        is_finite: whether everything is that is finite in the reference.
        equal: share of pixels of the same category.
        logit_error: median difference of the mask logits of kept masks; 0 where there are none.
    """

    is_finite: bool
    equal: float
    logit_error: float

    @property
    def is_enough(self) -> bool:
        """Whether it may take the reference's place."""
        return self.is_finite and self.equal >= LEAST_EQUAL and self.logit_error <= MOST_LOGIT_ERROR

    def __str__(self) -> str:
        if not self.is_finite:
            return "not finite"
        error = f", mask logits off by {self.logit_error:.2f}" if self.logit_error > MOST_LOGIT_ERROR else ""
        return f"{int(self.equal * 10_000) / 100:.2f} % equal{error}"


def agreement(found: Sequence[Sight], reference: Sequence[Sight]) -> Agreement:
    """Of the same images, in the same order."""
    is_finite, equal, pixels = True, 0, 0
    errors = []
    for some, wanted in zip(found, reference, strict=True):
        equal += int((some.categories == wanted.categories).sum())
        pixels += wanted.categories.size
        if some.mask_logits.shape != wanted.mask_logits.shape:
            continue  # as many masks as there are pieces: no mask has a partner, and the pixels judge alone
        for one, other in ((some.mask_logits, wanted.mask_logits), (some.class_logits, wanted.class_logits)):
            is_finite = is_finite and not spoils(one, other)
        kept = wanted.is_kept.to(wanted.mask_logits.device)
        errors.append((some.mask_logits[kept].float() - wanted.mask_logits[kept].float()).abs().flatten())
    together = torch.cat(errors) if errors else torch.zeros(0)
    return Agreement(is_finite, equal / pixels, float(together.median()) if together.numel() else 0.0)
