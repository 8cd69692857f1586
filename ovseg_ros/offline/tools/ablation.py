"""What the ablations have in common: results that a stopped run goes on from, and images that show seen and unseen."""

import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ovseg_ros.core.config import choices
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.data.files import read_json, write_json
from ovseg_ros.offline.data.tabletop_views import load_or_render
from ovseg_ros.offline.data.types import PanopticSample
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.train.data import RenderedData, RenderedViews
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.fisa import FisaTraining
from ovseg_ros.offline.train.lmseg import LMSegTraining
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.omtseg import OMTSegTraining
from ovseg_ros.offline.train.pmp import PmpTraining
from ovseg_ros.offline.train.run import load_recipe
from ovseg_ros.sim.categories import SEEN, UNSEEN

Stage = TypeVar("Stage", FisaTraining, LMSegTraining, OMTSegTraining, PmpTraining)


def chosen_systems(options: AblateOptions, known: Collection[str]) -> tuple[str, ...]:
    """Those that are asked for, or all; ConfigError for one that does not exist."""
    for system in options.systems or ():
        if system not in known:
            raise ConfigError(f"unknown system {system!r}{choices(system, known)}")
    return tuple(dict.fromkeys(options.systems or known))


def chosen_seeds(options: AblateOptions, count: int) -> range:
    """Those that are asked for; `count` of them unless a number is."""
    return range(options.first_seed, options.first_seed + (options.seeds or count))


def rendered_stage(options: AblateOptions, name: str, kind: type[Stage]) -> tuple[Stage, str]:
    """The stage of the recipe (without one, `tabletop_` and the name), of a kind called `name`, that learns from
    rendered data, with overrides, and the recipe's precision; ConfigError if it has no such stage."""
    name_or_path = options.recipe or f"tabletop_{name}"
    recipe = load_recipe(name_or_path, options.overrides, steps=options.steps)
    for stage in recipe.stages:
        if isinstance(stage, kind) and isinstance(stage.data, RenderedData):
            return stage, recipe.mixed_precision or "no"
    raise ConfigError(f"the recipe {name_or_path} has no stage of kind {name} on rendered data to ablate")


def shortened(loop: LoopConfig, steps: int | None) -> LoopConfig:
    """A loop of so many steps, if a number is asked for, of which it warms up over a tenth at most."""
    steps = steps or loop.steps
    return replace(loop, steps=steps, warmup_steps=min(loop.warmup_steps, max(1, steps // 10)))


def as_stored(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts as they come back from a file: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def result_path(out: Path, name: str, seed: int) -> Path:
    """Where a training's figures are."""
    return out / "runs" / f"{name}-{seed}.json"


def kept_results(out: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of all trainings that were made with these facts; DatasetError for a damaged file."""
    found = [read_json(path, "delete it and it is made again") for path in sorted((out / "runs").glob("*.json"))]
    return [one for one in found if one.get("facts") == facts]


def evaluation_samples(options: AblateOptions, run: Run, asked: frozenset[str] = SEEN | UNSEEN) -> list[PanopticSample]:
    """One view of each of the first scenes.

    Raises:
        ConfigError: of the categories that are asked for, they lack seen or unseen ones.
    """
    views = load_or_render(run.views, options.split, scenes=options.images, views=1)
    dataset = RenderedViews(views, run.views, options.split)
    samples = list(itertools.islice(dataset, options.images))  # shards hold more scenes than asked for
    shown = {dataset.categories[segment.category].name for sample in samples for segment in sample.segments}
    for kind, names in (("seen", SEEN), ("unseen", UNSEEN)):
        if not shown & names & asked:
            raise ConfigError(
                f"the first {len(samples)} images of split {options.split} show no {kind} category; "
                "evaluate more of them, or the split val or test"
            )
    return samples


def run_ablation(
    options: AblateOptions,
    systems: Sequence[str],
    facts: dict[str, Any],
    begin: Callable[[], Callable[[str, int], dict[str, Any]]],
    metrics: Mapping[str, str],
    write_report: Callable[[Path, dict[str, Any], Sequence[Mapping[str, Any]]], None],
    *,
    seeds: int = 2,
) -> None:
    """Make what is missing of some systems' results, each kept and reported as soon as it is there.

    Args:
        begin: called if anything is missing; gives what trains and evaluates a system with a seed.
        metrics: figures to tell, with their titles.
        seeds: of each system, unless a number is asked for.
    """
    out = options.out
    made = {(one["variant"], one["seed"]) for one in kept_results(out, facts)}
    wanted = [(system, seed) for seed in chosen_seeds(options, seeds) for system in systems]
    missing = [key for key in wanted if key not in made]
    if missing:
        figures_of = begin()
        for system, seed in missing:
            result = {"variant": system, "seed": seed, "facts": facts, **figures_of(system, seed)}
            write_json(result_path(out, system, seed), result)
            told = ", ".join(f"{title} {result['figures'][name]:.1f}" for name, title in metrics.items())
            print(f"{system} seed {seed}: {told}", flush=True)
            write_report(out, facts, kept_results(out, facts))
    write_report(out, facts, kept_results(out, facts))


def over_seeds(figures: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """A figure of a system's trainings, seed by seed, beside its mean."""
    found = [one[name] for one in figures]
    return {"mean": sum(found) / len(found), "over_seeds": found, "ci95_of_first_seed": figures[0][f"{name}_interval"]}


def row_of(system: str, results: Sequence[Mapping[str, Any]], metrics: Iterable[str]) -> dict[str, Any] | None:
    """What a system's trainings cost, and figures as of `over_seeds`; None if it has none.

    `results`: of any systems; each with "variant", "seed", "trained_parameters", "training_seconds" and "figures".
    """
    runs = sorted((one for one in results if one["variant"] == system), key=lambda one: one["seed"])
    if not runs:
        return None
    figures = [one["figures"] for one in runs]
    return {
        "system": system,
        "seeds": [one["seed"] for one in runs],
        "trained_parameters": runs[0]["trained_parameters"],
        "training_seconds": [one["training_seconds"] for one in runs],
        **{metric: over_seeds(figures, metric) for metric in metrics},
    }


def cell(figure: Mapping[str, Any] | None) -> str:
    """Mean ± half the range over seeds (interval), for a table."""
    if figure is None:
        return ""
    low, high = figure.get("ci95") or figure["ci95_of_first_seed"]
    spread = (max(figure["over_seeds"]) - min(figure["over_seeds"])) / 2
    return f"{figure['mean']:.1f} ± {spread:.1f} ({low:.1f} to {high:.1f})"
