"""`ovseg train`: a recipe file -> checkpoints, in one seeded and resumable run, on one process or many."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, find_config, from_mapping, load_yaml
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.resources import config_dir
from ovseg_ros.offline.data.files import write_bytes
from ovseg_ros.offline.train.clip import ClipTraining, clip_of, train_clip
from ovseg_ros.offline.train.data import RenderedData
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.eomt import EoMTTraining, network_of, train_eomt
from ovseg_ros.offline.train.fisa import FisaTraining, checkpoint_of, train_fisa
from ovseg_ros.offline.train.lmseg import LMSegTraining, lmseg_checkpoint, train_lmseg
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.omtseg import OMTSegTraining, omtseg_checkpoint, train_omtseg
from ovseg_ros.offline.train.overrides import with_overrides
from ovseg_ros.offline.train.pmp import PmpTraining, guided_checkpoint, train_pmp
from ovseg_ros.offline.train.record import RECORD_NAME, Record, differences, loops_of, plain, record_of
from ovseg_ros.offline.train.state import has_state, require_steps, steps_done
from ovseg_ros.offline.train.usable import leave_presets, require_free
from ovseg_ros.offline.train.validation import open_validation
from ovseg_ros.offline.train.wandb_run import WandbProject

Stage = Annotated[
    EoMTTraining | ClipTraining | FisaTraining | PmpTraining | OMTSegTraining | LMSegTraining,
    Field(discriminator="kind"),
]

_EXAMPLE = "stages: ..."
_LOOP_OPTIONS = {"steps": "--steps", "gradient_accumulation": "--accumulate"}
"""Keys of every loop, and the options that say them."""
_CHANGES_TOLD = 4
"""More of them, as of another number of stages, would hide the first."""

logger = logging.getLogger(__name__)


Precision = Annotated[
    Literal["no", "bf16", "fp16"],
    BeforeValidator(lambda value: "no" if value is False else value),  # as YAML reads it without quotes
]


@dataclass(frozen=True, slots=True, config=STRICT)
class Recipe:
    """A recipe file, `config/training/NAME.yaml`.

    Attributes:
        stages: what to train, one after the other.
        mixed_precision: arithmetic of the networks, unless the command line says; null = `accelerate launch`'s.
        record: what a run adds in OUT/run.yaml; nothing that a new run would read.
    """

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    mixed_precision: Precision | None = None
    record: Record | None = None

    def __post_init__(self) -> None:
        kinds = [stage.kind for stage in self.stages]
        if twice := {kind for kind in kinds if kinds.count(kind) > 1}:
            kind = min(twice)
            raise ValueError(
                f"{kinds.count(kind)} stages of kind {kind}, which would share the state in OUT/{kind}; give each a "
                "recipe and an --out of its own"
            )


def load_recipe(
    recipe: str, overrides: Sequence[str] = (), *, steps: int | None = None, accumulate: int | None = None
) -> Recipe:
    """Read and check a recipe, given its name or a path to a YAML file.

    Args:
        overrides: as of `with_overrides`.
        steps, accumulate: `steps` and `gradient_accumulation` of every loop, instead of the recipe's.

    Raises:
        ConfigError: if there is no such file, with the names that exist, or if it or an override is malformed.
    """
    path = find_config("recipe", recipe, config_dir() / "training")
    config = with_overrides(Recipe, load_yaml(path, example=_EXAMPLE), overrides, path.name)
    changes = {"steps": steps, "gradient_accumulation": accumulate}
    changes = {key: value for key, value in changes.items() if value is not None}
    for override in overrides:
        if (key := override.partition("=")[0].rpartition(".")[2]) in changes:
            raise ConfigError(f"{override} and {_LOOP_OPTIONS[key]} are about the same key; leave one of them out")
    return replace(config, stages=tuple(_with_loops(stage, changes) for stage in config.stages))


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe's file, with all defaults."""
    values = {key: value for key, value in plain(recipe).items() if key != "record" or value is not None}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def train(
    recipe: str,
    *,
    out: Path,
    data: Path | None = None,
    device: str = "auto",
    mixed_precision: str | None = None,
    resume: str = "auto",
    steps: int | None = None,
    accumulate: int | None = None,
    overrides: Sequence[str] = (),
    wandb: str | None = None,
) -> None:
    """Train by a recipe; each of its loops goes on where a stopped run left it.

    Args:
        recipe: as of `load_recipe`.
        out, data: as of `Run`.
        device, mixed_precision: as of `Engine`, but None = the recipe's precision.
        resume: "auto" goes on from the state in `out` if there is one, "require" refuses to begin anew, "never" refuses
            to go on.
        steps, accumulate, overrides: as of `load_recipe`.
        wandb: name of the project of W&B that shows the loops besides, if any.

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad recipe, a foreign or unwanted training state, or bad data.
        OutputError: nothing can be written in `out`.
        TrainingError, TrainingStopped: as `run_loop`.
    """
    config = load_recipe(recipe, overrides, steps=steps, accumulate=accumulate)
    stages = config.stages
    if data is not None and data.exists() and not data.is_dir():
        raise ConfigError(f"--data {data} is a file; expected the folder of the data set, or of rendered views")
    begun = _check_resume(out, resume)
    done = {name: steps_done(out / name) for name in loops_of(stages) if name in begun}
    rendered = all(isinstance(stage, ClipTraining) or isinstance(stage.data, RenderedData) for stage in stages)
    shown = WandbProject(wandb, plain(replace(config, record=None))) if wandb is not None else None
    engine = Engine(device, mixed_precision or config.mixed_precision, shown)
    run = Run(data, out, engine, only_rendered=rendered)
    generator: EoMT | None = None
    try:
        if shown is not None and engine.is_main:
            shown.require()
        results: dict[str, str] = {stage.kind: _result_of(stage) for stage in stages}
        run.check_results(results, begun=bool(begun) or (out / RECORD_NAME).exists())
        require_free(stages, out)
        _keep_record(replace(config, record=record_of(stages, run, results=results, done=done)), run, begun)
        for stage in stages:
            if not isinstance(stage, ClipTraining):  # before the first of them begins
                open_validation(stage.validation, stage.data, run)
        run = replace(run, begins=partial(leave_presets, stages, results, run, begun=bool(begun)))
        for stage in stages:
            match stage:
                case EoMTTraining():
                    generator = train_eomt(stage, run)
                case ClipTraining():
                    train_clip(stage, generator, run)
                case FisaTraining():
                    train_fisa(stage, run)
                case PmpTraining():
                    train_pmp(stage, run)
                case OMTSegTraining():
                    train_omtseg(stage, run)
                case LMSegTraining():
                    train_lmseg(stage, run)
    finally:
        run.engine.close()


