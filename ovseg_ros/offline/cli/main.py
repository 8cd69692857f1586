"""The `ovseg` command. What a command needs is imported when it runs, so that `ovseg --help` is immediate.

Exit codes: 0 done; 1 done in part (an image was skipped); 2 a wrong command line or input; 130 stopped by Ctrl-C; 143
stopped by SIGTERM.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from functools import partial
from inspect import getdoc
from pathlib import Path
from typing import Any, get_type_hints

from ovseg_ros.core.errors import OvsegError
from ovseg_ros.offline import options
from ovseg_ros.offline.cli import vocabulary
from ovseg_ros.offline.cli.evaluate import evaluate_as_told

_COMMANDS = {
    "segment": options.SegmentOptions,
    "evaluate": options.EvaluateOptions,
    "evaluate-space": options.EvaluateSpaceOptions,
    "evaluate-tracking": options.EvaluateTrackingOptions,
    "bench": options.BenchOptions,
    "dataset": options.DatasetOptions,
    "check-dataset": options.CheckDatasetOptions,
    "train": options.TrainOptions,
    "download": options.DownloadOptions,
    "doctor": options.DoctorOptions,
    "ablate": options.AblateOptions,
    "count": options.CountOptions,
}
_SIGTERM_EXIT_CODE = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    given = _make_parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except OvsegError as error:
        print(f"ovseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "ovseg_ros"):
            raise
        print(f"ovseg: error: this command needs the Python package {package!r}; install it first", file=sys.stderr)
        return 2
    except OSError as error:  # of a place that cannot be read or written; no fault of the program's
        what = " ".join(str(part) for part in (error.filename, error.strerror or error) if part is not None)
        print(f"ovseg: error: {what}; make it readable or writable, free some space, or give another", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovseg: stopped", file=sys.stderr)
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ovseg", description="Open-vocabulary panoptic segmentation, without ROS.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, cls in _COMMANDS.items():
        text = getdoc(cls) or ""
        summary = text.split("\n")[0].rstrip(".")
        command = commands.add_parser(name, help=summary[0].lower() + summary[1:], description=text)
        _add_options(command, cls)
        command.set_defaults(run=partial(_run, cls))
    vocabulary.add(commands)
    return parser


def _add_options(parser: argparse.ArgumentParser, cls: type[Any]) -> None:
    """The fields of a class in `offline/options.py` as arguments."""
    hints = get_type_hints(cls, include_extras=True)
    target: argparse._ActionsContainer = parser
    for field in fields(cls):
        [option] = hints[field.name].__metadata__
        keywords = {name: value for name, value in asdict(option).items() if value is not None}
        by_place, heading, _ = keywords.pop("by_place"), keywords.pop("heading", None), keywords.pop("output", None)
        if heading:
            target = parser.add_argument_group(heading)
        if by_place:
            target.add_argument(field.name, **keywords)
        else:
            keywords |= {"default": field.default, "required": field.default is MISSING}
            target.add_argument(f"--{field.name.replace('_', '-')}", **keywords)


def _run(cls: type[Any], given: argparse.Namespace) -> int:
    """Do what the command line says, and return the exit code."""
    values = {field.name: getattr(given, field.name) for field in fields(cls)}
    _check_outputs(cls, values)
    match cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}):
        case options.SegmentOptions() as told:
            from ovseg_ros.offline.data.bag_files import is_bag
            from ovseg_ros.offline.tools.segment import segment_path
            from ovseg_ros.offline.tools.segment_bag import segment_bag

            return segment_bag(told) if is_bag(told.input) else segment_path(told)
        case options.EvaluateOptions() as told:
            return evaluate_as_told(told)
        case options.EvaluateSpaceOptions() as told:
            from ovseg_ros.offline.evaluate.space import evaluate_space

            return evaluate_space(
                split=told.split, scenes=told.scenes, seed=told.seed, noise=told.noise, json_path=told.json
            )
        case options.EvaluateTrackingOptions() as told:
            from ovseg_ros.offline.evaluate.tracking import TakesConfig, evaluate_tracking

            takes = TakesConfig(told.split, told.sequences, told.seed, told.seconds, told.rate)
            return evaluate_tracking(takes, preset=told.preset, device=told.device, json_path=told.json)
        case options.BenchOptions() as told:
            from ovseg_ros.offline.tools.bench import bench

            return bench(told)
        case options.DatasetOptions() as told:
            from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, write_dataset

            config = DatasetConfig(told.split, told.count, told.seed, *told.size)
            write_dataset(config, told.out, workers=told.workers or 0)
            return 0
        case options.CheckDatasetOptions() as told:
            from ovseg_ros.offline.tools.check_dataset import check_dataset

            return check_dataset(told)
        case options.TrainOptions() as told:
            return _train(told)
        case options.DownloadOptions() as told:
            from ovseg_ros.offline.tools.download import download

            return download(told)
        case options.DoctorOptions() as told:
            from ovseg_ros.offline.tools.doctor import doctor

            return doctor(told)
        case options.AblateOptions() as told:
            from ovseg_ros.offline.tools.ablate import ablate_tabletop

            return ablate_tabletop(told)
        case options.CountOptions() as told:
            from ovseg_ros.offline.tools.count import count

            return count(told)
    raise AssertionError(cls)


def _check_outputs(cls: type[Any], values: dict[str, Any]) -> None:
    """Before minutes are spent on what cannot be written."""
    hints = get_type_hints(cls, include_extras=True)
    outputs: dict[str, dict[str, Path | None]] = {"file": {}, "folder": {}}
    for name, value in values.items():
        [option] = hints[name].__metadata__
        if option.output and value is not None:
            outputs[option.output][f"--{name}"] = Path(value)
    if outputs["file"] or outputs["folder"]:
        from ovseg_ros.offline.data.files import check_outputs

        check_outputs(files=outputs["file"], folders=outputs["folder"])


def _train(told: options.TrainOptions) -> int:
    from ovseg_ros.offline.train.loop import TrainingStopped
    from ovseg_ros.offline.train.run import train

    try:
        train(
            told.recipe,
            out=told.out,
            data=told.data,
            device=told.device,
            mixed_precision=told.mixed_precision,
            resume=told.resume,
            steps=told.steps,
            accumulate=told.accumulate,
        )
    except TrainingStopped as stopped:
        print(f"ovseg: {stopped}; the same command goes on from there", file=sys.stderr)
        return _SIGTERM_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
