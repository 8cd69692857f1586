"""The loop that every training of this project runs in: seeded, resumable, distributed, with checkpoints and a log.

What step n does depends on (seed, n) and on the shares into which its batch is split, so a run that was killed and
resumed sees what an unbroken one would.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from ovseg_ros.core.errors import OvsegError, TrainingError
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.log import TrainingLog
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.optimization import make_optimizer
from ovseg_ros.offline.train.state import Trained, resume, save_state

_FREE_TO_CHANGE = frozenset({"steps", "gradient_accumulation", "checkpoint_every", "log_every", "pictures_every"})
"""What a resumed run may set otherwise. More steps stretch the schedule from there on."""


class TrainingStopped(OvsegError):
    """SIGTERM arrived; the state was saved and the same command goes on from it."""


def run_loop(
    model: nn.Module,
    losses_at: Callable[[int], Mapping[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    *,
    name: str,
    engine: Engine | None = None,
    pictures_at: Callable[[int], Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Train `model` in place, on the engine's device; goes on from the checkpoint in `folder` if there is one.

    `losses_at` is called for each share of a batch. It asks `engine.samples(config.batch_size)` which samples these
    are, makes them from (seed, step, sample) alone, and runs them through `model` where its parameters lie. Random
    draws inside the model are seeded before every call.

    Args:
        losses_at: step -> named scalars, whose sum is minimised; means over its samples.
        folder: gets `last.pt`, `previous.pt`, `log.jsonl` and `tensorboard/`.
        engine: made anew unless given; give one if `losses_at` uses it.
        pictures_at: step -> uint8 RGB pictures (H, W, 3) by name, in evaluation mode and without gradients.

    Raises:
        CheckpointError: the checkpoint belongs to another model or configuration, or cannot be read.
        TrainingError: the loss or the gradient is not finite, or a file cannot be written; the checkpoint before is
            kept.
        TrainingStopped: after SIGTERM, when the state is saved.
        ConfigError: the batch does not divide over the processes.
    """
    engine = engine or Engine()
    folder.mkdir(parents=True, exist_ok=True)
    model.to(engine.device)
    optimizer = make_optimizer(model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fixed = _plain({key: value for key, value in asdict(config).items() if key not in _FREE_TO_CHANGE})
    with _sigterm() as asked_to_stop, engine.prepared(_Losses(model, losses_at), optimizer) as (stepper, prepared):
        trained = Trained(model, prepared, engine.scaler)
        begun = resume(folder, trained, config=fixed)
        engine.wait()  # all have read the state before the main process replaces it
        saved_at = begun.step
        model.train()
        with TrainingLog(
            folder, config, name=name, first_step=begun.step, sums=begun.sums, quiet=not engine.is_main
        ) as log:
            for step in range(begun.step, config.steps):
                rates = optimizer.set_rates(step)
                prepared.zero_grad(set_to_none=True)
                losses, stop = _backward(engine, stepper, config, step, stop=asked_to_stop.is_set())
                _require_finite(losses, "loss", step, folder, saved_at)
                norm = float(engine.clip(parameters, config.gradient_clip))
                if engine.scaler is None:  # under fp16 an overflow is the scaler's business: it skips the step
                    _require_finite({"norm": norm}, "gradient", step, folder, saved_at)
                prepared.step()
                done = step + 1
                log.add(done, losses, learning_rate=max(rates), gradient_norm=norm)
                if pictures_at is not None and engine.is_main and done % config.pictures_every == 0:
                    log.show(done, _pictures(model, pictures_at, step))
                if done % config.checkpoint_every == 0 or done == config.steps or stop:
                    if engine.is_main:
                        save_state(folder, trained, done, sums=log.sums, config=fixed)
                    saved_at = done
                if stop and done < config.steps:
                    engine.wait()
                    raise TrainingStopped(f"{name} stopped at step {done} of {config.steps}; its state is saved")
    model.eval()


class _Losses(nn.Module):
    """The losses as one module's forward pass, so that the engine's wrappers (DDP, autocast) enclose all of it."""

    def __init__(self, model: nn.Module, losses_at: Callable[[int], Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self._losses_at = losses_at

    def forward(self, step: int) -> dict[str, Tensor]:
        return dict(self._losses_at(step))


def _backward(
    engine: Engine, stepper: nn.Module, config: LoopConfig, step: int, *, stop: bool
) -> tuple[dict[str, float], bool]:
    """Gradients of a whole batch. Returns its losses and whether any process was asked to stop."""
    parts = config.gradient_accumulation
    sums: dict[str, Tensor] = {}
    for part in range(parts):
        with engine.part(stepper, part, parts):
            engine.samples(config.batch_size)  # refuses a batch that does not divide, even if losses_at never asks
            torch.manual_seed(config.seed * 1_000_003 + step + engine.share * 2**40)
            losses = stepper(step)
            total = torch.stack(list(losses.values())).sum()
            engine.backward(total / parts if parts > 1 else total)
        for key, value in {**losses, "total": total}.items():
            sums[key] = sums.get(key, torch.zeros_like(value)) + value.detach() / parts
    flag = next(iter(sums.values())).new_tensor(float(stop))
    values = engine.mean(torch.stack([*[value.float() for value in sums.values()], flag.float()])).tolist()
    return dict(zip(sums, values[:-1], strict=True)), values[-1] > 0


def _require_finite(values: Mapping[str, float], what: str, step: int, folder: Path, saved_at: int) -> None:
    if all(math.isfinite(value) for value in values.values()):
        return
    told = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
    kept = f"the checkpoint of step {saved_at} in {folder} is kept" if saved_at else "there is no checkpoint yet"
    raise TrainingError(
        f"the {what} of step {step + 1} is not finite ({told}); {kept}. Lower the learning rate or the gradient clip, "
        "train in bf16 instead of fp16, or check the data"
    )


@torch.no_grad()
def _pictures(
    model: nn.Module, pictures_at: Callable[[int], Mapping[str, np.ndarray]], step: int
) -> Mapping[str, np.ndarray]:
    model.eval()
    try:
        return pictures_at(step)
    finally:
        model.train()


def _plain(values: object) -> object:
    """Tuples as lists, as they come back from a checkpoint or a YAML file."""
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return values


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, instead of ending the process; outside the main thread nobody can set it."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    former = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, former)
