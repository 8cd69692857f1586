"""The loop that every training of this project runs in: seeded, resumable, with atomic checkpoints and a log.

The data of step n depend on (seed, n) only, so a run that was killed and resumed sees what an unbroken one would.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ovseg_ros.core.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How long and how fast to learn.

    Attributes:
        steps: optimiser steps.
        batch_size: samples a step.
        learning_rate: peak of AdamW's, after a linear warm-up of `warmup_steps`; falls as (1 - t)^0.9.
        weight_decay: on matrices and convolutions, not on biases, norms or embeddings of width one.
        gradient_clip: largest gradient norm.
        seed: of the initial weights and of every batch.
        checkpoint_every: steps between checkpoints.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.05
    warmup_steps: int = 200
    gradient_clip: float = 1.0
    seed: int = 0
    checkpoint_every: int = 100


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then polynomial decay with power 0.9; in [0, 1]."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    remaining = 1 - (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return max(0.0, remaining) ** 0.9


def run_loop(
    model: nn.Module,
    losses_at: Callable[[int], Mapping[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    *,
    name: str,
) -> None:
    """Train `model` in place; resume from `folder/last.pt` if it is there.

    Args:
        losses_at: step -> named scalars, whose sum is minimised.
        folder: gets `last.pt` (model, optimiser, step) and `log.jsonl` (one line every 20 steps).

    Raises:
        CheckpointError: if `last.pt` belongs to another model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = _make_optimizer(model, config)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    last = folder / "last.pt"
    first_step = _resume(last, model, optimizer, scheduler) if last.exists() else 0
    model.train()
    sums: dict[str, float] = {}
    began = time.monotonic()
    with (
        (folder / "log.jsonl").open("a") as log,
        tqdm(total=config.steps, initial=first_step, desc=name, unit="step", mininterval=5) as bar,
    ):
        for step in range(first_step, config.steps):
            torch.manual_seed(config.seed * 1_000_003 + step)  # the draws inside the model, e.g. mask annealing
            losses = losses_at(step)
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            scheduler.step()
            for key, value in {**losses, "total": total}.items():
                sums[key] = sums.get(key, 0.0) + float(value) / 20
            bar.update()
            if (step + 1) % 20 == 0:
                record = {"step": step + 1, "seconds": round(time.monotonic() - began, 1)}
                log.write(json.dumps({**record, **{key: round(value, 4) for key, value in sums.items()}}) + "\n")
                log.flush()
                bar.set_postfix({key: f"{value:.3f}" for key, value in sums.items()})
                sums = {}
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                _save(last, model, optimizer, scheduler, step + 1)
    model.eval()


def _make_optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.AdamW:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    step: int,
) -> None:
    """Write beside, then rename: a kill or a full disk leaves the previous checkpoint whole."""
    unfinished = path.with_suffix(".tmp")
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "step": step,
    }
    torch.save(state, unfinished)
    unfinished.replace(path)


def _resume(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    except Exception as error:  # torn bytes lead to any of a dozen types
        raise CheckpointError(
            f"{path} does not fit this configuration; choose another --out or delete it. Cause: {error}"
        ) from error
    return int(state["step"])
