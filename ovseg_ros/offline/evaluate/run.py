"""`ovseg evaluate --data`: a preset on a data set, whole or in parts, and the merging of parts."""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.errors import ConfigError, DatasetError, ImageError
from ovseg_ros.core.presets import checkpoint_paths, preset_path
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.files import sha256_of, write_bytes, write_json
from ovseg_ros.offline.data.open import open_dataset
from ovseg_ros.offline.data.types import PanopticDataset, SemanticDataset
from ovseg_ros.offline.evaluate.figures import BOOTSTRAP, figures_of, image_score, without_nan
from ovseg_ros.offline.evaluate.measure import Evaluator
from ovseg_ros.offline.evaluate.oracle import Oracle
from ovseg_ros.offline.evaluate.partial import PartialFile, merge_partials
from ovseg_ros.offline.evaluate.pictures import comparison, worst_and_median
from ovseg_ros.offline.evaluate.plan import Plan, Shard, fingerprint, vocabulary_of
from ovseg_ros.offline.evaluate.record import ImageRecord
from ovseg_ros.offline.evaluate.report import Picture, html_report
from ovseg_ros.offline.evaluate.truth import truth_of

OnError = Literal["skip", "stop"]


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """What is to be evaluated.

    Attributes:
        preset: name of a preset or path of its YAML.
        data, root, split: as `open_dataset` takes them.
        vocabulary: see `vocabulary_of`; None for the data set's own.
        oracle: which stage an oracle replaces; None for none.
        images: at most so many, the first of the split; None for all.
        on_error: "skip" notes an image that cannot be read and goes on; "stop" ends the evaluation there.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """

    preset: str
    data: str
    root: Path | None = None
    split: str = "val"
    vocabulary: str | None = None
    oracle: Oracle | None = None
    images: int | None = None
    on_error: OnError = "skip"
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where results go; None for nowhere.

    Attributes:
        json: file of the figures.
        report: folder of `report.html`.
        pictures: how many of the worst and of the median images the report shows, each.
    """

    json: Path | None = None
    report: Path | None = None
    pictures: int = 6


def evaluate_dataset(
    job: EvaluationJob, outputs: Outputs, *, shard: Shard | None = None, partial: Path | None = None
) -> int:
    """Evaluate a preset, print a table and write figures and report.

    Args:
        job: what to evaluate.
        outputs: where figures go; of several parts, none has any but `partial`.
        shard: the part of the images to evaluate; None for all.
        partial: file of the images' records, for `merge_evaluation`. A run that was stopped goes on with it.

    Returns:
        The exit code: 0, or 1 if an image was skipped.

    Raises:
        OvsegError: preset, weights, data set or vocabulary are wrong, or an image with `on_error` "stop".
    """
    shard = shard or Shard()
    if shard.count > 1 and partial is None:
        raise ConfigError("a shard has no figures of its own; name a file for its results with --partial")
    if shard.count > 1 and (outputs.json or outputs.report):
        raise ConfigError("figures and report are of all shards; ask for them with --merge and the shards' files")
    dataset = open_dataset(job.data, job.root, job.split)
    vocabulary = vocabulary_of(dataset.categories, job.vocabulary)
    plan = plan_of(job, dataset, vocabulary)
    evaluator = _evaluator(job.preset, job.device, vocabulary, job.oracle)

    records: dict[str, ImageRecord] = {}
    with ExitStack() as stack:
        file = stack.enter_context(PartialFile(partial, plan, shard)) if partial is not None else None
        if file is not None:
            records.update(file.records)
        indices = [i for i in shard.of(plan.images) if _is_open(records.get(dataset.name_of(i)))]
        for index in tqdm(indices, desc=f"evaluate {job.data} {job.split}", unit="image"):
            record = _measure(evaluator, dataset, index, job.on_error)
            records[record.name] = record
            if file is not None:
                file.add(record)
    if shard.count > 1:
        print(f"part {shard.number} of {shard.count}: {len(records)} images in {partial}")
        return _exit_code(list(records.values()))
    return _publish(plan, list(records.values()), outputs, evaluator, dataset)


def merge_evaluation(paths: Sequence[Path], outputs: Outputs, *, root: Path | None = None, device: str = "auto") -> int:
    """Print and write the figures of all parts of one evaluation; they equal those of an evaluation in one piece.

    Args:
        paths: what --partial wrote, in any order.
        outputs: where figures go. For the report's pictures, some images are segmented once more.
        root: of the data set, for the report.
        device: as in `EvaluationJob`, for the report.

    Returns:
        The exit code: 0, or 1 if an image was skipped.

    Raises:
        OvsegError: parts do not fit together, or for the report as in `evaluate_dataset`.
    """
    plan, records = merge_partials(paths)
    if outputs.report is None:
        return _publish(plan, records, outputs, None, None)
    dataset = open_dataset(plan.data, root, plan.split)
    vocabulary = vocabulary_of(dataset.categories, plan.vocabulary or None)
    job = EvaluationJob(
        plan.preset, plan.data, root, plan.split, plan.vocabulary or None, _oracle(plan.oracle), plan.images
    )
    if difference := plan.difference(plan_of(job, dataset, vocabulary)):
        raise ConfigError(f"this machine has other files than the parts were made with: {difference}")
    return _publish(plan, records, outputs, _evaluator(plan.preset, device, vocabulary, job.oracle), dataset)


def plan_of(job: EvaluationJob, dataset: PanopticDataset | SemanticDataset, vocabulary: Vocabulary) -> Plan:
    """The facts of an evaluation."""
    return Plan(
        preset=job.preset,
        preset_sha256=sha256_of(preset_path(job.preset)),
        checkpoints=_digests(checkpoint_paths(job.preset)),
        data=job.data,
        split=job.split,
        images=len(dataset) if job.images is None else min(job.images, len(dataset)),
        oracle=job.oracle or "",
        vocabulary=job.vocabulary or "",
        vocabulary_sha256=fingerprint(vocabulary),
        categories=[[category.name, category.is_thing] for category in dataset.categories],
        is_panoptic=isinstance(dataset, PanopticDataset),
    )


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 by file name; two files of one name are numbered."""
    digests: dict[str, str] = {}
    for path in paths:
        name = path.name if path.name not in digests else f"{path.name} ({len(digests) + 1})"
        digests[name] = sha256_of(path)
    return digests


