"""The loop that every training of this project runs in: seeded, resumable, distributed, with checkpoints and a log.

What step n does depends on (seed, n) alone, so a run that was killed and resumed sees what an unbroken one would; into
how many shares its batch is split, over processes and accumulation parts, changes rounding only.
"""

import json
import math
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ovseg_ros.core.errors import OvsegError, TrainingError
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.log import TrainingLog
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.optimization import ScheduledAdamW
from ovseg_ros.offline.train.state import FREE_TO_CHANGE, TrainingState


class Task(ABC):
    """A model and what it learns: samples of a step's batch, numbered from 0, a function of (seed, step, number).

    Attributes:
        name: on the progress bar and in errors.
        model: trained in place; the loop moves it to the engine's device.
    """

    name: str
    model: nn.Module

    @abstractmethod
    def losses(self, step: int, samples: range, counts: Tensor) -> Mapping[str, Tensor]:
        """Named scalars on the model's device, whose sum is minimised, of these samples of a batch of B.

        The loop takes the mean over the equal shares of a batch, so what a loss divides by is not the share's own, but
        len(samples) / B of the batch's. Every share begins with the same random state: who draws at random draws for
        the batch, and takes what is the share's.

        Args:
            counts: (B, K), what `counts` says of all samples of the batch.
        """

    def counts(self, step: int, samples: range) -> Tensor:
        """(len(samples), K): how much each sample has of what the losses divide by; K may be 0."""
        return torch.zeros(len(samples), 0)

    def pictures(self, step: int) -> Mapping[str, np.ndarray]:
        """uint8 RGB pictures (H, W, 3) by name, called in evaluation mode and without gradients; may be none."""
        return {}


class TrainingStopped(OvsegError):
    """SIGTERM arrived; the state was saved and the same command goes on from it."""


def run_loop(task: Task, config: LoopConfig, folder: Path, *, engine: Engine) -> None:
    """Train a task's model in place, on the engine's device; goes on from the checkpoint in `folder` if there is one.

    Args:
        folder: gets `last.pt`, `previous.pt`, `log.jsonl` and `tensorboard/`.

    Raises:
        CheckpointError: the checkpoint belongs to another model or configuration, or cannot be read.
        TrainingError: the loss or the gradient is not finite, or a file cannot be written; the checkpoint before is
            kept.
        TrainingStopped: after SIGTERM, when the state is saved.
        ConfigError: the batch does not divide over the processes.
    """
    shares = engine.shares(config.batch_size, config.gradient_accumulation)
    folder.mkdir(parents=True, exist_ok=True)
    model = task.model.to(engine.device)
    optimizer = ScheduledAdamW(model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = json.loads(json.dumps(asdict(config)))  # tuples as lists, as they come back from a checkpoint
    fixed = {key: value for key, value in plain.items() if key not in FREE_TO_CHANGE}
    accelerator = engine.accelerator()
    with _sigterm() as asked_to_stop:
        losses_of, prepared = accelerator.prepare_model(_Losses(task)), accelerator.prepare_optimizer(optimizer)
        state = TrainingState(folder, model, prepared, accelerator.scaler, fixed)
        begun_at, sums = state.resume()
        engine.wait()  # all have read the state before the main process replaces it
        saved_at = begun_at
        model.train()
        with TrainingLog(folder, config, task.name, begun_at, sums, quiet=not engine.is_main) as log:
            for step in range(begun_at, config.steps):
                rates = optimizer.set_rates(step)
                prepared.zero_grad(set_to_none=True)
                counts = _counts(engine, task, shares, step, config.batch_size)
                computed = _backward(accelerator, losses_of, shares, counts, config.seed, step)
                losses, stop = _over_processes(engine, computed, asked_to_stop.is_set())
                _require_finite(losses, "loss", step, folder, saved_at)
                norm = float(accelerator.clip_grad_norm_(parameters, config.gradient_clip))
                if accelerator.scaler is None:  # under fp16 an overflow is the scaler's business: it skips the step
                    _require_finite({"norm": norm}, "gradient", step, folder, saved_at)
                prepared.step()
                done = step + 1
                log.add(done, losses, learning_rate=max(rates), gradient_norm=norm)
                if engine.is_main and done % config.pictures_every == 0:
                    model.eval()
                    with torch.no_grad():
                        log.show(done, task.pictures(step))
                    model.train()
                if done % config.checkpoint_every == 0 or done == config.steps or stop:
                    if engine.is_main:
                        state.save(done, log.sums)
                    saved_at = done
                if stop and done < config.steps:
                    engine.wait()
                    raise TrainingStopped(f"{task.name} stopped at step {done} of {config.steps}; its state is saved")
    model.eval()


class _Losses(nn.Module):
    """A task's losses as one module's forward pass, so that the engine's wrappers (DDP, autocast) enclose all of it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model  # registers its parameters
        self._task = task

    def forward(self, step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        return dict(self._task.losses(step, samples, counts))


def _counts(engine: Engine, task: Task, shares: Sequence[range], step: int, batch_size: int) -> Tensor:
    """The task's counts of a whole batch: (batch size, K) on the engine's device."""
    mine = torch.cat([task.counts(step, samples) for samples in shares]).to(engine.device)
    counts = mine.new_zeros(batch_size, mine.shape[1])
    counts[shares[0].start : shares[-1].stop] = mine
    return engine.sum(counts) if counts.numel() else counts


def _backward(
    accelerator: Accelerator, losses_of: nn.Module, shares: Sequence[range], counts: Tensor, seed: int, step: int
) -> dict[str, Tensor]:
    """Gradients of the shares of a batch that this process computes, one after the other; returns its losses."""
    parts = len(shares)
    sums: dict[str, Tensor] = {}
    for part, samples in enumerate(shares, start=1):
        # Processes exchange gradients with the last part alone.
        with accelerator.no_sync(losses_of) if part < parts else nullcontext():
            torch.manual_seed(seed * 1_000_003 + step)
            losses = losses_of(step, samples, counts)
            total = torch.stack(list(losses.values())).sum()
            accelerator.backward(total / parts if parts > 1 else total)
        for key, value in {**losses, "total": total}.items():
            sums[key] = sums.get(key, torch.zeros_like(value)) + value.detach() / parts
    return sums


def _over_processes(engine: Engine, losses: Mapping[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
    """The losses of a whole batch, and whether any process was asked to stop."""
    flag = torch.tensor(float(stop), device=engine.device)
    values = engine.sum(torch.stack([*(value.float() for value in losses.values()), flag])).tolist()
    return {key: value / engine.world for key, value in zip(losses, values, strict=False)}, values[-1] > 0


def _require_finite(values: Mapping[str, float], what: str, step: int, folder: Path, saved_at: int) -> None:
    if all(math.isfinite(value) for value in values.values()):
        return
    told = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
    kept = f"the checkpoint of step {saved_at} in {folder} is kept" if saved_at else "there is no checkpoint yet"
    raise TrainingError(
        f"the {what} of step {step + 1} is not finite ({told}); {kept}. Lower the learning rate or the gradient clip, "
        "train in bf16 instead of fp16, or check the data"
    )


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, instead of ending the process; outside the main thread nobody can set it."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    former = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, former)
