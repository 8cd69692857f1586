"""`ovseg evaluate-space`: measure how well depth tells where simulated things are."""

import argparse
from pathlib import Path

from ovseg_ros.offline.cli.options import positive


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Describe the subcommand."""
    parser = commands.add_parser("evaluate-space", help="measure the errors in 3D against the simulator's true poses")
    parser.add_argument("--split", default="test", help="train, val, test or captions (default: test)")
    parser.add_argument("--scenes", type=positive, default=50, metavar="N", help="number of scenes (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first scene (default: 0)")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="M", help="depth noise at 1 m in metres (default: none)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it and return the exit code."""
    from ovseg_ros.offline.evaluate.space import evaluate_space

    return evaluate_space(
        split=options.split, scenes=options.scenes, seed=options.seed, noise=options.noise, json_path=options.json
    )
