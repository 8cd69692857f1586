"""Parameter groups and learning rates: multipliers, layer-wise decay and the two-stage warm-up of EoMT's recipe."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from lion_pytorch import Lion
from torch import nn

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.train.loop_config import EncoderSchedule, LoopConfig


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate over the steps, as a share of its peak.

    Attributes:
        delay: steps with rate 0.
        warmup: steps over which it rises linearly; step 0 of the rise has 1 / warmup.
        steps: where it reaches 0.
        shape: how it falls, as of `LoopConfig.schedule`.
    """

    delay: int
    warmup: int
    steps: int
    shape: Literal["poly", "cosine"] = "poly"

    def __call__(self, step: int) -> float:
        """Share of the peak, in [0, 1]."""
        risen = step - self.delay
        if risen < 0:
            return 0.0
        if risen < self.warmup:
            return (risen + 1) / self.warmup
        remaining = max(0.0, 1 - (risen - self.warmup) / max(1, self.steps - self.delay - self.warmup))
        return remaining**0.9 if self.shape == "poly" else (1 - math.cos(math.pi * remaining)) / 2


class Group(NamedTuple):
    """What parameters that learn alike share.

    Attributes:
        is_vector, is_decayed: of each.
        factor: on the learning rate.
        schedule: of the learning rate.
    """

    is_vector: bool
    is_decayed: bool
    factor: float
    schedule: Schedule


class ScheduledOptimizer:
    """AdamW or Lion, and the learning rates of its groups, which are functions of the step and so have no state.

    Attributes:
        optimizer: the one of the two; it has all of the state.
    """

    def __init__(self, model: nn.Module, config: LoopConfig) -> None:
        """Errors as of `parameter_groups`."""
        groups = parameter_groups(model, config)
        described = [
            {"params": parameters, "weight_decay": config.weight_decay if group.is_decayed else 0.0}
            for group, parameters in groups.items()
        ]
        kind = torch.optim.AdamW if config.optimizer == "adamw" else Lion
        self.optimizer: torch.optim.Optimizer = kind(described, lr=config.learning_rate, betas=config.betas)
        self._rates = [(config.learning_rate * group.factor, group.schedule) for group in groups]

    def set_rates(self, step: int) -> list[float]:
        """Set and return every group's learning rate of a step."""
        rates = [peak * schedule(step) for peak, schedule in self._rates]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return rates


def parameter_groups(model: nn.Module, config: LoopConfig) -> dict[Group, list[nn.Parameter]]:
    """The parameters that require gradients; groups in the order in which they first occur, matrices before vectors.

    Raises:
        ConfigError: a prefix, or a part in `not_decayed`, that no trained parameter's name has, or nothing to train.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ConfigError("the model has no parameter that requires a gradient; nothing would be trained")
    roots = ", ".join(dict.fromkeys(name.partition(".")[0] for name in trained))
    encoder = config.encoder
    for prefix in [multiplier.prefix for multiplier in config.multipliers] + ([encoder.prefix] if encoder else []):
        if not any(name.startswith(prefix) for name in trained):
            raise ConfigError(f"no trained parameter's name begins with {prefix!r}; they begin with {roots}")
    for part in config.not_decayed:
        if not any(part in name for name in trained):
            raise ConfigError(f"not_decayed: no trained parameter's name has {part!r} in it; they begin with {roots}")
    depth = _depth(model, encoder.prefix) if encoder else 0
    groups: dict[Group, list[nn.Parameter]] = {}
    for name, parameter in sorted(trained.items(), key=lambda item: item[1].ndim <= 1):
        is_vector = parameter.ndim <= 1
        is_spared = (is_vector and not config.decay_vectors) or any(part in name for part in config.not_decayed)
        groups.setdefault(Group(is_vector, not is_spared, *_rate(name, depth, config)), []).append(parameter)
    return groups


def _rate(name: str, depth: int, config: LoopConfig) -> tuple[float, Schedule]:
    """A parameter's factor on the learning rate, and its schedule."""
    factor = 1.0
    for multiplier in config.multipliers:
        if name.startswith(multiplier.prefix):
            factor *= multiplier.factor
    encoder = config.encoder
    if encoder is None or not name.startswith(encoder.prefix):
        return factor, Schedule(0, config.warmup_steps, config.steps, config.schedule)
    layer = _layer_factor(name.removeprefix(encoder.prefix), depth, encoder)
    return factor * layer, Schedule(config.warmup_steps, encoder.warmup_steps, config.steps, config.schedule)


def _depth(model: nn.Module, prefix: str) -> int:
    """Number of blocks of the ViT whose parameters' names begin with `prefix`."""
    start = f"{prefix}blocks."
    names = [name for name, _ in model.named_parameters() if name.startswith(start)]
    return 1 + max((int(name.removeprefix(start).split(".")[0]) for name in names), default=0)


def _layer_factor(name: str, depth: int, encoder: EncoderSchedule) -> float:
    """Of a parameter's name inside the ViT: `blocks.3.attn.qkv.weight`, `pos_embed`, `norm.bias`."""
    if name.startswith("norm."):
        return 1.0
    block = int(name.split(".")[1]) if name.startswith("blocks.") else 0
    if name.startswith("blocks.") and block >= depth - encoder.full_rate_blocks:
        return 1.0
    return encoder.layer_decay ** (depth - 1 - block)
