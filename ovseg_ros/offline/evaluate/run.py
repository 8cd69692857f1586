"""`ovseg evaluate`: a preset on a data set, whole or in parts, and the merging of parts."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.errors import ConfigError, DatasetError, ImageError
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.data.files import write_bytes
from ovseg_ros.offline.data.open import open_dataset
from ovseg_ros.offline.data.types import PanopticDataset, SemanticDataset
from ovseg_ros.offline.evaluate.figures import LEVEL, RESAMPLES, SEED, figures_of, image_score
from ovseg_ros.offline.evaluate.measure import Evaluator
from ovseg_ros.offline.evaluate.output import print_figures, write_figures
from ovseg_ros.offline.evaluate.partial import append, merge_partials, open_partial
from ovseg_ros.offline.evaluate.pictures import comparison, worst_and_median
from ovseg_ros.offline.evaluate.plan import Plan, Shard, resolved, vocabulary_of
from ovseg_ros.offline.evaluate.predictions import WRITTEN_LAST, Predictions, write_index
from ovseg_ros.offline.evaluate.record import ImageRecord
from ovseg_ros.offline.evaluate.report import Picture, html_report
from ovseg_ros.offline.evaluate.truth import truth_of
from ovseg_ros.offline.words import prepared, say

AnyDataset = PanopticDataset | SemanticDataset

_PICTURES = 6
"""How many of the worst and of the median images the report shows, each."""


def evaluate(
    plan: Plan,
    *,
    root: Path | None = None,
    device: str = "auto",
    engine_folder: Path | None = None,
    on_error: Literal["skip", "stop"] = "skip",
    shard: Shard,
    partial: Path | None = None,
    json_path: Path | None = None,
    report: Path | None = None,
    predictions: Path | None = None,
) -> int:
    """Evaluate a preset, print a table and write figures, report and predictions.

    Args:
        plan: not yet resolved.
        root: the data set's folder; None renders the tabletop, and finds others below `$OVSEG_DATASETS`.
        device: as `build_segmenter` takes it.
        engine_folder: of an export that runs the model; None for its usual place.
        on_error: "skip" notes an image that cannot be read and goes on; "stop" ends the evaluation there.
        partial: file of the images' records, for `merge`. A run that was stopped goes on with it.
        json_path, report: file of the figures, and folder of `report.html`; None for nowhere.
        predictions: folder of the predictions, see `predictions.py`; of a shard, of its PNGs. None for nowhere.

    Returns:
        The exit code: 0, or 1 if an image was skipped.

    Raises:
        OvsegError: preset, weights, data set or vocabulary are wrong, or an image with `on_error` "stop".
    """
    if shard.count > 1 and partial is None:
        raise ConfigError("a shard has no figures of its own; name a file for its results with --partial")
    if shard.count > 1 and (json_path or report):
        raise ConfigError("figures and report are of all shards; ask for them with --merge and the shards' files")
    _require_own_files(json_path, [partial] if partial is not None else [], "--partial")
    _require_own_files(json_path, _index_files(predictions), "--predictions")
    dataset = _open(plan, root)
    if plan.min_objectness is not None and not isinstance(dataset, PanopticDataset):
        raise ConfigError(
            f"--min-objectness would change nothing: {plan.data} has no instances and so no mask recall; leave it out"
        )
    plan = resolved(plan, dataset)
    kept = Predictions(predictions, dataset, plan.images) if predictions is not None else None
    evaluator = _evaluator(plan, dataset, device, engine_folder)
    found_engine = evaluator.segmenter.engine
    say(found_engine.line)
    plan = replace(
        plan,
        device=evaluator.segmenter.device.type,
        engine=found_engine.engine,
        precision=found_engine.precision,
    )
    if kept is not None:
        kept.begin(plan)

    file, records = open_partial(partial, plan, shard) if partial is not None else (None, dict[str, ImageRecord]())
    with file or nullcontext():
        done = {name for name, record in records.items() if not record.fault}  # a faulty file may have been repaired
        if kept is not None and (missing := {name for name in done if not kept.hold(records[name])}):
            say(f"{len(missing)} images of {partial} are evaluated again: their predictions are not in {predictions}")
            done -= missing
        indices = [i for i in shard.of(plan.images) if dataset.name_of(i) not in done]
        for index in tqdm(indices, desc=f"evaluate {plan.data} {plan.split}", unit="image"):
            try:
                record = evaluator.measure(truth_of(dataset[index]), kept.keep if kept is not None else None)
            except (DatasetError, ImageError) as error:
                if on_error == "stop":
                    raise
                record = ImageRecord(dataset.name_of(index), fault=str(error))
            records[record.name] = record
            if file is not None:
                append(file, record)
    found = list(records.values())
    if shard.count > 1:
        print(f"part {shard.number} of {shard.count}: {len(found)} images in {partial}")
    else:
        figures = _write_figures(plan, found, json_path)
        if predictions is not None:
            write_index(predictions, plan, found, _facts(plan))
        if report is not None:
            _write_report(report, plan, found, figures, evaluator, dataset)
        print_figures(plan, figures)  # last: whoever reads may be gone
    return _exit_code(found)


def merge(
    paths: Sequence[Path],
    *,
    root: Path | None = None,
    device: str = "auto",
    engine_folder: Path | None = None,
    json_path: Path | None = None,
    report: Path | None = None,
    predictions: Path | None = None,
) -> int:
    """Print and write the figures of all parts of one evaluation; they equal those of an evaluation in one piece.

    Args:
        paths: what --partial wrote, in any order.
        root, device, engine_folder, json_path, report: as in `evaluate`; a report's pictures are segmented once more.
        predictions: where the parts' PNGs are, which get their index.

    Returns:
        The exit code, as of `evaluate`.

    Raises:
        OvsegError: parts do not fit together, or for the report as in `evaluate`.
    """
    _require_own_files(json_path, paths, "--merge")
    _require_own_files(json_path, _index_files(predictions), "--predictions")
    plan, records = merge_partials(paths)
    dataset = _open(plan, root) if report is not None else None
    if dataset is not None and (difference := plan.difference(resolved(plan, dataset))):
        raise ConfigError(f"this machine has other files than the parts were made with: {difference}")
    if predictions is not None:
        write_index(predictions, plan, records, _facts(plan))
    figures = _write_figures(plan, records, json_path)
    if report is not None and dataset is not None:
        _write_report(report, plan, records, figures, _evaluator(plan, dataset, device, engine_folder), dataset)
    print_figures(plan, figures)
    return _exit_code(records)


def _require_own_files(json_path: Path | None, parts: Sequence[Path], option: str) -> None:
    """ConfigError if the figures would be written over a part."""
    if json_path is not None and json_path.resolve() in [part.resolve() for part in parts]:
        raise ConfigError(
            f"--json {json_path} is a file of {option} too, which it would replace; choose another --json"
        )


def _index_files(predictions: Path | None) -> list[Path]:
    return [predictions / name for name in WRITTEN_LAST] if predictions is not None else []


def _open(plan: Plan, root: Path | None) -> AnyDataset:
    if plan.data != "tabletop" or root is not None:
        return open_dataset(plan.data, root, plan.split)
    # MuJoCo, which needs EGL: not on every machine that evaluates other data.
    from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, RenderedTabletop

    return RenderedTabletop(DatasetConfig(plan.split or "test", plan.images or 300, **plan.scenes))


def _evaluator(plan: Plan, dataset: AnyDataset, device: str, engine_folder: Path | None) -> Evaluator:
    options = EngineOptions(plan.engine, plan.precision, engine_folder)
    segmenter = build_segmenter(plan.preset, device, options, say)
    specs = {
        key: [CategorySpec(name, is_thing=is_thing) for name, (_, is_thing) in zip(names, plan.categories, strict=True)]
        for key, names in plan.renamed.items()
    }
    return Evaluator(
        segmenter,
        prepared(segmenter, vocabulary_of(dataset.categories, plan.vocabulary, tell=say)),
        plan.oracle,
        renamed={key: segmenter.prepare(Vocabulary.build(renamed)) for key, renamed in specs.items()},
        min_objectness=plan.min_objectness or 0.0,
    )


def _write_figures(plan: Plan, records: Sequence[ImageRecord], json_path: Path | None) -> dict[str, Any]:
    figures = figures_of(plan, records)
    bootstrap = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
    write_figures(json_path, {**_facts(plan), "bootstrap": bootstrap, **figures})
    return figures


def _facts(plan: Plan) -> dict[str, Any]:
    """How the figures came to be, but for what they tell themselves."""
    told = ("categories", "groups", "renamed", "images", "synonyms", "scenes")
    facts = {name: value for name, value in asdict(plan).items() if name not in told}
    return {**facts, **plan.scenes, "torch": torch.__version__, "version": _version()}


def _version() -> str:
    try:
        return version("ovseg_ros")
    except PackageNotFoundError:
        return "a checkout that is not installed"


def _write_report(
    folder: Path,
    plan: Plan,
    records: Sequence[ImageRecord],
    figures: dict[str, Any],
    evaluator: Evaluator,
    dataset: AnyDataset,
) -> None:
    """Segments the images that are shown once more: keeping every result for so few would be much."""
    index_of = {dataset.name_of(i): i for i in range(plan.images)}

    def pictures(chosen: Sequence[ImageRecord]) -> list[Picture]:
        shown = []
        for record in chosen:
            index = index_of[record.name]
            truth = truth_of(dataset[index])
            pixels = comparison(truth, *evaluator.segments(truth), evaluator.vocabulary)
            shown.append(Picture(record.name, image_score(record), pixels, dataset.own_names(index).file))
        return shown

    worst, median = worst_and_median(records, _PICTURES)
    made = {
        "version": _version(),
        "command": f"{ovseg_command()} {shlex.join(sys.argv[1:])}",
        "date": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    page = html_report(plan, figures, pictures(worst), pictures(median), made)
    write_bytes(folder / "report.html", page.encode("utf-8", "replace"))
    print(f"report written to {folder / 'report.html'}", file=sys.stderr)


def _exit_code(records: Sequence[ImageRecord]) -> int:
    faults = [record for record in records if record.fault]
    for record in faults[:10]:
        print(f"skipped {record.name}: {record.fault}", file=sys.stderr)
    if len(faults) > 10:
        print(f"and {len(faults) - 10} more", file=sys.stderr)
    return 1 if faults else 0
