"""`ovseg train`: train by a recipe, on one process or many; a run that was stopped goes on."""

import argparse
import sys
from pathlib import Path

from ovseg_ros.offline.cli.options import DEVICE_HELP, positive

_SIGTERM_EXIT_CODE = 143


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "train",
        help="train by a recipe; a run that was stopped goes on",
        description="Train by a recipe; the same command goes on where a stopped run left off. On several GPUs: "
        "torchrun --nproc-per-node=N -m ovseg_ros.offline.cli train ... (docs/training.md).",
    )
    parser.add_argument("recipe", help="name of a recipe in config/training, or the path of a recipe's YAML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and logs")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the data set's folder (default: below $OVSEG_DATASETS); of the tabletop recipes, where rendered views "
        "are kept (default: OUT/data)",
    )
    parser.add_argument("--device", default="auto", help=f"{DEVICE_HELP} (default: auto)")
    parser.add_argument(
        "--mixed-precision", choices=["no", "bf16", "fp16"], help="arithmetic of the networks (default: the recipe's)"
    )
    parser.add_argument(
        "--resume",
        choices=["auto", "require", "never"],
        default="auto",
        help="go on from the state in OUT if there is one (auto), refuse to begin anew (require), or refuse to go on "
        "(never); default: auto",
    )
    parser.add_argument("--steps", type=positive, metavar="N", help="steps of every loop, instead of the recipe's")
    parser.add_argument(
        "--accumulate",
        type=positive,
        metavar="N",
        help="split each process's share of a batch into N parts, to save memory; the result is the same",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.train.loop import TrainingStopped
    from ovseg_ros.offline.train.run import train

    try:
        train(
            options.recipe,
            out=options.out,
            data=options.data,
            device=options.device,
            mixed_precision=options.mixed_precision,
            resume=options.resume,
            steps=options.steps,
            accumulate=options.accumulate,
        )
    except TrainingStopped as stopped:
        print(f"ovseg: {stopped}; the same command goes on from there", file=sys.stderr)
        return _SIGTERM_EXIT_CODE
    return 0
