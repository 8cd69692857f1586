"""The state of a training on disk: written whole or not at all, the last two kept, exactly one of them resumed from.

`last.pt` holds model (trained parameters and buffers), optimiser, step, gradient scaler, and what the log had summed
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

from ovseg_ros.core.errors import CheckpointError, TrainingError
from ovseg_ros.core.weights.strict import check_fit

LAST, PREVIOUS = "last.pt", "previous.pt"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """What changes in a training. The model may lie on any device."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where to go on: steps done, and the log's sums since its last line."""

    step: int
    sums: dict[str, float]


def has_state(folder: Path) -> bool:
    """Whether a training was begun in this folder."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def save_state(
    folder: Path, trained: Trained, step: int, *, sums: Mapping[str, float], config: Mapping[str, Any]
) -> None:
    """Write `last.pt`; the former one becomes `previous.pt`.

    Args:
        config: what has to be the same in a run that goes on from here; plain values.

    Raises:
        TrainingError: it cannot be written; the former checkpoints are as they were.
    """
    unfinished = folder / f".{LAST}.tmp"
    state = {
        "model": _kept_state(trained.model),
        "optimizer": trained.optimizer.state_dict(),
        "scaler": trained.scaler.state_dict() if trained.scaler is not None else None,
        "step": step,
        "sums": dict(sums),
        "config": dict(config),
    }
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if (folder / LAST).exists():
            (folder / LAST).replace(folder / PREVIOUS)
        unfinished.replace(folder / LAST)
    except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a RuntimeError
        unfinished.unlink(missing_ok=True)
        kept = "the last good one is kept" if has_state(folder) else "there is none before it"
        raise TrainingError(
            f"cannot write the checkpoint of step {step} to {folder / LAST}: {error}; {kept}. Free some space and run "
            "the same command again"
        ) from error


def resume(folder: Path, trained: Trained, *, config: Mapping[str, Any]) -> Resumed:
    """Fill `trained` from the newest readable checkpoint; step 0 if there is none.

    A torn `last.pt` is passed over, with a warning, for `previous.pt`.

    Raises:
        CheckpointError: none can be read, or it belongs to another model or another configuration.
    """
    if not has_state(folder):
        return Resumed(0, {})
    faults = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torn bytes lead to any of a dozen types
            faults.append(f"{path}: {error}")
            continue
        if faults:
            logger.warning("%s; going on from %s instead", faults[0], path)
        return _fill(path, state, trained, config)
    raise CheckpointError(
        f"no checkpoint in {folder} can be read; choose another --out or delete it. Cause: {'; '.join(faults)}"
    )


def _fill(path: Path, state: Any, trained: Trained, config: Mapping[str, Any]) -> Resumed:
    refusal = f"{path} does not fit this configuration; choose another --out or delete it. Cause: "
    if not isinstance(state, dict) or not {"model", "optimizer", "scaler", "step", "sums", "config"} <= state.keys():
        raise CheckpointError(f"{refusal}it is not the state of a training")
    changed = [key for key, value in state["config"].items() if key in config and config[key] != value]
    if changed:
        told = ", ".join(f"{key} was {state['config'][key]}, now {config[key]}" for key in changed)
        raise CheckpointError(f"{refusal}{told}")
    try:
        check_fit(_kept_state(trained.model), state["model"], path)
        trained.model.load_state_dict(state["model"], strict=False)  # frozen parameters are not in it; keys are checked
        trained.optimizer.load_state_dict(state["optimizer"])
        if trained.scaler is not None and state["scaler"]:
            trained.scaler.load_state_dict(state["scaler"])
    except (CheckpointError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{refusal}{error}") from error
    return Resumed(state["step"], state["sums"])


def _kept_state(model: nn.Module) -> dict[str, Tensor]:
    """The state without frozen parameters, which have files of their own."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {key: value for key, value in model.state_dict().items() if key not in frozen}
