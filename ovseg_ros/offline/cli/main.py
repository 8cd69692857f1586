"""The `ovseg` command. What a command needs is imported when it runs, so that `ovseg --help` is immediate.

Exit codes: 0 done; 1 done in part (an image was skipped); 2 a wrong command line or input; 130 stopped by Ctrl-C; 141
nobody reads its output any more; 143 stopped by SIGTERM.
"""

import argparse
import errno
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, replace
from functools import partial
from inspect import getdoc
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from ovseg_ros.core.errors import ConfigError, OvsegError
from ovseg_ros.offline import options
from ovseg_ros.offline.cli import vocabulary
from ovseg_ros.offline.cli.evaluate import evaluate_as_told
from ovseg_ros.offline.cli.without_effect import refuse_without_effect
from ovseg_ros.offline.describe_options import DescribeOptions
from ovseg_ros.offline.export_options import ExportOptions
from ovseg_ros.offline.measure_options import BenchOptions, CountOptions

_COMMANDS = {
    "segment": options.SegmentOptions,
    "evaluate": options.EvaluateOptions,
    "evaluate-space": options.EvaluateSpaceOptions,
    "evaluate-tracking": options.EvaluateTrackingOptions,
    "evaluate-phrases": options.EvaluatePhrasesOptions,
    "bench": BenchOptions,
    "dataset": options.DatasetOptions,
    "check-dataset": options.CheckDatasetOptions,
    "train": options.TrainOptions,
    "download": options.DownloadOptions,
    "doctor": options.DoctorOptions,
    "ablate": options.AblateOptions,
    "count": CountOptions,
    "export": ExportOptions,
    "describe": DescribeOptions,
}
_SIGPIPE_EXIT_CODE = 141
_SIGTERM_EXIT_CODE = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; SystemExit from argparse and after SIGTERM."""
    output = sys.stdout
    if not isinstance(output, io.TextIOWrapper):  # there is none, or a program's own
        return _run_command(arguments)
    output.reconfigure(errors="backslashreplace")  # words of any script on a terminal of any encoding
    try:
        try:
            return _run_command(arguments)
        finally:
            output.flush()
    except BrokenPipeError:
        poll = select.poll()
        poll.register(output.fileno(), 0)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            raise  # another pipe
        # Whoever read it has gone, as `head` does. Nor shall Python complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return _SIGPIPE_EXIT_CODE


def _run_command(arguments: Sequence[str] | None) -> int:
    given = _make_parser().parse_args(arguments)
    try:
        with _ending_on_sigterm():
            return int(given.run(given))
    except OvsegError as error:
        print(f"ovseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if error.name in ("ovseg_ros.msg", "ovseg_ros.srv"):
            print(
                "ovseg: error: this command needs the package's messages; build it with colcon and source "
                "install/setup.bash",
                file=sys.stderr,
            )
            return 2
        if package in ("", "ovseg_ros"):
            raise
        print(f"ovseg: error: this command needs the Python package {package!r}; install it first", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, a folder where a file was expected, no permission, ...
        if error.errno is None:
            raise
        path = error.filename2 or error.filename  # the second is where a file was to be moved to
        where = f"{path}: " if path is not None else ""
        match error:
            case PermissionError():
                remedy = "make it readable (or, for results, writable), or choose another"
            case OSError(errno=errno.ENOSPC | errno.EDQUOT):
                remedy = "make room, and try again"
            case _:
                remedy = "correct the path, and try again"
        print(f"ovseg: error: {where}{error.strerror}; {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovseg: stopped", file=sys.stderr)
        return 130


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the program as an exception does, so that nothing of it stays behind: processes, temporary folders.

    Where it is handled already, or from another thread than the main one, it is left as it is.
    """

    def end(*_: object) -> NoReturn:
        sys.exit(_SIGTERM_EXIT_CODE)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Parser(argparse.ArgumentParser):
    """As argparse has it, but for overrides: it ends a list of words where an option comes between."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        given, more = self.parse_known_args(args, namespace)
        if "overrides" in given and not any(word.startswith("-") for word in more):
            given.overrides += more
        elif more:
            self.error(f"unrecognized arguments: {' '.join(more)}")
        return given


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ovseg", description="Open-vocabulary panoptic segmentation, without ROS.")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
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
        # What is not given is not there: `without_effect` asks for it, and defaults are the class's.
        keywords["default"] = [] if option.nargs == "*" else argparse.SUPPRESS
        if by_place:
            target.add_argument(field.name, **keywords)
        else:
            target.add_argument(f"--{field.name.replace('_', '-')}", required=field.default is MISSING, **keywords)


def _run(cls: type[Any], given: argparse.Namespace) -> int:
    """Do what the command line says, and return the exit code."""
    values = {name: value for name, value in vars(given).items() if name in {field.name for field in fields(cls)}}
    told = cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    refuse_without_effect(told, values)
    _check_outputs(told, values)
    match told:
        case options.SegmentOptions():
            from ovseg_ros.offline.data.bag_files import is_bag
            from ovseg_ros.offline.tools.segment import segment_path
            from ovseg_ros.offline.tools.segment_bag import segment_bag

            return segment_bag(told) if is_bag(told.input) else segment_path(told)
        case options.EvaluateOptions():
            return evaluate_as_told(told)
        case options.EvaluateSpaceOptions():
            from ovseg_ros.offline.evaluate.space import evaluate_space

            return evaluate_space(
                split=told.split, scenes=told.scenes, seed=told.seed, noise=told.noise, json_path=told.json
            )
        case options.EvaluateTrackingOptions():
            from ovseg_ros.offline.evaluate.tracking import TakesConfig, evaluate_tracking

            takes = TakesConfig(told.split, told.sequences, told.seed, told.seconds, told.rate, told.name_votes)
            return evaluate_tracking(takes, preset=told.preset, device=told.device, json_path=told.json)
        case options.EvaluatePhrasesOptions():
            from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig
            from ovseg_ros.offline.evaluate.phrases import evaluate_phrases

            images = DatasetConfig(told.split, told.images, told.seed)
            return evaluate_phrases(
                images,
                preset=told.preset,
                other_words=told.other_words,
                device=told.device,
                json_path=told.json,
            )
        case BenchOptions():
            from ovseg_ros.offline.tools.bench import bench

            return bench(told)
        case options.DatasetOptions():
            from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, write_dataset

            config = DatasetConfig(told.split, told.count, told.seed, *told.size)
            write_dataset(config, told.out, workers=told.workers or 0)
            return 0
        case options.CheckDatasetOptions():
            from ovseg_ros.offline.tools.check_dataset import check_dataset

            return check_dataset(told)
        case options.TrainOptions():
            return _train(told)
        case options.DownloadOptions():
            from ovseg_ros.offline.tools.download import download

            return download(told)
        case options.DoctorOptions():
            from ovseg_ros.offline.tools.doctor import doctor

            return doctor(told)
        case options.AblateOptions(experiment="pmp"):
            from ovseg_ros.offline.tools.ablate_pmp import ablate_pmp

            return ablate_pmp(told)
        case options.AblateOptions(experiment="omtseg"):
            from ovseg_ros.offline.tools.ablate_omtseg import ablate_omtseg

            return ablate_omtseg(told)
        case options.AblateOptions(experiment="lmseg"):
            from ovseg_ros.offline.tools.ablate_lmseg import ablate_lmseg

            return ablate_lmseg(told)
        case options.AblateOptions():
            from ovseg_ros.offline.tools.ablate import ablate_tabletop

            return ablate_tabletop(told)
        case CountOptions():
            from ovseg_ros.offline.tools.count import count

            return count(told)
        case ExportOptions():
            from ovseg_ros.offline.tools.export import export

            return export(told)
        case DescribeOptions():
            from ovseg_ros.offline.tools.describe import describe

            return describe(told)
    raise AssertionError(cls)


def _check_outputs(told: Any, values: dict[str, Any]) -> None:
    """Before minutes are spent on what cannot be written."""
    hints = get_type_hints(type(told), include_extras=True)
    outputs: dict[str, dict[str, Path | None]] = {"file": {}, "folder": {}}
    for name, value in values.items():
        [option] = hints[name].__metadata__
        if option.output and value is not None:
            outputs[option.output][f"--{name.replace('_', '-')}"] = Path(value)
    if outputs["file"] or outputs["folder"]:
        from ovseg_ros.offline.data.files import check_outputs

        check_outputs(files=outputs["file"], folders=outputs["folder"])


def _train(told: options.TrainOptions) -> int:
    from ovseg_ros.offline.train.loop import TrainingStopped
    from ovseg_ros.offline.train.run import load_recipe, recipe_yaml, train

    if told.print_config:
        recipe = load_recipe(told.recipe, told.overrides, steps=told.steps, accumulate=told.accumulate)
        precision = told.mixed_precision or recipe.mixed_precision
        if os.environ.get("RANK", "0") == "0":  # of torchrun's and accelerate's processes, one speaks
            print(recipe_yaml(replace(recipe, mixed_precision=precision, record=None)), end="")
        return 0
    if told.out is None:
        raise ConfigError("the following arguments are required: --out")
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
            overrides=told.overrides,
            wandb=told.wandb,
        )
    except TrainingStopped as stopped:
        print(f"ovseg: {stopped}; the same command goes on from there", file=sys.stderr)
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
