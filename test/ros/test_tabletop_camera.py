"""The simulated camera: every topic, one stamp a frame, exact ground truth, clean ends."""

import signal
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from ros_support import VOLATILE, Peer, Processes, TestProcess, stamp_of
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from ovseg_ros.core.image_messages import depth_from_message, image_from_compressed_message, image_from_message
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import nanoseconds

simulator = pytest.importorskip("ovseg_ros.sim.simulator", reason="the simulated camera needs mujoco")

TYPES: dict[str, Any] = {
    "image": Image,
    "image/compressed": CompressedImage,
    "depth": Image,
    "camera_info": CameraInfo,
    "ground_truth/segment_image": Image,
    "ground_truth/segments": PanopticSegmentation,
}


@pytest.fixture(scope="module")
def tabletop(processes: Processes) -> TestProcess:
    return processes.start("tabletop_camera", seed=3, width=160, height=120, rate=20.0)


def test_a_frame_is_one_moment(peer: Peer, tabletop: TestProcess) -> None:
    with ExitStack() as stack:
        outputs = {name: stack.enter_context(peer.collect(kind, f"/{name}")) for name, kind in TYPES.items()}

        def complete() -> set[tuple[int, int]]:
            return set.intersection(*({stamp_of(message) for message in messages} for messages in outputs.values()))

        peer.wait_until(lambda: len(complete()) >= 2, "two complete frames", tabletop)
    early, late = min(complete()), max(complete())
    frame = {name: next(m for m in messages if stamp_of(m) == early) for name, messages in outputs.items()}

    assert {message.header.frame_id for message in frame.values()} == {"camera_color_optical_frame"}
    image = image_from_message(frame["image"], "image")
    assert (frame["image"].encoding, image.shape) == ("rgb8", (120, 160, 3))
    compressed = image_from_compressed_message(frame["image/compressed"], "image/compressed")
    assert np.corrcoef(image.ravel(), compressed.ravel())[0, 1] > 0.95
    depth = depth_from_message(frame["depth"], "depth")
    assert frame["depth"].encoding == "32FC1" and 0.1 < np.nanmedian(depth) < 10

    info = frame["camera_info"]
    assert (info.width, info.height, info.distortion_model, list(info.d)) == (160, 120, "plumb_bob", [0.0] * 5)
    assert info.k[0] == info.k[4] > 0 and list(info.p[:3]) == list(info.k[:3]) and list(info.r) == [*np.eye(3).ravel()]

    ids = np.frombuffer(frame["ground_truth/segment_image"].data, np.uint16)
    segments = frame["ground_truth/segments"].segments
    assert {segment.id for segment in segments} == set(ids) - {0}
    assert {segment.label for segment in segments} >= {"table"} and any(segment.is_thing for segment in segments)
    assert all((ids == segment.id).sum() == segment.area for segment in segments)

    moved = next(m for m in outputs["image"] if stamp_of(m) == late)
    assert not np.array_equal(image, image_from_message(moved, "image"))


def test_stamps_increase(peer: Peer, tabletop: TestProcess) -> None:
    with peer.collect(CameraInfo, "/camera_info") as infos:
        peer.wait_until(lambda: len(infos) >= 3, "camera_info", tabletop)
    stamps = [stamp_of(info) for info in infos]
    assert stamps == sorted(set(stamps))


def test_clean_exit(peer: Peer, tabletop: TestProcess) -> None:
    with peer.collect(Image, "/image", VOLATILE) as images:
        peer.wait_until(lambda: images, "images", tabletop)
        assert tabletop.interrupt(signal.SIGINT, signal.SIGINT) == 0, tabletop.output
    assert "Traceback" not in tabletop.output


def test_in_lock_step_the_path_is_the_same_however_long_answers_take(peer: Peer, processes: Processes) -> None:
    """Begun anew by the service, frame k shows what is to be seen k periods later, and has that stamp."""
    size = {"width": 160, "height": 120}
    camera = processes.start(
        "tabletop_camera", seed=3, rate=20.0, scene_period=0.15, answers="answers", patience=2.0, **size
    )
    answers = peer.node.create_publisher(PanopticSegmentation, "/answers", 10)
    with peer.collect(Image, "/image") as images:

        def answer() -> None:
            for image in images[-2:]:
                answers.publish(PanopticSegmentation(header=image.header))

        peer.wait_until(lambda: images, "images that nobody answers", camera)
        peer.wait_until(answers.get_subscription_count, "who listens to answers", camera)
        restarted = peer.call(Trigger, "/tabletop_camera/restart", Trigger.Request())
        assert restarted.success
        begun = int(restarted.message)
        assert begun % 10**9 == 0

        def path() -> list[Image]:
            answer()
            return [image for image in images if nanoseconds(image.header.stamp) >= begun]

        peer.wait_until(lambda: len(path()) >= 5, "five frames of the path", camera)
        first = path()[:5]
        camera.wait_for_output("no answer for 2 s on /answers, images that wait for one: 1; going on")
        seen = len(images)
        peer.wait_until(lambda: len(images) > seen, "more images, as if nobody answered", camera)
    assert [nanoseconds(image.header.stamp) - begun for image in first] == [50_000_000 * index for index in range(5)]
    expected = []
    for seed, times in ((3, (0.0, 0.05, 0.1)), (4, (0.0, 0.05))):
        with simulator.TabletopSimulator(seed, **size) as scene:
            expected += [scene.render(time).image for time in times]
    for image, pixels in zip(first, expected, strict=True):
        np.testing.assert_allclose(image_from_message(image, "image"), pixels, atol=1)
    assert camera.interrupt(signal.SIGINT) == 0, camera.output


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [("split", "holidays", "no scene from these parameters: "), ("answers", "a b", "answers 'a b' is no topic's name")],
)
def test_an_unknown_split_and_no_topic_are_refused(
    processes: Processes, parameter: str, value: str, message: str
) -> None:
    camera = processes.start("tabletop_camera", **{parameter: value})
    assert camera.wait() == 1
    assert f"cannot start: {message}" in camera.output and f"'{value}'" in camera.output
    assert "Traceback" not in camera.output
