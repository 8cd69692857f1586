"""Fixtures of the ROS tests: real processes over DDS, on a domain of each module's own."""

import signal
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
