"""How long, how fast and on what share of a batch at once a training loop learns."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT

StepCount = Annotated[int, Field(ge=0, le=1_000_000_000)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
Weight = Annotated[float, Field(ge=0, le=1e30)]


def require_weight(*weights: float) -> None:
    """ValueError if a loss of terms with these weights would be 0, so that nothing learned."""
    if not any(weights):
        raise ValueError("class_weight, bce_weight and dice_weight are all 0, so nothing would be learned; raise one")


@dataclass(frozen=True, slots=True, config=STRICT)
class Multiplier:
    """Parameters whose names begin with `prefix` learn at `factor` times the rate."""

    prefix: str
    factor: Weight


@dataclass(frozen=True, slots=True, config=STRICT)
class EncoderSchedule:
    """How a pretrained ViT inside a model learns, after EoMT's recipe.

    Attributes:
        prefix: what the names of its parameters begin with; its blocks are `PREFIXblocks.I.`.
        layer_decay: block i of n learns at layer_decay^(n - 1 - i) times the rate, the embeddings like block 0, the
            final norm at the full rate.
        full_rate_blocks: this many last blocks learn at the full rate (DINOv3 recipes: the joint blocks).
        warmup_steps: its rate is 0 while the rest warms up, then rises over this many steps.
    """

    prefix: str = "encoder."
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    full_rate_blocks: StepCount = 0
    warmup_steps: StepCount = 1000


@dataclass(frozen=True, slots=True, config=STRICT)
class LoopConfig:
    """How long and how fast to learn.

    Attributes:
        steps: optimiser steps.
        batch_size: samples a step, over all processes and accumulation parts together.
        optimizer: "adamw", or "lion" (Chen et al., 2023), whose steps have one size whatever the gradient's.
        learning_rate: its peak, after a linear warm-up of `warmup_steps`, which may be 0.
        schedule: how the rate falls to 0 after that, from t = 0 to 1: "poly", (1 - t)^0.9, or "cosine",
            (1 + cos(pi t)) / 2.
        weight_decay: on matrices and convolutions; on biases, norms and embeddings of width one too if `decay_vectors`.
        not_decayed: parts of names of parameters that are not decayed either, such as positions.
        betas: of the optimiser.
        gradient_clip: largest gradient norm.
        gradient_accumulation: parts into which a process splits its share of a batch, to save memory.
        multipliers: parameters that learn faster or slower.
        encoder: layer-wise decay and the second stage of warm-up, for a pretrained ViT; None = it learns like the rest.
        seed: of the initial weights and of every batch.
        checkpoint_every, log_every, pictures_every: steps between checkpoints, log lines and pictures.
    """

    steps: Annotated[int, Field(ge=1, le=1_000_000_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    learning_rate: Positive
    optimizer: Literal["adamw", "lion"] = "adamw"
    weight_decay: Weight = 0.05
    decay_vectors: bool = False
    not_decayed: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    betas: tuple[Momentum, Momentum] = (0.9, 0.98)
    warmup_steps: StepCount = 200
    schedule: Literal["poly", "cosine"] = "poly"
    gradient_clip: Positive = 1.0
    gradient_accumulation: PositiveInt = 1
    multipliers: tuple[Multiplier, ...] = ()
    encoder: EncoderSchedule | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    checkpoint_every: PositiveInt = 100
    log_every: PositiveInt = 20
    pictures_every: PositiveInt = 500
