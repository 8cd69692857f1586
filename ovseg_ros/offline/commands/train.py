"""`ovseg train`: train a preset by its recipe; a run that was stopped goes on."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("train", help="train a preset by its recipe; a run that was stopped goes on")
    parser.add_argument("recipe", help="name of a recipe in config/training, or the path of a recipe's YAML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and logs")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder for rendered data (default: OUT/data)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.train import train

    train(options.recipe, out=options.out, data=options.data or options.out / "data")
    return 0
