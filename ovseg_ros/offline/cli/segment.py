"""`ovseg segment`: segment an image, a folder of images, a video or a bag."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import DEVICE_HELP, PRESET_HELP


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("segment", help="segment an image, a folder of images, a video or a bag")
    parser.add_argument("input", type=Path, metavar="IMAGE|FOLDER|VIDEO|BAG")
    parser.add_argument("--vocabulary", required=True, metavar='FILE|"a,b,c"', help="words to look for")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--preset", default="tabletop", help=PRESET_HELP)
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--overwrite", action="store_true", help="replace the results that DIR already holds")
    parser.add_argument(
        "--topic", action="append", default=[], help="of a bag: an image topic to segment (default: its only one)"
    )
    parser.add_argument("--no-overlay", action="store_true", help="of a bag: write no pictures for people")
    parser.add_argument("--mask-rle", action="store_true", help="of a bag: every segment's mask as COCO's RLE, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.data.bag_images import is_bag
    from ovseg_ros.offline.tools.segment import segment_path

    if is_bag(options.input):
        from ovseg_ros.offline.tools.segment_bag import segment_bag

        return segment_bag(
            options.input,
            options.vocabulary,
            options.out,
            topics=options.topic,
            preset=options.preset,
            device=options.device,
            overwrite=options.overwrite,
            overlay=not options.no_overlay,
            mask_rle=options.mask_rle,
        )
    return segment_path(
        options.input,
        options.vocabulary,
        options.out,
        preset=options.preset,
        device=options.device,
        overwrite=options.overwrite,
    )
