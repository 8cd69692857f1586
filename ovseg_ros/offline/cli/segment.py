"""`ovseg segment`: segment an image, a folder of images, a video or a bag."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import Commands, add_preset


def add(commands: Commands) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("segment", help="segment an image, a folder of images, a video or a bag")
    parser.add_argument("input", type=Path, metavar="IMAGE|FOLDER|VIDEO|BAG")
    parser.add_argument("--vocabulary", required=True, metavar='FILE|"a,b,c"', help="words to look for")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add_preset(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the results that DIR already holds")
    text = "of a bag: an image topic to segment (default: its only one)"
    parser.add_argument("--topic", action="append", default=[], help=text)
    parser.add_argument("--no-overlay", action="store_true", help="of a bag: write no pictures for people")
    parser.add_argument("--mask-rle", action="store_true", help="of a bag: every segment's mask as COCO's RLE, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.data.bag_images import is_bag
    from ovseg_ros.offline.tools.segment import segment_path
    from ovseg_ros.offline.tools.segment_bag import segment_bag

    path, words, out = options.input, options.vocabulary, options.out
    preset, device, overwrite = options.preset, options.device, options.overwrite
    if not is_bag(path):
        return segment_path(path, words, out, preset=preset, device=device, overwrite=overwrite)
    return segment_bag(
        path,
        words,
        out,
        topics=options.topic,
        preset=preset,
        device=device,
        overwrite=overwrite,
        overlay=not options.no_overlay,
        mask_rle=options.mask_rle,
    )
