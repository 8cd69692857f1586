"""What a training loop needs to know of a training."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn


class Task(ABC):
    """A model and what it learns.

    Samples of a step's batch are numbered from 0. The loop says which of them a call computes, by process and
    accumulation part; what they are is a function of (seed, step, number) alone.

    Attributes:
        name: on the progress bar and in errors.
        model: trained in place; the loop moves it to the engine's device.
    """

    name: str
    model: nn.Module

    @abstractmethod
    def losses(self, step: int, samples: range) -> Mapping[str, Tensor]:
        """Named scalars on the model's device, whose sum is minimised; means over these samples of a step's batch.

        Random draws inside the model are seeded before every call.
        """

    def pictures(self, step: int) -> Mapping[str, np.ndarray]:
        """uint8 RGB pictures (H, W, 3) by name, called in evaluation mode and without gradients; may be none."""
        return {}
