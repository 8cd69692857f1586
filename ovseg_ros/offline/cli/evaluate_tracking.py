"""`ovseg evaluate-tracking`: measure identity over time on simulated takes."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import DEVICE_HELP, PRESET_HELP, positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser(
        "evaluate-tracking", help="measure identity over time (IDF1) where camera and objects move"
    )
    parser.add_argument("--preset", help=f"also track what it segments: {PRESET_HELP}")
    parser.add_argument("--split", default="test", help="train, val, test or captions (default: test)")
    parser.add_argument("--sequences", type=positive, default=10, metavar="N", help="number of takes (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first take (default: 0)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a take (default: 12)")
    parser.add_argument("--rate", type=float, default=5.0, help="frames per second (default: 5)")
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.evaluate.tracking import TakesConfig, evaluate_tracking

    config = TakesConfig(
        split=options.split,
        sequences=options.sequences,
        seed=options.seed,
        seconds=options.seconds,
        rate=options.rate,
    )
    return evaluate_tracking(config, preset=options.preset, device=options.device, json_path=options.json)
