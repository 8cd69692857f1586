"""Fixtures of the ROS tests: real processes over DDS, on a domain of each module's own."""

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="the ROS tests need rclpy")
pytest.importorskip("ovseg_ros.msg", reason="the ROS tests need the built package: run make test")

sys.path.insert(0, str(Path(__file__).parent))

from ros_support import Camera, Peer, Processes, TestProcess, free_domain
from tiny_preset import write_tiny_preset


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset whose networks are tiny and untrained: the real pipeline, with meaningless but repeatable masks."""
    return write_tiny_preset(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="session")
def interfaces() -> dict[str, str]:
    """Environment variables under which vision_msgs and bond can be imported.

    Where they are not installed, packages with the messages in question are built from interfaces/; once, into build/,
    as it takes a while.
    """
    source = Path(__file__).parent / "interfaces"
    build = Path(__file__).parents[2] / "build" / f"test_interfaces_{os.environ.get('ROS_DISTRO', '')}"
    missing = [folder for folder in sorted(source.iterdir()) if importlib.util.find_spec(folder.name) is None]
    if not missing:
        return {}
    files = [path for folder in missing for path in sorted(folder.rglob("*.*"))]
    stamp, digest = build / "stamp", hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        command = ["colcon", "--log-base", str(build / "log"), "build", "--base-paths", *map(str, missing)]
        command += ["--build-base", str(build / "build"), "--install-base", str(build / "install")]
        command += ["--event-handlers", "console_cohesion-"]
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, cwd=build)
        stamp.write_text(digest)
    script = f"source '{build / 'install' / 'setup.bash'}' && env -0"
    shown = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    variables = dict(line.split("=", 1) for line in shown.stdout.split("\0") if "=" in line)
    return {name: value for name, value in variables.items() if os.environ.get(name) != value}


@pytest.fixture(scope="module")
def domain() -> int:
    """A ROS domain that no other module uses."""
    return free_domain()


@pytest.fixture(scope="module")
def processes(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts processes on the module's domain and kills whatever is left at the end."""
    with Processes(domain, tmp_path_factory.mktemp("processes")) as running:
        yield running


@pytest.fixture(scope="module")
def peer(domain: int) -> Iterator[Peer]:
    """The other end: a node in the test's process."""
    with Peer(domain) as node:
        yield node


@pytest.fixture(scope="module")
def segment_node(processes: Processes, peer: Peer, tiny_preset: Path) -> Iterator[TestProcess]:
    """The node `ovseg` as users start it, active; at the end it has to leave cleanly on SIGTERM."""
    process = processes.start("segment_node", preset=str(tiny_preset), vocabulary=["cup", "floor", "red ball"])
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def camera(segment_node: TestProcess, peer: Peer) -> Camera:
    """Publishes images for the node."""
    return Camera(peer)
