"""label_info, vision_info and detections, in an environment with vision_msgs and in one without.

Where vision_msgs is not installed, a package with the messages in question is built from vision_msgs_package/; once,
into build/, as it takes a while.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ros_support import Processes, TestProcess

SOURCE = Path(__file__).parent / "vision_msgs_package"
BUILD = Path(__file__).parents[2] / "build" / f"test_vision_msgs_{os.environ.get('ROS_DISTRO', '')}"


@pytest.fixture(scope="module")
def vision_environment() -> dict[str, str]:
    """Environment variables under which vision_msgs can be imported."""
    if importlib.util.find_spec("vision_msgs") is not None:
        return {}
    contents = b"".join(path.read_bytes() for path in sorted(SOURCE.rglob("*.*")))
    stamp, digest = BUILD / "stamp", hashlib.sha256(contents).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        command = ["colcon", "--log-base", str(BUILD / "log"), "build", "--base-paths", str(SOURCE)]
        command += ["--build-base", str(BUILD / "build"), "--install-base", str(BUILD / "install")]
        command += ["--event-handlers", "console_cohesion-"]
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, cwd=BUILD)
        stamp.write_text(digest)
    shown = subprocess.run(
        ["bash", "-c", f"source '{BUILD / 'install' / 'setup.bash'}' && env -0"],
        check=True,
        capture_output=True,
        text=True,
    )
    variables = dict(line.split("=", 1) for line in shown.stdout.split("\0") if "=" in line)
    return {name: value for name, value in variables.items() if os.environ.get(name) != value}


@pytest.fixture(scope="module")
def with_vision_msgs(
    domain: int, tmp_path_factory: pytest.TempPathFactory, vision_environment: dict[str, str]
) -> Iterator[Processes]:
    with Processes(domain, tmp_path_factory.mktemp("vision"), **vision_environment) as running:
        yield running


@pytest.mark.timeout(600)  # where the messages have to be built
def test_with_vision_msgs(with_vision_msgs: Processes, tiny_preset: Path) -> None:
    node = with_vision_msgs.start(
        "segment_node", preset=str(tiny_preset), vocabulary=["cup", "floor", "red ball"], object_threshold=0.01
    )
    node.wait_for_output("active; images come from")
    assert "vision_msgs" not in node.output
    client = with_vision_msgs.start(Path(__file__).parent / "vision_client.py")
    assert client.wait() == 0, client.output
    report = json.loads(client.output.splitlines()[-1])

    first, second, third = report["label_info"]
    assert first["classes"] == {"0": "cup", "1": "floor", "2": "red ball"}
    assert first["threshold"] == pytest.approx(0.01) and first["stamp"] > 0
    # "cup" keeps its id; the negative is never published, so it has no place here.
    assert second["classes"] == {"0": "cup", "3": "spoon"}
    assert second["threshold"] == pytest.approx(0.01)
    assert third == {**second, "threshold": pytest.approx(0.25), "stamp": third["stamp"]}
    assert [entry[1:] for entry in report["vision_info"]] == [["/ovseg/vocabulary", 1], ["/ovseg/vocabulary", 2]]
    assert report["vision_info"][0][0].startswith("ovseg_ros ")
    assert report["frame_id"] == "test_camera"
    assert report["detections"] and report["detections"] == report["segments"]


def test_without_vision_msgs_the_log_says_what_to_install(segment_node: TestProcess) -> None:
    if importlib.util.find_spec("vision_msgs") is not None:
        pytest.skip("vision_msgs is installed here")
    assert "install ros-$ROS_DISTRO-vision-msgs (4.1 or newer) and restart" in segment_node.output
    assert "~/label_info, ~/vision_info and ~/detections are not published" in segment_node.output
