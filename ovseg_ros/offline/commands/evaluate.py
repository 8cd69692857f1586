"""`ovseg evaluate`: measure panoptic quality on the simulated tabletop."""

import argparse
from pathlib import Path

from ovseg_ros.offline.commands.options import DEVICE_HELP, PRESET_HELP, positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("evaluate", help="measure panoptic quality on the simulated tabletop")
    parser.add_argument("--preset", default="tabletop", help=PRESET_HELP)
    parser.add_argument("--split", default="test", help="train, val, test or captions (default: test)")
    parser.add_argument("--images", type=positive, default=300, metavar="N", help="number of scenes (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (default: 0)")
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="read images that `ovseg dataset` wrote")
    parser.add_argument("--synonyms", action="store_true", help="also replace every name by a synonym never trained on")
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
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
