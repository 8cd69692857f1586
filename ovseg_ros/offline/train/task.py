"""A training in its parts: the run, which consists of stages, and the task that a stage's loop learns."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.train.engine import Engine


@dataclass(frozen=True, slots=True)
class Run:
    """Where the stages of a training read, write and compute.

    Attributes:
        data: --data; None takes each kind of data's own default.
        out: --out; gets a folder of training state for each loop, and the checkpoints.
    """

    data: Path | None
    out: Path
    engine: Engine

    @property
    def views(self) -> Path:
        """Folder of rendered views."""
        return self.data or self.out / "data"

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write what was trained as the checkpoint `name`, in half precision, and say so."""
        if self.engine.is_main:
            save_state_half(tensors, self.out / name)
            print(f"wrote {name} to {self.out}")
        self.engine.wait()


class Task(ABC):
    """A model and what it learns: samples of a step's batch, numbered from 0, a function of (seed, step, number).

    Attributes:
        name: on the progress bar and in errors.
        model: trained in place; the loop moves it to the engine's device.
    """

    name: str
    model: nn.Module

    @abstractmethod
    def losses(self, step: int, samples: range) -> Mapping[str, Tensor]:
        """Named scalars on the model's device, whose sum is minimised: means over the samples that this call computes.

        The loop divides a batch over processes and accumulation parts, and seeds random draws before every call.
        """

    def pictures(self, step: int) -> Mapping[str, np.ndarray]:
        """uint8 RGB pictures (H, W, 3) by name, called in evaluation mode and without gradients; may be none."""
        return {}
