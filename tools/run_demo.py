"""Run the demonstration: simulated camera, segmentation node and demo client as processes that talk over DDS.

`make demo` calls this in the environment of tools/environment.bash. It starts what demo.launch.py starts, but without
`ros2 launch`, which the ROS 2 wheels do not bring.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO

from ament_index_python.packages import get_package_prefix, get_package_share_directory

from ovseg_ros.ros.node.middleware import shared_memory_profile_unless_chosen

NODES = ("tabletop_camera", "segment_node")
CLIENT = "demo"
TIME_LIMIT = 600.0
"""Seconds until something must have gone wrong; an ordinary run takes about a minute."""
PATIENCE = 15.0
"""Seconds that a process has to end after SIGINT."""
LOG_LINES = 30
"""Lines of a failed process's log to show."""


def run(out: Path) -> bool:
    """Starts the nodes and the client, watches them, and tells whether the client got to its end."""
    programs = Path(get_package_prefix("ovseg_ros")) / "lib" / "ovseg_ros"
    parameters = Path(get_package_share_directory("ovseg_ros")) / "config" / "demo.yaml"
    environment = {**os.environ, **shared_memory_profile_unless_chosen()}

    def start(name: str, log: IO[bytes] | None, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [programs / name, "--ros-args", "--params-file", str(parameters), *arguments],
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
            env=environment,
        )

    logs = {name: out / "log" / f"{name}.log" for name in NODES}
    (out / "log").mkdir(parents=True, exist_ok=True)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, path in logs.items():
            with path.open("wb") as log:
                processes[name] = start(name, log)
        processes[CLIENT] = start(CLIENT, None, "--param", f"out:={out}")
        return watch(processes, logs)
    finally:
        stop(processes.values())


def watch(processes: "Mapping[str, subprocess.Popen[bytes]]", logs: Mapping[str, Path]) -> bool:
    """Waits for the client's end; explains it where a node ended first, or time ran out."""
    client, deadline = processes[CLIENT], time.monotonic() + TIME_LIMIT
    while client.poll() is None:
        for name, path in logs.items():
            if processes[name].poll() is not None:
                print(f"demo: {name} ended with {processes[name].returncode}", file=sys.stderr)
                print_end(path)
                return False
        if time.monotonic() > deadline:
            print(f"demo: not finished after {TIME_LIMIT:g} s", file=sys.stderr)
            break
        time.sleep(0.1)
    if client.returncode != 0:
        for path in logs.values():
            print_end(path)
    return client.returncode == 0


def print_end(path: Path) -> None:
    """Shows the last lines of a log."""
    print(f"demo: the end of {path}:", file=sys.stderr)
    for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:]:
        print(f"  {line}", file=sys.stderr)


def stop(processes: "Collection[subprocess.Popen[bytes]]") -> None:
    """Ends process groups: politely at first, then not."""
    for sent in (signal.SIGINT, signal.SIGKILL):
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, sent)
        for process in processes:
            try:
                process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for pictures and summary.json")
    out = parser.parse_args().out.resolve()
    # SIGTERM, as from `timeout`, ends the processes as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: terminated"))
    try:
        succeeded = run(out)
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
    if not succeeded:
        sys.exit("demo: failed")


if __name__ == "__main__":
    main()
