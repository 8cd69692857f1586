"""The state of a training on disk: written whole or not at all, the last two kept, exactly one of them resumed from.

`last.pt` holds model (trained parameters and buffers), optimiser, gradient scaler, step, and what the log had summed
up. Learning rates are functions of the step, and every step seeds its own random generators, so neither has a state to
keep. `previous.pt` is the checkpoint before. `best.pt` has the model alone, of the best validation; nothing goes on
from it.
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

from ovseg_ros.core.errors import CheckpointError, ConfigError, TrainingError
from ovseg_ros.core.weights.strict import check_fit

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
FREE_TO_CHANGE = frozenset({"steps", "gradient_accumulation", "checkpoint_every", "log_every", "pictures_every"})
"""Of a loop, what a resumed run may set otherwise. More steps stretch the schedule from there on."""
_KEYS = {"model", "optimizer", "scaler", "step", "sums", "config"}

logger = logging.getLogger(__name__)


def has_state(folder: Path) -> bool:
    """Whether a training was begun in this folder."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def steps_done(folder: Path) -> int:
    """Of the newest readable state in a folder; 0 without one. Its tensors stay in the file.

    Raises:
        CheckpointError: none can be read, or it is of something else.
    """
    newest = _newest(folder, mmap=True)
    if newest is None:
        return 0
    path, state, _ = newest
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise CheckpointError(f"{path} is not the state of a training; choose another --out or delete it")
    return int(state["step"])


def _newest(folder: Path, *, mmap: bool = False) -> tuple[Path, Any, list[str]] | None:
    """The newest readable state, and what is wrong with a newer one; None where there is none of either.

    Raises:
        CheckpointError: none can be read.
    """
    faults = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except (PermissionError, IsADirectoryError) as error:
            faults.append(f"{path} cannot be read: {error.strerror}")
        except Exception:  # torn bytes lead to any of a dozen types, whose texts advise to trust the file
            faults.append(f"{path} is damaged ({path.stat().st_size} bytes)")
        else:
            return path, state, faults
    if faults:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read: {'; '.join(faults)}; choose another --out, or delete that folder "
            "to begin anew"
        )
    return None


def require_steps(name: str, steps: int, done: int) -> None:
    """ConfigError if a loop is to end before it has come to."""
    if steps < done:
        raise ConfigError(
            f"{name}: {done} steps are done already, more than the {steps} that are asked; ask for {done} or more "
            "(--steps, or steps of the recipe), or choose another --out to train for fewer"
        )


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
        state = {
            "model": self._kept(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "step": step,
            "sums": dict(sums),
            "config": dict(self.config),
        }
        self._write(LAST, state, step)

    def save_best(self, step: int, score: float) -> None:
        """Write `best.pt` after `step` steps, whose validation had the highest score; errors as of `save`."""
        self._write(BEST, {"model": self._kept(), "step": step, "score": score}, step)

    def best_step(self) -> int:
        """Of `best.pt`; 0 if there is none that can be read."""
        try:
            best = torch.load(self.folder / BEST, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # as of `_newest`
            return 0
        return int(best["step"]) if isinstance(best, dict) and isinstance(best.get("step"), int) else 0

    def _write(self, name: str, state: Mapping[str, Any], step: int) -> None:
        path, unfinished = self.folder / name, self.folder / f".{name}.tmp"
        try:
            with unfinished.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            if name == LAST and path.exists():
                path.replace(self.folder / PREVIOUS)
            unfinished.replace(path)
        except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
            kept = "the last good one is kept" if has_state(self.folder) else "there is none before it"
            raise TrainingError(
                f"cannot write the checkpoint of step {step} to {path}: {error}; {kept}. Free some space and run the "
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
        newest = _newest(self.folder)
        if newest is None:
            return 0, {}
        path, state, faults = newest
        if faults:
            logger.warning("%s; going on from %s instead", faults[0], path)
        try:
            self._fill(state, path)
        except (CheckpointError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} does not fit this configuration; choose another --out or delete it. Cause: {error}"
            ) from error
        return state["step"], state["sums"]

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
