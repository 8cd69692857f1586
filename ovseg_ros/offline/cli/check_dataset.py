"""`ovseg check-dataset`: say what is missing or malformed in a data set, file by file."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "check-dataset", help="say what is missing or malformed in a data set, before hours are spent on it"
    )
    parser.add_argument("name", help="such as coco_panoptic, ade20k_panoptic, cityscapes_panoptic or tabletop")
    parser.add_argument("--root", type=Path, metavar="DIR", help="the data set's folder (default: in $OVSEG_DATASETS)")
    parser.add_argument("--split", help="train or val (default: all of them)")
    parser.add_argument("--workers", type=positive, metavar="N", help="reading processes (default: one for each core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was found here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.check_dataset import check_dataset

    return check_dataset(
        options.name, options.root, split=options.split, workers=options.workers or 0, json_path=options.json
    )
