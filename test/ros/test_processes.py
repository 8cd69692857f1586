"""How the node's process starts, fails to start, warns, and ends."""

import signal
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import State, Transition
from ros_support import VOLATILE, Camera, Peer, Processes, TestProcess
from sensor_msgs.msg import Image

from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.srv import Query, SetVocabulary

FAILURES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "missing preset": ({"preset": "no_such_preset"}, ["no preset 'no_such_preset'", "tabletop"]),
    "missing checkpoint": ({"preset": "FOLDER/lost.yaml"}, ["lost.safetensors", "does not exist"]),
    "missing vocabulary": ({"vocabulary_file": "/no/such.yaml"}, ["'/no/such.yaml' does not exist"]),
    "bad vocabulary": ({"vocabulary_file": "FOLDER/bad.yaml"}, ["bad.yaml", "categories[1]", "threshold"]),
    "wrong type": ({"max_rate": "fast"}, ["max_rate", "fast"]),
    "wrong QoS": ({"qos_overrides./image.subscription.reliability": "sometimes"}, ["image inputs", "sometimes"]),
    "wrong camera": ({"cameras": ["front", "front"]}, ["cameras", "different names"]),
    "wrong choice": ({"image_transport": "theora"}, ["image_transport", "theora", "compressed"]),
}


@pytest.fixture(scope="module")
def failing(processes: Processes, tiny_preset: Path) -> dict[str, TestProcess]:
    """All failing starts at once, because most of their time is spent importing."""
    folder = processes.folder
    (folder / "lost.yaml").write_text(tiny_preset.read_text().replace("eomt.safetensors", "lost.safetensors"))
    (folder / "bad.yaml").write_text("categories:\n- cup\n- {name: plate, threshold: high}\n")

    def start(parameters: dict[str, Any]) -> TestProcess:
        given = {"preset": str(tiny_preset), **parameters}
        if "vocabulary_file" not in parameters:
            given["vocabulary"] = ["cup"]
        filled = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in given.items()}
        return processes.start("segment_node", **filled)

    return {name: start(parameters) for name, (parameters, _) in FAILURES.items()}


@pytest.mark.parametrize("name", FAILURES)
def test_a_start_that_fails_says_why_in_one_line(failing: dict[str, TestProcess], name: str) -> None:
    process, words = failing[name], FAILURES[name][1]
    assert process.wait() == 1, process.output
    lines = [line for line in process.output.splitlines() if "[FATAL]" in line]
    assert len(lines) == 1 and "cannot start" in lines[0], process.output
    assert all(word in lines[0] for word in words), lines[0]
    assert "Traceback" not in process.output


def test_lifecycle_and_timeout_warning(peer: Peer, processes: Processes, tiny_preset: Path) -> None:
    node = processes.start(
        "segment_node",
        "image:=/front/color",
        preset=str(tiny_preset),
        vocabulary=["cup", "floor"],
        autostart=False,
        image_timeout=1.0,
    )
    assert not peer.call(SetVocabulary, "/ovseg/set_vocabulary", SetVocabulary.Request()).success
    answer = peer.call(Query, "/ovseg/query", Query.Request(phrase="cup"))
    assert not answer.success and "not active" in answer.message

    assert peer.change_state(Transition.TRANSITION_CONFIGURE) == (True, State.PRIMARY_STATE_INACTIVE)
    assert peer.vocabulary().version == 1
    assert peer.node.count_subscribers("/front/color") == 0

    other = peer.node.create_publisher(Image, "/back/color/image_raw", VOLATILE)
    assert peer.change_state(Transition.TRANSITION_ACTIVATE) == (True, State.PRIMARY_STATE_ACTIVE)
    answer = peer.call(Query, "/ovseg/query", Query.Request(phrase="cup"))
    assert not answer.success and "no image has come yet on /front/color" in answer.message
    with peer.collect(PanopticSegmentation, "/ovseg/segments"):
        node.wait_for_output("no image for")
    warning = next(line for line in node.output.splitlines() if "no image for" in line)
    assert "[WARN]" in warning and "/front/color (0 publishers)" in warning
    assert "Image topics now: /back/color/image_raw" in warning
    peer.node.destroy_publisher(other)

    camera = Camera(peer, "/front/color")
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: segments, "segments")
        node.wait_for_output("images arrive on /front/color")
        assert peer.change_state(Transition.TRANSITION_DEACTIVATE) == (True, State.PRIMARY_STATE_INACTIVE)
        peer.wait_until(lambda: not camera.publisher.get_subscription_count(), "the subscription's end")
        segments.clear()
        assert peer.change_state(Transition.TRANSITION_CLEANUP) == (True, State.PRIMARY_STATE_UNCONFIGURED)
        assert peer.vocabulary().version == 0
        assert peer.change_state(Transition.TRANSITION_CONFIGURE) == (True, State.PRIMARY_STATE_INACTIVE)
        assert not segments
        assert peer.change_state(Transition.TRANSITION_ACTIVATE) == (True, State.PRIMARY_STATE_ACTIVE)
        camera.until(lambda: segments, "segments after starting again")
    camera.close()
    assert node.interrupt(signal.SIGINT) == 0, node.output
    assert "Traceback" not in node.output


def test_ending_while_the_model_loads_is_clean(peer: Peer, processes: Processes, tiny_preset: Path) -> None:
    peer.wait_until(lambda: "ovseg" not in peer.node.get_node_names(), "the end of other tests' nodes")
    node = processes.start("segment_node", preset=str(tiny_preset), vocabulary=["cup"])
    peer.wait_until(lambda: "ovseg" in peer.node.get_node_names(), "the node", node)
    assert node.interrupt(signal.SIGTERM) == 0, node.output
    assert "Traceback" not in node.output and "FATAL" not in node.output
