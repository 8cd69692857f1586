"""Stamps that repeat, go backwards or lie in another time, and a simulated clock that stands still and jumps."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from ros_support import VOLATILE, Camera, Peer, Processes, TestProcess, picture
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES

STAMPS = [Time(sec=50), Time(sec=50), Time(sec=40), Time(), Time(sec=2**31 - 1), Time(sec=41), Time(sec=41)]


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, tiny_preset: Path) -> Iterator[TestProcess]:
    """The node with simulated time; nobody publishes /clock at first."""
    process = processes.start(
        "segment_node", preset=str(tiny_preset), vocabulary=["cup", "floor"], use_sim_time=True, image_timeout=1.0
    )
    peer.wait_until_active(process)
    yield process
    assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def camera(node: TestProcess, peer: Peer) -> Camera:
    return Camera(peer)


def test_every_frame_is_published_once_under_its_own_header(peer: Peer, camera: Camera, node: TestProcess) -> None:
    """A frame is known by its frame_id and, so that header and pixels cannot be mixed up, by its width."""
    numbers = itertools.count()
    sent: dict[str, tuple[int, Time]] = {}
    with (
        peer.collect(Image, "/ovseg/segment_image") as images,
        peer.collect(PanopticSegmentation, "/ovseg/segments") as lists,
    ):
        for stamp in STAMPS:

            def make(stamp: Time = stamp) -> Image:
                number = next(numbers)
                sent[f"frame {number}"] = (8 + number, stamp)
                return MESSAGES.image(picture(12, 8 + number), "rgb8", Header(stamp=stamp, frame_id=f"frame {number}"))

            done = len(lists)
            camera.until(lambda done=done: len(lists) > done, f"segments of a frame stamped {stamp.sec} s", make)
        camera.until(lambda: {m.header.frame_id for m in lists} == {m.header.frame_id for m in images}, "all images")
    for messages in (images, lists):
        names = [message.header.frame_id for message in messages]
        assert len(names) == len(set(names)), names
        assert all(sent[message.header.frame_id][1] == message.header.stamp for message in messages)
    assert all(sent[image.header.frame_id][0] == image.width for image in images)
    assert len({message.header.stamp.sec for message in lists}) == len({stamp.sec for stamp in STAMPS})


def test_a_simulated_clock_may_stand_still_and_jump(peer: Peer, camera: Camera, node: TestProcess) -> None:
    clock = peer.node.create_publisher(Clock, "/clock", VOLATILE)
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as lists:
        for second in (1000, 1000, 10, 5000, 0):
            done = len(lists)

            def make(second: int = second) -> Image:
                clock.publish(Clock(clock=Time(sec=second)))
                return MESSAGES.image(picture(), "rgb8", Header(stamp=Time(sec=second)))

            camera.until(lambda done=done: len(lists) >= done + 2, f"segments at second {second}", make)
    peer.node.destroy_publisher(clock)


def test_diagnostics_and_warnings_come_although_simulated_time_stands_still(
    peer: Peer, camera: Camera, node: TestProcess
) -> None:
    with (
        peer.collect(DiagnosticArray, "/diagnostics") as diagnostics,
        peer.collect(PanopticSegmentation, "/ovseg/segments"),
    ):
        peer.wait_until(lambda: len(diagnostics) >= 2, "two messages on /diagnostics", node)
        node.wait_for_output("no image for")
        peer.wait_until(
            lambda: any("no image for" in status.message for message in diagnostics for status in message.status),
            "the silent camera in /diagnostics",
        )
