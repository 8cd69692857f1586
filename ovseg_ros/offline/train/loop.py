"""The loop that every training of this project runs in: seeded, resumable, distributed, with checkpoints and a log.

What step n does depends on (seed, n) alone, so a run that was killed and resumed sees what an unbroken one would; into
how many shares its batch is split, over processes and accumulation parts, changes rounding only.
"""

import json
import logging
import math
import os
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
from ovseg_ros.offline.train.optimization import ScheduledOptimizer
from ovseg_ros.offline.train.state import FREE_TO_CHANGE, TrainingState, require_steps

logger = logging.getLogger(__name__)


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

    def pictures(self) -> Mapping[str, np.ndarray]:
        """uint8 RGB pictures (H, W, 3) by name, of the same images through a run; called in evaluation mode and without
        gradients; may be none."""
        return {}


class TrainingStopped(OvsegError):
    """SIGTERM or Ctrl-C arrived; the state was saved and the same command goes on from it.

    Attributes:
        exit_code: what a process that the signal ended would have: 143 or 130.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_loop(task: Task, config: LoopConfig, folder: Path, *, engine: Engine) -> None:
    """Train a task's model in place, on the engine's device; goes on from the checkpoint in `folder` if there is one.

    Args:
        folder: gets `last.pt`, `previous.pt`, `log.jsonl` and `tensorboard/`.

    Raises:
        CheckpointError: the checkpoint belongs to another model or configuration, or cannot be read.
        TrainingError: the loss or the gradient is not finite, memory does not suffice, or a file cannot be written;
            the checkpoint before is kept.
        TrainingStopped: after SIGTERM or Ctrl-C, when the state is saved.
        ConfigError: the batch does not divide over the processes, or more steps are done than are asked.
    """
    shares = engine.shares(config.batch_size, config.gradient_accumulation)
    folder.mkdir(parents=True, exist_ok=True)
    model = task.model.to(engine.device)
    scheduled = ScheduledOptimizer(model, config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = json.loads(json.dumps(asdict(config)))  # tuples as lists, as they come back from a checkpoint
    fixed = {key: value for key, value in plain.items() if key not in FREE_TO_CHANGE}
    accelerator = engine.accelerator()
    with _stop_signals(engine.is_main) as asked_to_stop:
        losses_of, prepared = (
            accelerator.prepare_model(_Losses(task)),
            accelerator.prepare_optimizer(scheduled.optimizer),
        )
        state = TrainingState(folder, model, prepared, accelerator.scaler, fixed)
        begun_at, sums = state.resume()
        require_steps(task.name, config.steps, begun_at)
        engine.wait()  # all have read the state before the main process replaces it
        saved_at = begun_at
        model.train()
        _announce(engine, task, config, begun_at, shares)
        with TrainingLog(folder, config, task.name, begun_at, sums, quiet=not engine.is_main) as log:
            for step in range(begun_at, config.steps):
                rates = scheduled.set_rates(step)
                prepared.zero_grad(set_to_none=True)
                counts = _counts(engine, task, shares, step, config.batch_size)
                with _memory(step, folder, saved_at, shares):
                    computed = _backward(accelerator, losses_of, shares, counts, config.seed, step)
                losses, stop = _over_processes(engine, computed, bool(asked_to_stop))
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
                        log.show(done, task.pictures())
                    model.train()
                if done % config.checkpoint_every == 0 or done == config.steps or stop:
                    if engine.is_main:
                        state.save(done, log.sums)
                    saved_at = done
                if stop:
                    engine.wait()
                    number = asked_to_stop[0] if asked_to_stop else signal.SIGTERM  # another process was asked
                    message = f"{task.name} stopped at step {done} of {config.steps}; its state is saved"
                    raise TrainingStopped(message, 128 + number)
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
    raise TrainingError(
        f"the {what} of step {step + 1} is not finite ({told}); {_kept(folder, saved_at)}. Go on in bf16 instead of "
        "fp16, check the data, or begin anew with a lower learning rate or gradient clip"
    )


@contextmanager
def _memory(step: int, folder: Path, saved_at: int, shares: Sequence[range]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        advice = f"--accumulate {2 * len(shares)} or more computes the same batch in smaller parts"
        if len(shares[0]) == 1:
            advice = "every part is one sample already: take smaller views, or a larger device"
        raise TrainingError(
            f"memory does not suffice for {len(shares[0])} samples at a time, at step {step + 1}; "
            f"{_kept(folder, saved_at)}; {advice}. Cause: {str(error).splitlines()[0]}"
        ) from error


def _kept(folder: Path, saved_at: int) -> str:
    return f"the checkpoint of step {saved_at} in {folder} is kept" if saved_at else "there is no checkpoint yet"


def _announce(engine: Engine, task: Task, config: LoopConfig, begun_at: int, shares: Sequence[range]) -> None:
    """Say what is about to run, and what the result depends on that it should not."""
    if not engine.is_main:
        return
    parts, size = len(shares), len(shares[0])
    told = f"{engine.world} processes x {parts} parts x {size}"
    print(
        f"{task.name}: steps {begun_at} to {config.steps} on {engine.words}, batch {config.batch_size} = {told}",
        flush=True,
    )
    modules = [module for module in task.model.modules() if module.training]  # the rest stays as it is in use
    norms = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in modules)
    drops = any(type(module).__name__.endswith("DropPath") for module in modules)  # timm's and transformers', if in use
    for has, what in ((norms, "batch norm, which normalises"), (drops, "drop path, which draws for")):
        if has and engine.world * parts > 1:
            logger.warning("%s has %s each share of %d by itself: losses depend on it", task.name, what, size)


@contextmanager
def _stop_signals(speaks: bool) -> Iterator[Sequence[int]]:
    """The signals that asked to stop: SIGTERM or Ctrl-C, which do not end the process, unless Ctrl-C comes later again.

    Outside the main thread nobody can ask.
    """
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        if speaks and number == signal.SIGINT:  # not by print, which may be what is interrupted
            os.write(2, b"\novseg: stopping after this step, to save the state; Ctrl-C again ends at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    former = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
