"""label_info, vision_info and detections, in an environment with vision_msgs and in one without."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ros_support import Processes, TestProcess


@pytest.fixture(scope="module")
def with_vision_msgs(
    domain: int, tmp_path_factory: pytest.TempPathFactory, interfaces: dict[str, str]
) -> Iterator[Processes]:
    with Processes(domain, tmp_path_factory.mktemp("vision"), **interfaces) as running:
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
