"""`ovseg evaluate`: measure a preset on the simulated tabletop or on a data set."""

import argparse
import os
from pathlib import Path

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.cli.options import DEVICE_HELP, PRESET_HELP, positive, share


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("evaluate", help="measure panoptic quality on the simulated tabletop or on a data set")
    parser.add_argument("--preset", default="tabletop", help=PRESET_HELP)
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a page with tables and pictures here")

    data = parser.add_argument_group("what is evaluated; see docs/evaluation.md")
    data.add_argument(
        "--data", metavar="NAME", help="tabletop (the default), coco_panoptic and others; see docs/datasets.md"
    )
    data.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the data; without it the tabletop is rendered"
    )
    data.add_argument("--dataset", type=Path, metavar="DIR", help="the same as --data tabletop --root DIR")
    data.add_argument("--split", help="default: test of the tabletop, val of all others")
    data.add_argument(
        "--images", type=positive, metavar="N", help="only the first N (default: 300 rendered ones, or all)"
    )
    data.add_argument("--seed", type=int, help="seed of the first rendered scene (default: 0)")
    data.add_argument("--on-error", choices=("skip", "stop"), default="skip", help="at an image that cannot be read")

    how = parser.add_argument_group("how")
    how.add_argument(
        "--vocabulary", metavar='FILE|"a,b,c"', help="words in place of the data set's names, in the same order"
    )
    how.add_argument("--synonyms", action="store_true", help="also replace every name by one never trained on")
    how.add_argument(
        "--oracle", choices=("masks", "classes"), help="put the true masks, or the true classes, for the model's own"
    )
    how.add_argument(
        "--min-objectness",
        type=share,
        metavar="P",
        help="proposals less likely than this to be any segment do not count for mask recall",
    )

    parts = parser.add_argument_group("in parts")
    parts.add_argument("--partial", metavar="FILE", help="keep each image's counts here; a stopped run goes on")
    parts.add_argument("--shard", metavar="I/N|rank", help="evaluate only part I of N, into --partial")
    parts.add_argument(
        "--merge", type=Path, nargs="+", metavar="FILE", help="figures of all parts, from their --partial"
    )
    parser.set_defaults(run=run)


_NOT_WITH_MERGE = (
    *("data", "dataset", "split", "images", "seed"),
    *("vocabulary", "synonyms", "oracle", "min_objectness", "partial", "shard"),
)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.evaluate.plan import Plan, Shard
    from ovseg_ros.offline.evaluate.run import evaluate, merge

    if options.merge is not None:
        _refuse(options, _NOT_WITH_MERGE, "--merge, whose files say what was evaluated")
        return merge(
            options.merge, root=options.root, device=options.device, json_path=options.json, report=options.report
        )
    if options.dataset is not None:
        _refuse(options, ("data", "root"), "--dataset, which says both")
    shard = Shard.parse(options.shard) if options.shard else Shard()
    device = options.device
    if options.shard == "rank" and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    plan = Plan(
        preset=options.preset,
        data=options.data or "tabletop",
        split=options.split or "",
        images=options.images or 0,
        oracle=options.oracle or "",
        vocabulary=options.vocabulary or "",
        synonyms=options.synonyms,
        min_objectness=options.min_objectness,
        scenes={} if options.seed is None else {"seed": options.seed},
    )
    return evaluate(
        plan,
        root=options.root or options.dataset,
        device=device,
        on_error=options.on_error,
        shard=shard,
        partial=Path(options.partial.replace("{shard}", str(shard.number))) if options.partial else None,
        json_path=options.json,
        report=options.report,
    )


def _refuse(options: argparse.Namespace, names: tuple[str, ...], what: str) -> None:
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, False)]
    if given:
        raise ConfigError(f"{', '.join(given)} cannot be given with {what}")