def _evaluator(preset: str, device: str, vocabulary: Vocabulary, oracle: Oracle | None) -> Evaluator:
    segmenter = build_segmenter(preset, device)
    return Evaluator(segmenter, segmenter.prepare(vocabulary), oracle)


def _is_open(record: ImageRecord | None) -> bool:
    """Whether an image is still to be evaluated; one with a fault is, since its file may have been repaired."""
    return record is None or bool(record.fault)


def _measure(
    evaluator: Evaluator, dataset: PanopticDataset | SemanticDataset, index: int, on_error: OnError
) -> ImageRecord:
    try:
        return evaluator.measure(truth_of(dataset[index]))
    except (DatasetError, ImageError) as error:
        if on_error == "stop":
            raise
        return ImageRecord(dataset.name_of(index), fault=str(error))


def _publish(
    plan: Plan,
    records: list[ImageRecord],
    outputs: Outputs,
    evaluator: Evaluator | None,
    dataset: PanopticDataset | SemanticDataset | None,
) -> int:
    figures = figures_of(plan, records)
    facts = {name: value for name, value in plan.to_json().items() if name not in ("categories", "images")}
    print_figures(plan, figures)
    if outputs.json is not None:
        report = {**facts, "torch": torch.__version__, "bootstrap": BOOTSTRAP, **figures}
        write_json(outputs.json, without_nan(report))
        print(f"figures written to {outputs.json}", file=sys.stderr)
    if outputs.report is not None and evaluator is not None and dataset is not None:
        chosen = worst_and_median(records, outputs.pictures)
        worst, median = (_pictures(group, evaluator, dataset) for group in chosen)
        shown = {
            **{name: value for name, value in facts.items() if isinstance(value, str) and value},
            "checkpoints": ", ".join(f"{name} {digest[:12]}" for name, digest in plan.checkpoints.items()),
        }
        page = html_report(shown, figures, worst, median)
        write_bytes(outputs.report / "report.html", page.encode("utf-8", "replace"))
        print(f"report written to {outputs.report / 'report.html'}", file=sys.stderr)
    return _exit_code(records)


def _pictures(
    records: Sequence[ImageRecord], evaluator: Evaluator, dataset: PanopticDataset | SemanticDataset
) -> list[Picture]:
    """Segments the images once more: keeping every result for the few that are shown would be much."""
    wanted = {record.name for record in records}
    index_of = {name: i for i in range(len(dataset)) if (name := dataset.name_of(i)) in wanted}
    pictures = []
    for record in records:
        truth = truth_of(dataset[index_of[record.name]])
        pixels = comparison(truth, evaluator.predict(truth), evaluator.vocabulary)
        pictures.append(Picture(record.name, image_score(record), pixels))
    return pictures


def _exit_code(records: Sequence[ImageRecord]) -> int:
    faults = [record for record in records if record.fault]
    for record in faults[:10]:
        print(f"skipped {record.name}: {record.fault}", file=sys.stderr)
    if len(faults) > 10:
        print(f"and {len(faults) - 10} more", file=sys.stderr)
    return 1 if faults else 0


def print_figures(plan: Plan, figures: Mapping[str, Any]) -> None:
    """A readable table on stdout."""
    oracle = f", oracle {plan.oracle}" if plan.oracle else ""
    print(f"preset {plan.preset}{oracle} on {plan.data} {plan.split}, {figures['images']} images")
    if "all" in figures:
        print(f"{'':8}{'PQ':>7}{'95 % interval':>17}{'SQ':>7}{'RQ':>7}{'categories':>12}")
        for name in ("all", "things", "stuff"):
            row = figures[name]
            low, high = row["pq_ci95"]
            print(
                f"{name:8}{row['pq']:7.1f}{f'{low:.1f} to {high:.1f}':>17}{row['sq']:7.1f}{row['rq']:7.1f}"
                f"{row['categories']:12d}"
            )
        ap = figures["ap"]
        print(f"AP {ap['ap']:.1f}, AP50 {ap['ap50']:.1f}, AP75 {ap['ap75']:.1f}")
        print(f"mask recall at IoU 0.5: {figures['mask_recall_50']:.1f}, at 0.75: {figures['mask_recall_75']:.1f}")
    print(f"mIoU {figures['miou']:.1f} over {figures['miou_categories']} categories")
    if not math.isnan(figures.get("mask_accuracy", math.nan)):
        print(f"true masks named rightly: {figures['mask_accuracy']:.1f}")
    if figures["skipped"] or figures["void"]:
        print(f"{len(figures['skipped'])} images skipped, {len(figures['void'])} with nothing to find")


def _oracle(name: str) -> Oracle | None:
    match name:
        case "masks":
            return "masks"
        case "classes":
            return "classes"
        case "":
            return None
    raise DatasetError(f"the parts were made with an unknown oracle {name!r}; this version knows masks and classes")
