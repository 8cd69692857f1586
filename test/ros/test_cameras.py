"""Several cameras in one node with one model: who is subscribed when, whose frames go where, regions of interest."""

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ros_support import Camera, Peer, Processes, TestProcess, picture, pixels_of, stamp_of
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import Query

FRONT, LEFT = "/ovseg/front/segments", "/ovseg/left/segments"
ROI = (10, 6, 20, 30)


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, tiny_preset: Path) -> Iterator[TestProcess]:
    """The instrumented node with two cameras, of which one has a region of interest; batches are allowed."""
    process = processes.start(
        Path(__file__).parent / "instrumented_node.py",
        "left/image:=/robot/left",
        preset=str(tiny_preset),
        vocabulary=["cup", "floor"],
        cameras=["front", "left"],
        max_batch=2,
        **{"left.roi": list(ROI)},
    )
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def cameras(node: TestProcess, peer: Peer) -> dict[str, Camera]:
    return {"front": Camera(peer, "/front/image"), "left": Camera(peer, "/robot/left")}


def image_of(camera: Camera, frame_id: str, pixels: np.ndarray | None = None) -> Image:
    header: Header = camera.header()
    header.frame_id = frame_id
    return MESSAGES.image(picture() if pixels is None else pixels, "rgb8", header)


def test_only_the_camera_whose_outputs_are_wanted_is_subscribed(
    peer: Peer, cameras: dict[str, Camera], node: TestProcess
) -> None:
    front, left = cameras["front"].publisher, cameras["left"].publisher
    peer.wait_until(lambda: not front.get_subscription_count() + left.get_subscription_count(), "no subscription")
    with peer.collect(PanopticSegmentation, FRONT):
        cameras["front"].wait_for_subscriber()
        assert left.get_subscription_count() == 0
        with peer.collect(Image, "/ovseg/left/label_image"):
            cameras["left"].wait_for_subscriber()
        peer.wait_until(lambda: not left.get_subscription_count(), "the end of the left subscription")
        assert front.get_subscription_count() > 0
    peer.wait_until(lambda: not front.get_subscription_count(), "the end of the front subscription")


def test_a_query_subscribes_for_a_while(peer: Peer, cameras: dict[str, Camera]) -> None:
    front = cameras["front"]
    peer.wait_until(lambda: not front.publisher.get_subscription_count(), "no subscription")
    answers = []

    def ask() -> bool:
        future, done = peer.call_async(Query, "/ovseg/query", Query.Request(phrase="cup"))
        front.until(future.done, "an answer", lambda: image_of(front, "front"))
        done()
        answers.append(future.result())
        return answers[-1].success

    peer.wait_until(ask, "a mask")
    assert answers[-1].header.frame_id == "front"
    peer.wait_until(lambda: not front.publisher.get_subscription_count(), "the end of the subscription")


def test_each_camera_gets_its_own_frames(peer: Peer, cameras: dict[str, Camera]) -> None:
    with peer.collect(PanopticSegmentation, FRONT) as front, peer.collect(PanopticSegmentation, LEFT) as left:
        for _ in range(3):
            for name, camera in cameras.items():
                camera.until(
                    lambda name=name: any(m.header.frame_id == name for m in {"front": front, "left": left}[name]),
                    f"segments of {name}",
                    lambda name=name, camera=camera: image_of(camera, name),
                )
        assert {message.header.frame_id for message in front} == {"front"}
        assert {message.header.frame_id for message in left} == {"left"}
    for messages in (front, left):
        stamps = [stamp_of(message) for message in messages]
        assert len(stamps) == len(set(stamps))


def test_a_flooding_camera_does_not_starve_the_other(peer: Peer, cameras: dict[str, Camera]) -> None:
    with peer.collect(PanopticSegmentation, FRONT) as front, peer.collect(PanopticSegmentation, LEFT) as left:
        cameras["left"].until(lambda: left, "segments of left", lambda: image_of(cameras["left"], "left"))

        def flood() -> bool:
            for _ in range(5):
                cameras["front"].send(image_of(cameras["front"], "front"))
            cameras["left"].send(image_of(cameras["left"], "left"))
            peer.spin(0.01)
            return len(left) >= 5

        peer.wait_until(flood, "frames of left")
        # Turns: however fast front is, it gets no more than one frame between two of left, give or take what is lost.
        assert front


def test_frames_that_wait_together_go_through_the_model_together(
    peer: Peer, cameras: dict[str, Camera], node: TestProcess
) -> None:
    with peer.collect(PanopticSegmentation, FRONT) as front, peer.collect(Image, "/ovseg/left/segment_image") as left:

        def send() -> bool:
            # The left camera's picture is larger by its region of interest, so that both crops have one size.
            cameras["left"].send(image_of(cameras["left"], "left", picture(60, 80)))
            cameras["front"].send(image_of(cameras["front"], "front", picture(30, 20)))
            peer.spin(0.01)
            return bool("segmenting 2 at once" in node.output and front and left)

        peer.wait_until(send, "a batch")


def test_a_failing_frame_in_a_batch_is_the_only_one_lost(
    peer: Peer, cameras: dict[str, Camera], node: TestProcess
) -> None:
    poison = picture(30, 20)
    poison[0, 0] = (255, 0, 255)
    before = node.output.count("frames at once met RuntimeError")
    lost = "a frame of camera front was lost to RuntimeError: injected model fault"
    with peer.collect(PanopticSegmentation, FRONT) as front, peer.collect(PanopticSegmentation, LEFT) as left:

        def send() -> bool:
            cameras["left"].send(image_of(cameras["left"], "left", picture(60, 80)))
            cameras["front"].send(image_of(cameras["front"], "poison", poison))
            peer.spin(0.01)
            return node.output.count("frames at once met RuntimeError") > before and left and lost in node.output

        peer.wait_until(send, "a failed batch")
        assert "a frame of camera left was lost" not in node.output
        cameras["front"].until(
            lambda: any(m.header.frame_id == "front" for m in front),
            "segments of a good frame",
            lambda: image_of(cameras["front"], "front"),
        )
    assert not any(m.header.frame_id == "poison" for m in front)


def test_outside_the_region_of_interest_all_is_void(peer: Peer, cameras: dict[str, Camera]) -> None:
    with peer.collect(Image, "/ovseg/left/segment_image") as ids, peer.collect(PanopticSegmentation, LEFT) as lists:

        def pairs() -> list[tuple[Image, PanopticSegmentation]]:
            return [(i, s) for i in ids for s in lists if i.header == s.header and i.header.frame_id == "region"]

        cameras["left"].until(pairs, "both outputs of a frame", lambda: image_of(cameras["left"], "region"))
    image, segments = pairs()[-1]
    pixels = pixels_of(image)
    assert pixels.shape == (48, 64)
    x, y, width, height = ROI
    outside = np.ones(pixels.shape, dtype=bool)
    outside[y : y + height, x : x + width] = False
    assert not pixels[outside].any() and pixels[~outside].any()
    for segment in segments.segments:
        assert x <= segment.box.x_offset and segment.box.x_offset + segment.box.width <= x + width
        assert y <= segment.box.y_offset and segment.box.y_offset + segment.box.height <= y + height
