"""The state of a training on disk: written whole or not at all, the last two kept, exactly one of them resumed from.

`last.pt` holds model (trained parameters and buffers), optimiser, gradient scaler, step, and what the log had summed
up. Learning rates are functions of the step, and every step seeds its own random generators, so neither has a state to
keep. `previous.pt` is the checkpoint before.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from ovseg_ros.core.errors import CheckpointError, TrainingError
from ovseg_ros.core.weights.strict import check_fit

LAST, PREVIOUS = "last.pt", "previous.pt"
FREE_TO_CHANGE = frozenset({"steps", "gradient_accumulation", "checkpoint_every", "log_every", "pictures_every"})
"""Of a loop, what a resumed run may set otherwise. More steps stretch the schedule from there on."""
_KEYS = {"model", "optimizer", "scaler", "step", "sums", "config"}

logger = logging.getLogger(__name__)


def has_state(folder: Path) -> bool:
    """Whether a training was begun in this folder."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What changes in a training, and where it is kept.

    Attributes:
        model: on any device.
        scaler: of fp16 gradients.
        config: plain values, what has to be the same in a run that goes on.
    """

    folder: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: GradScaler | None
    config: Mapping[str, Any]

    def save(self, step: int, sums: Mapping[str, float]) -> None:
        """Write `last.pt` after `step` steps, with the log's sums; the former one becomes `previous.pt`.

        Raises:
            TrainingError: it cannot be written; the former checkpoints are as they were.
        """
        last, unfinished = self.folder / LAST, self.folder / f".{LAST}.tmp"
        state = {
            "model": self._kept(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "step": step,
            "sums": dict(sums),
            "config": dict(self.config),
        }
        try:
            with unfinished.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            if last.exists():
                last.replace(self.folder / PREVIOUS)
            unfinished.replace(last)
        except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
            kept = "the last good one is kept" if has_state(self.folder) else "there is none before it"
            raise TrainingError(
                f"cannot write the checkpoint of step {step} to {last}: {error}; {kept}. Free some space and run the "
                "same command again"
            ) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def resume(self) -> tuple[int, dict[str, float]]:
        """Fill model, optimiser and scaler from the newest readable checkpoint.

        A torn `last.pt` is passed over, with a warning, for `previous.pt`.

        Returns:
            Steps done, and the log's sums since its last line; 0 and none where no training was begun.

        Raises:
            CheckpointError: none can be read, or it belongs to another model or another configuration.
        """
        faults = []
        for path in (self.folder / LAST, self.folder / PREVIOUS):
            if not path.exists():
                continue
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torn bytes lead to any of a dozen types
                faults.append(f"{path}: {error}")
                continue
            if faults:
                logger.warning("%s; going on from %s instead", faults[0], path)
            try:
                self._fill(state, path)
            except (CheckpointError, ValueError, KeyError, TypeError, RuntimeError) as error:
                raise CheckpointError(
                    f"{path} does not fit this configuration; choose another --out or delete it. Cause: {error}"
                ) from error
            return state["step"], state["sums"]
        if faults:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be read; choose another --out or delete it. "
                f"Cause: {'; '.join(faults)}"
            )
        return 0, {}

    def _fill(self, state: Any, path: Path) -> None:
        if not isinstance(state, dict) or _KEYS - state.keys():
            raise ValueError("it is not the state of a training")
        was = state["config"]
        changed = [key for key, value in self.config.items() if key in was and was[key] != value]
        if changed:
            raise ValueError(", ".join(f"{key} was {was[key]}, now {self.config[key]}" for key in changed))
        check_fit(self._kept(), state["model"], path)
        self.model.load_state_dict(state["model"], strict=False)  # frozen parameters are not in it; keys are checked
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])

    def _kept(self) -> dict[str, Tensor]:
        """The model's state without frozen parameters, which have files of their own."""
        frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        return {key: value for key, value in self.model.state_dict().items() if key not in frozen}
