"""Which depth belongs to which image, and what is said of an image that has none: stamps and times, no middleware."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.depth_inputs import DepthInputs


class Topics:
    """In place of a node: what was subscribed to can be fed by hand, at times by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.tolerance = 0.0
        self.callbacks: dict[str, object] = {}
        self.publishers = 1
        self.inputs = DepthInputs(self, "front/", lambda: self.now)  # type: ignore[arg-type]

    def get_parameter(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(value={"depth_tolerance": self.tolerance}[name])

    def resolve_topic_name(self, name: str) -> str:
        return f"/{name}"

    def get_publishers_info_by_topic(self, topic: str) -> list[SimpleNamespace]:
        kind = "CameraInfo" if topic == "/front/camera_info" else "Image"
        return [SimpleNamespace(topic_type=f"sensor_msgs/msg/{kind}", node_name="camera")] * self.publishers

    def create_subscription(self, kind: type, name: str, receive: object, *_: object, **__: object) -> SimpleNamespace:
        self.callbacks[name] = receive
        return SimpleNamespace(topic_name=f"/{name}")

    def destroy_subscription(self, subscription: SimpleNamespace) -> None:
        del self.callbacks[subscription.topic_name.removeprefix("/")]

    def depth(self, stamp: float) -> None:
        self.callbacks["front/depth"](MESSAGES.image(np.ones((6, 8), np.float32), "32FC1", header(stamp)))  # type: ignore[operator]

    def info(self) -> None:
        message = CameraInfo(width=8, height=6, k=[8.0, 0, 3.5, 0, 8.0, 2.5, 0, 0, 1])
        self.callbacks["front/camera_info"](message)  # type: ignore[operator]

    def frame(self, stamp: float, *depths: float) -> tuple[bool, str]:
        """Whether a frame is in 3D, its depths coming while the model works, and what is wrong."""
        expected = self.inputs.expect(header(stamp))
        for depth in depths:
            self.depth(depth)
        return self.inputs.pair(expected, 6, 8) is not None, self.inputs.problem()


def header(stamp: float) -> Header:
    message = Header(frame_id="camera")
    message.stamp.sec, message.stamp.nanosec = int(stamp), round(stamp % 1 * 1e9)
    return message


@pytest.fixture
def topics() -> Topics:
    topics = Topics()
    topics.inputs.open()
    topics.info()
    return topics


def test_the_frame_at_hand_when_somebody_subscribes_is_just_not_in_3d(topics: Topics) -> None:
    """Its depth was sent before the subscription was there; the first that is heard is of the frame after it."""
    assert topics.frame(10.0, 10.25) == (False, "")
    assert topics.frame(10.25) == (True, "")
    assert topics.frame(10.5, 10.5, 10.75) == (True, "")
    # So again for the next who subscribes, and however late the first depth comes.
    topics.inputs.close()
    topics.now += 60
    topics.inputs.open()
    topics.info()
    topics.now += 5
    assert topics.frame(80.0, 80.5) == (False, "")
    assert topics.frame(80.25) == (False, "")  # an image that was slower than the depth after it
    assert topics.frame(80.5) == (True, "")


def test_stamps_that_do_not_agree_are_still_said(topics: Topics) -> None:
    topics.depth(9.75)
    in_3d, problem = topics.frame(10.0, 10.25)
    assert not in_3d and "the nearest is 0.250 s away" in problem and "depth_tolerance" in problem
    topics.tolerance = 0.3
    assert topics.frame(10.0) == (True, "")


def test_a_clock_that_is_ahead_is_said_once_the_start_is_over(topics: Topics) -> None:
    assert topics.frame(10.0, 5000.0) == (False, "")
    topics.now += 1.9
    assert topics.frame(12.0, 5002.0) == (False, "")
    topics.now += 0.2
    in_3d, problem = topics.frame(12.25, 5002.25)
    assert not in_3d and "no depth within 0 s of the image's stamp" in problem


def test_nothing_that_comes_is_said_once_the_start_is_over(topics: Topics) -> None:
    assert topics.frame(10.0) == (False, "")
    topics.now += 2.1
    in_3d, problem = topics.frame(12.0)
    assert not in_3d and problem.startswith("no depth on /front/depth (1 publishers); the publisher sends nothing")
    topics.publishers = 0
    problem = topics.frame(12.25)[1]
    assert problem.startswith("no depth on /front/depth (0 publishers); remap front/depth to a depth image")


def test_depth_of_another_view_is_said_with_its_topic(topics: Topics) -> None:
    topics.depth(10.0)
    assert topics.inputs.pair(topics.inputs.expect(header(10.0)), 8, 8) is None
    assert topics.inputs.problem().startswith("/front/depth: depth has 8x6 pixels and the image 8x8")


def test_each_of_the_frames_at_work_gets_its_own_depth(topics: Topics) -> None:
    """The model has the next frame while this one is published; each keeps what came for it, however much follows."""
    frames = []
    for stamp in (10.0, 10.25):
        topics.depth(stamp)
        frames.append(topics.inputs.expect(header(stamp)))
    for later in range(11, 30):  # more than waits
        topics.depth(later)
    for frame in frames:
        assert topics.inputs.pair(frame, 6, 8) is not None
        assert frame.best is not None and frame.best.header == frame.header
    assert topics.inputs.problem() == ""


def test_a_frame_that_is_lost_keeps_no_depth(topics: Topics) -> None:
    expected = topics.inputs.expect(header(10.0))
    topics.depth(10.0)
    assert expected.best is not None
    depth = weakref.ref(expected)
    del expected
    assert depth() is None
