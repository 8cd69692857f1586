"""`ovseg train`: a recipe file -> checkpoints, in one seeded and resumable run, on one process or many."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ovseg_ros.core.config import from_mapping, load_yaml
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.weights.strict import save_half
from ovseg_ros.offline.train.clip import ClipTrainingConfig, train_clip
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.eomt_panoptic import EoMTPanopticConfig, train_eomt_panoptic
from ovseg_ros.offline.train.eomt_tabletop import EoMTTrainingConfig, train_eomt
from ovseg_ros.offline.train.fisa_panoptic import FisaPanopticConfig, train_fisa_panoptic
from ovseg_ros.offline.train.fisa_tabletop import FisaTrainingConfig, train_fisa_tabletop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.state import has_state

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file, `config/training/NAME.yaml`: what to train, and how. One of four kinds.

    Attributes:
        preset, eomt, clip: the tabletop's two networks, with the preset's architectures.
        preset, fisa: FISA on the tabletop, on the preset's trained networks.
        eomt_panoptic: an EoMT on a data set with panoptic ground truth.
        fisa_panoptic: a FISA on frozen proposals for one.
        mixed_precision: "no", "bf16" or "fp16", unless the command line says.
    """

    preset: str | None = None
    eomt: EoMTTrainingConfig | None = None
    clip: ClipTrainingConfig | None = None
    fisa: FisaTrainingConfig | None = None
    eomt_panoptic: EoMTPanopticConfig | None = None
    fisa_panoptic: FisaPanopticConfig | None = None
    mixed_precision: str | None = None

    def __post_init__(self) -> None:
        names = ("preset", "eomt", "clip", "fisa", "eomt_panoptic", "fisa_panoptic")
        given = {name for name in names if getattr(self, name) is not None}
        kinds = ({"preset", "eomt", "clip"}, {"preset", "fisa"}, {"eomt_panoptic"}, {"fisa_panoptic"})
        if given not in kinds:
            raise ValueError(
                "expected one of eomt_panoptic, fisa_panoptic, preset with fisa, and preset with eomt and clip; "
                f"got {', '.join(sorted(given)) or 'none'}"
            )


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
        out: gets one folder of training state for each stage, and the checkpoints in half precision.
        data: of a tabletop recipe, the folder of rendered views, kept for a second run (None = `out`/data); of others,
            the data set's folder (None = below `$OVSEG_DATASETS`).

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad recipe, a foreign or unwanted training state, or bad data.
        TrainingError, TrainingStopped: as `run_loop`.
    """
    options = options or TrainOptions()
    loaded = load_recipe(recipe)
    changes = {"steps": options.steps, "gradient_accumulation": options.gradient_accumulation}
    config = _override(loaded, {key: value for key, value in changes.items() if value is not None})
    _check_resume(out, options.resume)
    engine = Engine(options.device, options.mixed_precision or config.mixed_precision)
    try:
        if config.eomt_panoptic is not None:
            train_eomt_panoptic(config.eomt_panoptic, data, out, engine=engine)
            written = [config.eomt_panoptic.checkpoint]
        elif config.fisa_panoptic is not None:
            train_fisa_panoptic(config.fisa_panoptic, data, out, engine=engine)
            written = [config.fisa_panoptic.checkpoint]
        elif config.fisa is not None and config.preset is not None:
            written = [train_fisa_tabletop(config.preset, config.fisa, data or out / "data", out, engine=engine)]
        else:
            written = _train_tabletop(config, data or out / "data", out, engine)
        engine.wait()
    finally:
        engine.close()
    if engine.is_main:
        print(f"wrote {' and '.join(written)} to {out}")


def _train_tabletop(config: Recipe, data: Path, out: Path, engine: Engine) -> list[str]:
    assert config.preset is not None and config.eomt is not None and config.clip is not None  # the recipe has checked
    preset = load_preset(config.preset)
    if preset.eomt is None or preset.eomt_checkpoint is None or preset.clip is None or preset.clip_checkpoint is None:
        raise ConfigError(
            f"the preset {config.preset} cannot be trained by this recipe: it needs eomt and clip sections"
        )
    generator = train_eomt(preset.eomt, config.eomt, data, out, engine=engine)
    if engine.is_main:
        save_half(generator, out / preset.eomt_checkpoint)
    tower = train_clip(preset.clip, config.clip, generator, data, out, engine=engine)
    if engine.is_main:
        save_half(tower, out / preset.clip_checkpoint)
    return [preset.eomt_checkpoint, preset.clip_checkpoint]


def _check_resume(out: Path, mode: str) -> None:
    begun = sorted(folder.name for folder in out.glob("*") if has_state(folder))
    if mode == "require" and not begun:
        raise CheckpointError(f"there is no training in {out} to go on with; check --out, or use --resume auto")
    if mode == "never" and begun:
        raise CheckpointError(
            f"{out} holds a training already ({', '.join(begun)}); choose another --out, or go on with --resume auto"
        )


def _override(config: T, changes: dict[str, int]) -> T:
    """A copy in which every loop has these values."""
    if isinstance(config, LoopConfig):
        return dataclasses.replace(config, **changes)
    values = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        values[field.name] = _override(value, changes) if dataclasses.is_dataclass(value) else value
    return type(config)(**values)
