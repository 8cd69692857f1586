"""`ovseg bench`: time the model call and the node's own cost over it."""

import argparse
from pathlib import Path

from ovseg_ros.offline.commands.options import DEVICE_HELP, PRESET_HELP, positive, size


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("bench", help="time the model call and the node's own cost over it")
    parser.add_argument("--preset", default="tabletop", help=PRESET_HELP)
    parser.add_argument("--size", type=size, default=(640, 480), metavar="WxH", help="image size (default: 640x480)")
    parser.add_argument("--frames", type=positive, default=60, metavar="N", help="timed frames (default: 60)")
    parser.add_argument("--warmup", type=positive, default=5, metavar="N", help="untimed frames first (default: 5)")
    parser.add_argument("--vocabulary", metavar='FILE|"a,b,c"', help="words to look for (default: the whole tabletop)")
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads for PyTorch (default: its own choice)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
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
