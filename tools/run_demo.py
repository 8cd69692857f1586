"""Run the demonstration: simulated camera, segmentation node and demo client as processes that talk over DDS.

`make demo` calls this in the environment of tools/environment.bash. With `ros2 launch` at hand it runs
demo.launch.py; the ROS 2 wheels come without it, and then the same processes are started from here.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory

from ovseg_ros.ros.node.middleware import shared_memory_profile_unless_chosen

NODES = ("tabletop_camera", "segment_node")
CLIENT = "demo"
TIME_LIMIT = 300.0
"""Seconds until something must have gone wrong; an ordinary run takes well under 60."""
PATIENCE = 15.0
"""Seconds that a process has to end after SIGINT."""
LOG_LINES = 30
"""Lines of a failed process's log to show."""


def can_launch() -> bool:
    """Whether `ros2 launch` is installed and knows this package."""
    if shutil.which("ros2") is None:
        return False
    answer = subprocess.run(
        ["ros2", "launch", "ovseg_ros", "demo.launch.py", "--show-args"], capture_output=True, check=False, text=True
    )
    return answer.returncode == 0


def run_launch(out: Path) -> bool:
    """Runs demo.launch.py and tells whether it got to its end, which is when it writes the summary."""
    summary = out / "summary.json"
    summary.unlink(missing_ok=True)
    process = subprocess.Popen(["ros2", "launch", "ovseg_ros", "demo.launch.py", f"out:={out}"], start_new_session=True)
    try:
        process.wait(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"demo: not finished after {TIME_LIMIT:g} s", file=sys.stderr)
    finally:
        stop([process])
    return summary.is_file()


def run_processes(out: Path) -> bool:
    """Starts the nodes and the client, watches them, and tells whether the client got to its end."""
    programs = Path(get_package_prefix("ovseg_ros")) / "lib" / "ovseg_ros"
    parameters = Path(get_package_share_directory("ovseg_ros")) / "config" / "demo.yaml"
    ros_arguments = ["--ros-args", "--params-file", str(parameters)]
    logs = {name: out / "log" / f"{name}.log" for name in NODES}
    environment = {**os.environ, **shared_memory_profile_unless_chosen()}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, path in logs.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as log:
                processes[name] = subprocess.Popen(
                    [programs / name, *ros_arguments],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
        client = subprocess.Popen(
            [programs / CLIENT, *ros_arguments, "--param", f"out:={out}"], start_new_session=True, env=environment
        )
        processes[CLIENT] = client
        return watch(client, {name: processes[name] for name in NODES}, logs)
    finally:
        stop(list(processes.values()))


def watch(
    client: "subprocess.Popen[bytes]", nodes: "dict[str, subprocess.Popen[bytes]]", logs: dict[str, Path]
) -> bool:
    """Waits for the client's end; explains it where a node ended first, or time ran out."""
    deadline = time.monotonic() + TIME_LIMIT
    while client.poll() is None:
        for name, node in nodes.items():
            if node.poll() is not None:
                print(f"demo: {name} ended with {node.returncode}. The end of {logs[name]}:", file=sys.stderr)
                print_end(logs[name])
                return False
        if time.monotonic() > deadline:
            print(f"demo: not finished after {TIME_LIMIT:g} s", file=sys.stderr)
            break
        time.sleep(0.1)
    if client.returncode != 0:
        for path in logs.values():
            print(f"demo: the end of {path}:", file=sys.stderr)
            print_end(path)
    return client.returncode == 0


def print_end(path: Path) -> None:
    """Shows the last lines of a log."""
    for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:]:
        print(f"  {line}", file=sys.stderr)


def stop(processes: "list[subprocess.Popen[bytes]]") -> None:
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
        succeeded = run_launch(out) if can_launch() else run_processes(out)
    except KeyboardInterrupt:
        sys.exit("demo: interrupted")
    if not succeeded:
        sys.exit("demo: failed")


if __name__ == "__main__":
    main()
