"""`ovseg bench`: time the model call and the node's own cost over it; count frames; watch memory."""

import argparse

from ovseg_ros.offline.cli.options import Commands, add_json, add_preset, positive, size, typed


def add(commands: Commands) -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("bench", help="time the model call and the node's own cost over it")
    add_preset(parser)
    option = parser.add_argument
    option("--size", type=size, default=(640, 480), metavar="WxH", help="image size (default: 640x480)")
    option("--frames", type=positive, default=60, metavar="N", help="timed frames (default: 60)")
    option("--warmup", type=positive, default=5, metavar="N", help="untimed frames first (default: 5)")
    option("--vocabulary", metavar='FILE|"a,b,c"', help="words to look for (default: the whole tabletop)")
    option("--threads", type=positive, metavar="N", help="CPU threads for PyTorch (default: its own choice)")
    option("--cameras", type=positive, default=1, metavar="N", help="cameras that share the model (default: 1)")
    text = "instead, count the frames that arrive, with a stand-in for the model that returns at once"
    option("--delivered", action="store_true", help=text)
    option("--rate", type=float, default=30.0, metavar="HZ", help="frames per second for --delivered")
    text = "instead, watch the node's memory under a camera at ten times the model's rate"
    option("--soak", type=float, metavar="MINUTES", help=text)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.tools.bench import BenchOptions, bench, bench_delivered, bench_soak

    wanted = typed(BenchOptions, options)
    if options.delivered:
        return bench_delivered(wanted)
    return bench(wanted) if options.soak is None else bench_soak(wanted, minutes=options.soak)