def _result_of(stage: Stage) -> str:
    """What its preset, or its network, calls the file of a stage's result."""
    match stage:
        case EoMTTraining():
            return network_of(stage.network).checkpoint
        case ClipTraining():
            return clip_of(stage.preset).checkpoint
        case FisaTraining():
            return checkpoint_of(stage.preset)
        case PmpTraining():
            return guided_checkpoint(stage.preset)
        case OMTSegTraining():
            return omtseg_checkpoint(stage.preset)
        case LMSegTraining():
            return lmseg_checkpoint(stage.preset)


def _with_loops(stage: Stage, changes: Mapping[str, Any]) -> Stage:
    """A stage in which every loop has these values, of the command line."""
    loops = {field.name: getattr(stage, field.name) for field in fields(stage)}
    try:
        loops = {name: replace(loop, **changes) for name, loop in loops.items() if isinstance(loop, LoopConfig)}
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ConfigError(
            f"{_LOOP_OPTIONS[str(fault['loc'][-1])]}: {fault['msg'].replace('Input', 'it')}, got {fault['input']}"
        ) from error
    return replace(stage, **loops)


def _check_resume(out: Path, mode: str) -> list[str]:
    """The loops that were begun in `out`."""
    begun = sorted(folder.name for folder in out.glob("*") if has_state(folder))
    if mode == "require" and not begun:
        raise CheckpointError(f"there is no training in {out} to go on with; check --out, or use --resume auto")
    if mode == "never" and begun:
        raise CheckpointError(
            f"{out} holds a training already ({', '.join(begun)}); choose another --out, or go on with --resume auto"
        )
    return begun


def _keep_record(recipe: Recipe, run: Run, begun: list[str]) -> None:
    """Write what a run is begun with, and every later start; or refuse to go on with anything else that matters."""
    path = run.out / RECORD_NAME
    asked = recipe.record.sessions[-1].loops if recipe.record is not None else {}
    kept = _read_record(path) if path.exists() else None
    if kept is not None and begun:
        recipe = _continued(kept, recipe, run)
    elif begun and run.engine.is_main:
        logger.warning(
            "%s has no %s, as an older version leaves it: of its recipe, only the values of `loop` can be "
            "compared; from now on, this one counts",
            run.out,
            RECORD_NAME,
        )
    for name, loop in asked.items():
        require_steps(name, loop.steps, loop.begun_at)
    if run.engine.is_main:
        write_bytes(path, recipe_yaml(recipe).encode())


def _read_record(path: Path) -> Recipe:
    """The recipe that a run was begun with, with its record; CheckpointError if it is none."""
    try:
        was = from_mapping(Recipe, load_yaml(path, example=_EXAMPLE), path.name)
    except ConfigError as error:
        raise CheckpointError(
            f"the record of the run in {path.parent} is damaged: {error}; restore {path.name}, or delete it if the "
            "recipe and the data are the same"
        ) from error
    if was.record is None:
        raise CheckpointError(
            f"{path} is no run's record, as it has no `record`, but a recipe, which would be written over; give it "
            "another name, or choose another --out"
        )
    return was


def _continued(was: Recipe, now: Recipe, run: Run) -> Recipe:
    """The recipe as it was begun, but to the steps that are asked now, with this start in its record."""
    path = run.out / RECORD_NAME
    assert was.record is not None and now.record is not None  # as `_read_record` and `train` say
    weights = was.record.weights if was.record.weights is not None else now.record.weights  # an older version's
    if changed := list(differences(plain(replace(was, record=replace(was.record, weights=weights))), plain(now))):
        more = f"; and {len(changed) - _CHANGES_TOLD} more" if len(changed) > _CHANGES_TOLD else ""
        raise CheckpointError(
            f"{run.out} was begun with another recipe, data or weights: {'; '.join(changed[:_CHANGES_TOLD])}{more}. "
            f"Choose another --out, or take back what changed ({path} is the recipe as it was)"
        )
    if run.engine.is_main and was.record.version != now.record.version:
        logger.warning(
            "%s was begun by version %s of ovseg_ros, this is %s", run.out, was.record.version, now.record.version
        )
    stages = tuple(_with_steps(old, new) for old, new in zip(was.stages, now.stages, strict=True))
    sessions = (*was.record.sessions, *now.record.sessions)
    return replace(was, stages=stages, record=replace(was.record, weights=weights, sessions=sessions))


def _with_steps(was: Stage, now: Stage) -> Stage:
    """A stage whose loops have as many steps as another's."""
    loops: dict[str, Any] = {field.name: getattr(was, field.name) for field in fields(was)}
    loops = {name: loop for name, loop in loops.items() if isinstance(loop, LoopConfig)}
    return replace(was, **{name: replace(loop, steps=getattr(now, name).steps) for name, loop in loops.items()})
