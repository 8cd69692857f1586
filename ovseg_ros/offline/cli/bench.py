"""`ovseg bench`: time the model call and the node's own cost over it; count frames; watch memory."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import DEVICE_HELP, PRESET_HELP, positive, size


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
    parser.add_argument(
        "--cameras", type=positive, default=1, metavar="N", help="cameras that share the model (default: 1)"
    )
    parser.add_argument(
        "--delivered",
        action="store_true",
        help="instead, count the frames that arrive, with a stand-in for the model that returns at once",
    )
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="frames per second for --delivered")
    parser.add_argument(
        "--soak",
        type=float,
        metavar="MINUTES",
        help="instead, watch the node's memory under a camera at ten times the model's rate",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.bench import bench, bench_delivered, bench_soak

    if options.delivered:
        return bench_delivered(
            size=options.size,
            frames=options.frames,
            cameras=options.cameras,
            rate=options.rate,
            json_path=options.json,
        )
    if options.soak is not None:
        return bench_soak(
            preset=options.preset,
            size=options.size,
            minutes=options.soak,
            vocabulary_text=options.vocabulary,
            device=options.device,
            json_path=options.json,
        )
    return bench(
        preset=options.preset,
        size=options.size,
        frames=options.frames,
        warmup=options.warmup,
        vocabulary_text=options.vocabulary,
        device=options.device,
        threads=options.threads,
        cameras=options.cameras,
        json_path=options.json,
    )
