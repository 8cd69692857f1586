"""The `ovseg` command. Each subcommand's module is imported when it runs, so that `ovseg --help` is immediate.

Exit codes: 0 done; 1 done in part (an image was skipped); 2 a wrong command line or input; 130 stopped by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ovseg_ros.core.errors import OvsegError

_DEVICE_HELP = "auto (the first GPU, else the CPU), cpu, cuda or cuda:N"
_PRESET_HELP = "name of a preset in config/models, or the path of a preset's YAML file"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = _make_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except OvsegError as error:
        print(f"ovseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "ovseg_ros"):
            raise
        print(f"ovseg: error: this command needs the Python package {package!r}; install it first", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ovseg: stopped", file=sys.stderr)
        return 130


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ovseg", description="Open-vocabulary panoptic segmentation, without ROS.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_segment, _add_evaluate, _add_bench, _add_dataset, _add_train):
        add(commands)
    return parser


def _add_segment(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("segment", help="segment an image, a folder of images or a video")
    parser.add_argument("input", type=Path, metavar="IMAGE|FOLDER|VIDEO")
    parser.add_argument("--vocabulary", required=True, metavar='FILE|"a,b,c"', help="words to look for")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--preset", default="tabletop", help=_PRESET_HELP)
    parser.add_argument("--device", default="auto", help=_DEVICE_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace the results that DIR already holds")
    parser.set_defaults(run=_segment)


def _segment(options: argparse.Namespace) -> int:
    from ovseg_ros.offline.segment import segment_path

    return segment_path(
        options.input,
        options.vocabulary,
        options.out,
        preset=options.preset,
        device=options.device,
        overwrite=options.overwrite,
    )


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("evaluate", help="measure panoptic quality on the simulated tabletop")
    parser.add_argument("--preset", default="tabletop", help=_PRESET_HELP)
    parser.add_argument("--split", default="test", help="train, val, test or captions (default: test)")
    parser.add_argument("--images", type=_positive, default=300, metavar="N", help="number of scenes (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (default: 0)")
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="read images that `ovseg dataset` wrote")
    parser.add_argument("--synonyms", action="store_true", help="also replace every name by a synonym never trained on")
    parser.add_argument("--device", default="auto", help=_DEVICE_HELP)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from ovseg_ros.offline.evaluate import evaluate_tabletop

    return evaluate_tabletop(
        preset=options.preset,
        split=options.split,
        images=options.images,
        seed=options.seed,
        dataset=options.dataset,
        synonyms=options.synonyms,
        device=options.device,
        json_path=options.json,
    )


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("bench", help="time the model call and the node's own cost over it")
    parser.add_argument("--preset", default="tabletop", help=_PRESET_HELP)
    parser.add_argument("--size", type=_size, default=(640, 480), metavar="WxH", help="image size (default: 640x480)")
    parser.add_argument("--frames", type=_positive, default=60, metavar="N", help="timed frames (default: 60)")
    parser.add_argument("--warmup", type=_positive, default=5, metavar="N", help="untimed frames first (default: 5)")
    parser.add_argument("--vocabulary", metavar='FILE|"a,b,c"', help="words to look for (default: the whole tabletop)")
    parser.add_argument("--device", default="auto", help=_DEVICE_HELP)
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads for PyTorch (default: its own choice)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from ovseg_ros.offline.bench import bench

    return bench(
        preset=options.preset,
        size=options.size,
        frames=options.frames,
        warmup=options.warmup,
        vocabulary_text=options.vocabulary,
        device=options.device,
        threads=options.threads,
        json_path=options.json,
    )


def _add_dataset(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("dataset", help="write a data set in COCO panoptic format")
    parser.add_argument("name", choices=["tabletop"])
    parser.add_argument("--split", required=True, help="train, val, test or captions")
    parser.add_argument("--count", type=_positive, required=True, metavar="N", help="number of images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (default: 0)")
    parser.add_argument("--size", type=_size, default=(320, 240), metavar="WxH", help="image size (default: 320x240)")
    parser.add_argument(
        "--workers", type=_positive, metavar="N", help="rendering processes (default: one for each core)"
    )
    parser.set_defaults(run=_dataset)


def _dataset(options: argparse.Namespace) -> int:
    from ovseg_ros.offline.tabletop_dataset import DatasetConfig, write_dataset

    width, height = options.size
    config = DatasetConfig(options.split, options.count, options.seed, width, height)
    write_dataset(config, options.out, workers=options.workers or 0)
    return 0


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("train", help="train a preset by its recipe; a run that was stopped goes on")
    parser.add_argument("recipe", help="name of a recipe in config/training, or the path of a recipe's YAML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and logs")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder for rendered data (default: OUT/data)")
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from ovseg_ros.offline.train import train

    train(options.recipe, out=options.out, data=options.data or options.out / "data")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition("x")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 640x480")
    return _positive(width), _positive(height)


if __name__ == "__main__":
    sys.exit(main())
