"""`ovseg evaluate`: measure a preset on the simulated tabletop or on a data set."""

import argparse
from pathlib import Path

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.cli.options import DEVICE_HELP, PRESET_HELP, positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("evaluate", help="measure panoptic quality on the simulated tabletop or on a data set")
    parser.add_argument("--preset", default="tabletop", help=PRESET_HELP)
    parser.add_argument("--split", help="train, val, test or captions (default: test; with --data: val)")
    parser.add_argument(
        "--images", type=positive, metavar="N", help="number of images (default: 300; with --data: all)"
    )
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")

    tabletop = parser.add_argument_group("tabletop, the default")
    tabletop.add_argument("--seed", type=int, help="seed of the first scene (default: 0)")
    tabletop.add_argument("--dataset", type=Path, metavar="DIR", help="read images that `ovseg dataset` wrote")
    tabletop.add_argument("--synonyms", action="store_true", help="also replace every name by one never trained on")

    data = parser.add_argument_group("any data set, by the field's protocol; see docs/evaluation.md")
    data.add_argument("--data", metavar="NAME", help="coco_panoptic, ade20k_panoptic and others; see docs/datasets.md")
    data.add_argument("--root", type=Path, metavar="DIR", help="folder of the data set")
    data.add_argument(
        "--vocabulary", metavar='FILE|"a,b,c"', help="words in place of the data set's names, in the same order"
    )
    data.add_argument(
        "--oracle", choices=("masks", "classes"), help="put the true masks, or the true classes, for the model's own"
    )
    data.add_argument("--report", type=Path, metavar="DIR", help="write a page with tables and pictures here")
    data.add_argument("--on-error", choices=("skip", "stop"), default="skip", help="at an image that cannot be read")
    data.add_argument("--partial", metavar="FILE", help="keep each image's counts here; a stopped run goes on")
    data.add_argument("--shard", metavar="I/N|rank", help="evaluate only part I of N, into --partial")
    data.add_argument(
        "--merge", type=Path, nargs="+", metavar="FILE", help="figures of all parts, from their --partial"
    )
    parser.set_defaults(run=run)


_TABLETOP_ONLY = ("seed", "dataset", "synonyms")
_DATA_ONLY = ("root", "vocabulary", "oracle", "report", "partial", "shard", "merge")
_NOT_WITH_MERGE = ("data", "split", "images", "vocabulary", "oracle", "partial", "shard")


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    if options.merge is not None:
        _refuse(options, (*_TABLETOP_ONLY, *_NOT_WITH_MERGE), "--merge, whose files say what was evaluated")
        from ovseg_ros.offline.evaluate.run import Outputs, merge_evaluation

        outputs = Outputs(options.json, options.report)
        return merge_evaluation(options.merge, outputs, root=options.root, device=options.device)
    if options.data is not None:
        _refuse(options, _TABLETOP_ONLY, "--data, which is for data sets on disk")
        return _run_dataset(options)
    _refuse(options, _DATA_ONLY, "the rendered tabletop; name a data set with --data")
    from ovseg_ros.offline.evaluate.tabletop import evaluate_tabletop

    return evaluate_tabletop(
        preset=options.preset,
        split=options.split or "test",
        images=options.images or 300,
        seed=options.seed or 0,
        dataset=options.dataset,
        synonyms=options.synonyms,
        device=options.device,
        json_path=options.json,
    )


def _run_dataset(options: argparse.Namespace) -> int:
    import os

    from ovseg_ros.offline.evaluate.plan import Shard
    from ovseg_ros.offline.evaluate.run import EvaluationJob, Outputs, evaluate_dataset

    shard = Shard.parse(options.shard) if options.shard else Shard()
    partial = Path(options.partial.replace("{shard}", str(shard.number))) if options.partial else None
    device = options.device
    if options.shard == "rank" and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    job = EvaluationJob(
        preset=options.preset,
        data=options.data,
        root=options.root,
        split=options.split or "val",
        vocabulary=options.vocabulary,
        oracle=options.oracle,
        images=options.images,
        on_error=options.on_error,
        device=device,
    )
    return evaluate_dataset(job, Outputs(options.json, options.report), shard=shard, partial=partial)


def _refuse(options: argparse.Namespace, names: tuple[str, ...], what: str) -> None:
    given = [f"--{name}" for name in names if getattr(options, name)]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot be given with {what}")
