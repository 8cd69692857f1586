"""`ovseg train`: a recipe file -> checkpoints, in one seeded and resumable run, on one process or many."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ovseg_ros.core.config import STRICT, from_mapping, load_yaml
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.resources import config_dir
from ovseg_ros.offline.train.clip import ClipTraining, train_clip
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.eomt import EoMTTraining, train_eomt
from ovseg_ros.offline.train.fisa import FisaTraining, train_fisa
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.state import has_state
from ovseg_ros.offline.train.task import Run

Stage = Annotated[EoMTTraining | ClipTraining | FisaTraining, Field(discriminator="kind")]


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class Recipe:
    """A recipe file, `config/training/NAME.yaml`.

    Attributes:
        stages: what to train, one after the other.
        mixed_precision: arithmetic of the networks, unless the command line says; null = `accelerate launch`'s.
    """

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to run a recipe.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:N".
        mixed_precision: "no", "bf16" or "fp16"; None = the recipe's.
        resume: "auto" goes on from the state in the output folder if there is one, "require" refuses to begin anew,
            "never" refuses to go on.
        steps: of every loop, instead of the recipe's; for trials.
        gradient_accumulation: of every loop, instead of the recipe's; less memory, the same result.
    """

    device: str = "auto"
    mixed_precision: str | None = None
    resume: str = "auto"
    steps: int | None = None
    gradient_accumulation: int | None = None


def recipe_path(recipe: str) -> Path:
    """File of a recipe, given its name or a path to a YAML file.

    Raises:
        ConfigError: if there is no such file, with the names that exist.
    """
    folder = config_dir() / "training"
    path = Path(recipe).expanduser() if recipe.endswith((".yaml", ".yml")) else folder / f"{recipe}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(
            f"there is no recipe {recipe!r} (looked for {path}); choose one of {names} or give a .yaml file"
        )
    return path


def load_recipe(recipe: str) -> Recipe:
    """Read and check a recipe.

    Raises:
        ConfigError: if it is missing or malformed.
    """
    path = recipe_path(recipe)
    return from_mapping(Recipe, load_yaml(path), path.name)


def train(recipe: str, *, out: Path, data: Path | None, options: TrainOptions | None = None) -> None:
    """Train by a recipe; each of its loops goes on where a stopped run left it.

    Args:
        recipe: name of a bundled recipe or path to a YAML file.
        out: gets a folder of training state for each loop, and the checkpoints in half precision.
        data: of rendered views, the folder that keeps them for a second run (None = `out`/data); else the data set's
            folder (None = below `$OVSEG_DATASETS`).

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad recipe, a foreign or unwanted training state, or bad data.
        TrainingError, TrainingStopped: as `run_loop`.
    """
    options = options or TrainOptions()
    changes = {"steps": options.steps, "gradient_accumulation": options.gradient_accumulation}
    config = _override(load_recipe(recipe), {key: value for key, value in changes.items() if value is not None})
    _check_resume(out, options.resume)
    run = Run(data, out, Engine(options.device, options.mixed_precision or config.mixed_precision))
    generator: EoMT | None = None
    try:
        for stage in config.stages:
            match stage:
                case EoMTTraining():
                    generator = train_eomt(stage, run)
                case ClipTraining():
                    train_clip(stage, generator, run)
                case FisaTraining():
                    train_fisa(stage, run)
    finally:
        run.engine.close()


def _check_resume(out: Path, mode: str) -> None:
    begun = sorted(folder.name for folder in out.glob("*") if has_state(folder))
    if mode == "require" and not begun:
        raise CheckpointError(f"there is no training in {out} to go on with; check --out, or use --resume auto")
    if mode == "never" and begun:
        raise CheckpointError(
            f"{out} holds a training already ({', '.join(begun)}); choose another --out, or go on with --resume auto"
        )


def _override(config: Any, changes: dict[str, Any]) -> Any:
    """A copy of a configuration in which every loop has these values."""
    if isinstance(config, LoopConfig):
        return dataclasses.replace(config, **changes)
    if isinstance(config, tuple):
        return tuple(_override(value, changes) for value in config)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    values = {field.name: _override(getattr(config, field.name), changes) for field in dataclasses.fields(config)}
    return type(config)(**values)
