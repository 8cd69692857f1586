"""`ovseg check-dataset`: say what is missing or malformed in a data set, file by file."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import Commands, add_json, positive


def add(commands: Commands) -> None:
    """Describe the subcommand."""
    text = "say what is missing or malformed in a data set, before hours are spent on it"
    parser = commands.add_parser("check-dataset", help=text)
    parser.add_argument("name", help="such as coco_panoptic, ade20k_panoptic, cityscapes_panoptic or tabletop")
    parser.add_argument("--root", type=Path, metavar="DIR", help="the data set's folder (default: in $OVSEG_DATASETS)")
    parser.add_argument("--split", help="train or val (default: all of them)")
    parser.add_argument("--workers", type=positive, metavar="N", help="reading processes (default: one for each core)")
    add_json(parser, "write all that was found here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.check_dataset import check_dataset

    workers = options.workers or 0
    return check_dataset(options.name, options.root, split=options.split, workers=workers, json_path=options.json)
