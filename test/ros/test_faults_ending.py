"""SIGTERM at bad moments: the process ends in bounded time, and says so where it has to use force."""

import signal
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from ros_support import Camera, Peer, Processes, picture
from sensor_msgs.msg import Image

from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES

NODE = Path(__file__).parent / "instrumented_node.py"
TORN = Path(__file__).parent / "torn_node.py"
WORDS = ["cup", "floor"]


@pytest.mark.parametrize("preset", ["slow", "slow_import"])
def test_sigterm_breaks_off_the_loading_of_a_model(processes: Processes, peer: Peer, preset: str) -> None:
    node = processes.start(NODE, preset=preset, vocabulary=WORDS)
    node.wait_for_output("loading slowly")
    peer.wait_until(lambda: "ovseg" in peer.node.get_node_names(), "the node", node)
    assert node.interrupt(signal.SIGTERM) == 0, node.output
    assert "Traceback" not in node.output and "by force" not in node.output
    # It said good-bye: one that is only missed is gone after 20 s.
    peer.wait_until(lambda: "ovseg" not in peer.node.get_node_names(), "its end on the network", deadline=10)


def test_sigterm_breaks_off_a_loading_that_a_lifecycle_manager_asked_for(processes: Processes, peer: Peer) -> None:
    node = processes.start(NODE, preset="slow", vocabulary=WORDS, autostart=False)
    client = peer.node.create_client(ChangeState, "/ovseg/change_state")
    peer.wait_until(client.service_is_ready, "the service change_state", node)
    client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
    peer.wait_until(lambda: "loading slowly" in node.output, "the loading", node)
    assert node.interrupt(signal.SIGTERM) == 0, node.output
    assert "Traceback" not in node.output and "by force" not in node.output
    peer.node.destroy_client(client)


def test_sigterm_tears_nothing_that_a_callback_is_making(processes: Processes) -> None:
    node = processes.start(TORN)
    assert node.wait() == 0, node.output
    assert "the callback went on to its end" in node.output
    assert "torn" not in node.output and "Traceback" not in node.output


def test_sigterm_tears_nothing_while_the_node_is_made(processes: Processes) -> None:
    node = processes.start(TORN, early=True)
    assert node.wait() == 0, node.output
    assert not node.output


def test_sigterm_while_frames_are_segmented_and_published(processes: Processes, peer: Peer, tiny_preset: Path) -> None:
    node = processes.start("segment_node", preset=str(tiny_preset), vocabulary=WORDS)
    peer.wait_until_active(node)
    camera = Camera(peer)
    with (
        peer.collect(PanopticSegmentation, "/ovseg/segments") as segments,
        peer.collect(Image, "/ovseg/overlay_image"),
    ):
        camera.until(lambda: segments, "segments")
        for _ in range(20):
            camera.send(MESSAGES.image(picture(480, 640), "rgb8", camera.header()))
            peer.spin(0.005)
        assert node.interrupt(signal.SIGTERM) == 0, node.output
    assert "Traceback" not in node.output and "by force" not in node.output
    assert "FATAL" not in node.output and "ERROR" not in node.output
    camera.close()


def test_a_model_that_never_returns_cannot_keep_the_process(
    processes: Processes, peer: Peer, tiny_preset: Path
) -> None:
    node = processes.start(NODE, preset=str(tiny_preset), vocabulary=WORDS)
    peer.wait_until_active(node)
    camera = Camera(peer)
    endless = picture()
    endless[0, 0] = (0, 255, 0)
    with peer.collect(PanopticSegmentation, "/ovseg/segments"):
        camera.until(
            lambda: "segmenting without end" in node.output,
            "the endless frame in the model",
            lambda: MESSAGES.image(endless, "rgb8", camera.header()),
        )
        assert node.interrupt(signal.SIGTERM) == 1, node.output
    assert "ending by force" in node.output and "segmenter" in node.output
    camera.close()
