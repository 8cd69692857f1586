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
import time
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
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.history import best_of, overfitting, read_history
from ovseg_ros.offline.train.log import LOG_NAME, TrainingLog
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.optimization import ScheduledOptimizer
from ovseg_ros.offline.train.state import BEST, FREE_TO_CHANGE, TrainingState, require_steps
from ovseg_ros.offline.train.validation import Validation

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

    def system(self) -> PanopticSegmenter:
        """What would be used: the whole model with the one in training in its place, in evaluation mode.

        Made before each validation. What it keeps of words is not what the training keeps.
        """
        raise NotImplementedError(f"{self.name} is part of nothing that could be validated")

    def result(self) -> Mapping[str, Tensor]:
        """The tensors that are written as its result."""
        return self.model.state_dict()


class TrainingStopped(OvsegError):
    """SIGTERM or Ctrl-C arrived; the state was saved and the same command goes on from it.

    Attributes:
        exit_code: what a process that the signal ended would have: 143 or 130.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_loop(
    task: Task, config: LoopConfig, folder: Path, *, engine: Engine, validation: Validation | None = None
) -> None:
    """Train a task's model in place, on the engine's device; goes on from the checkpoint in `folder` if there is one.

    Args:
        folder: gets `last.pt`, `previous.pt`, `log.jsonl` and `tensorboard/`; with a validation, `best.pt`.

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
        is_validated = validation is None or _is_validated(validation, state, begun_at, config.steps, engine)
        engine.wait()  # all have read the state before the main process replaces it
        saved_at = begun_at
        if validation is not None:
            validation.check(_system(task))
        model.train()
        _announce(engine, task, config, begun_at, shares)
        quiet, wandb = not engine.is_main, engine.wandb
        with TrainingLog(folder, config, task.name, begun_at, sums, quiet=quiet, wandb=wandb) as log:
            if validation is not None and not is_validated:
                _validate(validation, task, engine, state, log, begun_at, saved_at)
            for step in range(begun_at, config.steps):
                rates = scheduled.set_rates(step)
                prepared.zero_grad(set_to_none=True)
                counts = _counts(engine, task, shares, step, config.batch_size)
                with _memory(step, folder, saved_at, shares):
                    computed = _backward(engine, accelerator, losses_of, shares, counts, config.seed, step)
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
                if validation is not None and validation.is_due(done, config.steps):
                    saved_at = _validate(validation, task, engine, state, log, done, saved_at)
        if validation is not None and engine.is_main:
            _tell_best(validation, task.name, folder, config.steps)
    model.eval()


def _is_validated(validation: Validation, state: TrainingState, begun_at: int, steps: int, engine: Engine) -> bool:
    """Whether the validation after `begun_at` steps was done, if it was due.

    A run that was stopped may have saved its state and not come to that; or not to `best.pt`, whose weights this one
    then begins with.
    """
    history = read_history(state.folder / LOG_NAME, validation.of, begun_at)
    best, kept = best_of(history), state.best_step()
    if best is not None and best.score is not None and best.step != kept and engine.is_main:
        if best.step == begun_at:
            state.save_best(begun_at, best.score)
        else:
            logger.warning("%s is not of step %d, the best so far; the next better one replaces it", BEST, best.step)
    return not validation.is_due(begun_at, steps) or any(one.step == begun_at for one in history)


def _system(task: Task) -> PanopticSegmenter:
    """The task's, which may not have drawn anything at random for the training."""
    task.model.eval()
    with torch.random.fork_rng([]), torch.no_grad():
        return task.system()


def _validate(
    validation: Validation,
    task: Task,
    engine: Engine,
    state: TrainingState,
    log: TrainingLog,
    step: int,
    saved_at: int,
) -> int:
    """Validate after `step` steps; returns the step of the newest checkpoint.

    The log is first. A new best comes into a checkpoint before it comes into `best.pt`. So wherever a kill cuts this
    off, the log up to the checkpoint says of which step `best.pt` has to be, and if it is not, the checkpoint is it.
    """
    engine.share(task.model.buffers())  # a batch norm's, which the next step begins with too
    began = time.monotonic()
    figures, pictures = validation.measure(_system(task))
    task.model.train()
    if not engine.is_main:
        return saved_at
    log.validated(step, validation.of, figures, pictures, time.monotonic() - began)
    history = read_history(state.folder / LOG_NAME, validation.of, step)
    best = best_of(history)
    if best is not None and best.score is not None and best.step == step:
        if saved_at != step:
            state.save(step, log.sums)
            saved_at = step
        state.save_best(step, best.score)
    if (told := overfitting(history, validation.config.patience)) is not None:
        logger.warning("%s: %s", task.name, told)
    return saved_at


def _tell_best(validation: Validation, name: str, folder: Path, steps: int) -> None:
    best = best_of(read_history(folder / LOG_NAME, validation.of, steps))
    if best is not None:
        path = folder / BEST
        print(f"{name}: best score {best.score:.2f} at step {best.step}; --preset {path} uses it", flush=True)


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
    engine: Engine,
    accelerator: Accelerator,
    losses_of: nn.Module,
    shares: Sequence[range],
    counts: Tensor,
    seed: int,
    step: int,
) -> dict[str, Tensor]:
    """Gradients of the shares of a batch that this process computes, one after the other; returns its losses."""
    parts = len(shares)
    sums: dict[str, Tensor] = {}
    for part, samples in enumerate(shares, start=1):
        # Processes exchange gradients with the last part alone.
        with accelerator.no_sync(losses_of) if part < parts else nullcontext():
            torch.manual_seed(seed * 1_000_003 + step)
            with engine.computing():
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
