"""`ovseg ablate`: FISA's parts one by one; a run that was stopped goes on."""

import argparse
from dataclasses import fields
from pathlib import Path

from ovseg_ros.offline.cli.options import positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("ablate", help="train and compare FISA's parts; a run that was stopped goes on")
    parser.add_argument("dataset", choices=["tabletop"], help="what to train and evaluate on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for results and training states")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder for rendered data (default: OUT/data)")
    parser.add_argument("--recipe", default="tabletop_fisa", help="training recipe with a stage of kind fisa")
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="trainings of each system (default: 3)")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="only these systems (default: all)")
    parser.add_argument(
        "--convolutions",
        nargs="+",
        type=int,
        choices=range(4),
        metavar="N",
        help="only these depths of the adapter (default: 2 0 1 3)",
    )
    parser.add_argument("--ranks", nargs="+", type=positive, metavar="R", help="ranks of LoRA (default: 4 16 64)")
    parser.add_argument("--split", default="test", help="evaluate on this split (default: test)")
    parser.add_argument("--images", type=positive, default=100, metavar="N", help="images of it (default: 100)")
    parser.add_argument("--steps", type=positive, metavar="N", help="of each training (default: the recipe's)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.ablate import AblationConfig, ablate_tabletop

    chosen = {field.name: getattr(options, field.name) for field in fields(AblationConfig)}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    config = AblationConfig(**{name: value for name, value in chosen.items() if value is not None})
    return ablate_tabletop(config, data=options.data or options.out / "data", out=options.out)
