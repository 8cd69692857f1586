"""`ovseg dataset`: write a data set in COCO panoptic format."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import positive, size


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("dataset", help="write a data set in COCO panoptic format")
    parser.add_argument("name", choices=["tabletop"])
    parser.add_argument("--split", required=True, help="train, val, test or captions")
    parser.add_argument("--count", type=positive, required=True, metavar="N", help="number of images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (default: 0)")
    parser.add_argument("--size", type=size, default=(320, 240), metavar="WxH", help="image size (default: 320x240)")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="rendering processes (default: one for each core)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, write_dataset

    width, height = options.size
    config = DatasetConfig(options.split, options.count, options.seed, width, height)
    write_dataset(config, options.out, workers=options.workers or 0)
    return 0
