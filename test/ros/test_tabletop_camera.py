"""The simulated camera: every topic, one stamp a frame, exact ground truth, clean ends."""

import signal
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from ros_support import VOLATILE, Peer, Processes, TestProcess, stamp_of
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovseg_ros.core.image_messages import depth_from_message, image_from_compressed_message, image_from_message
from ovseg_ros.msg import PanopticSegmentation

pytest.importorskip("mujoco", reason="the simulated camera needs mujoco")

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


def test_an_unknown_split_is_refused(processes: Processes) -> None:
    camera = processes.start("tabletop_camera", split="holidays")
    assert camera.wait() == 1
    assert "cannot start: no scene from these parameters: " in camera.output and "'holidays'" in camera.output
    assert "Traceback" not in camera.output
