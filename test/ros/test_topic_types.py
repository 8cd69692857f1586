"""Inputs and outputs whose peers are of another type, and a camera that is silent: what is said, and how often."""

from types import SimpleNamespace
from typing import Any

import pytest
from ros_support import VOLATILE, Peer
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.ros.node.depth_inputs import DepthInputs
from ovseg_ros.ros.node.image_inputs import ImageInputs
from ovseg_ros.ros.node.topic_types import (
    COMPRESSED_IMAGE,
    IMAGE,
    check_one_type,
    input_remedy,
    mistyped_subscribers,
    type_name,
)

BOTH = ("image", "image/compressed")
PACKET, CLOUD = "theora_image_transport/msg/Packet", "sensor_msgs/msg/PointCloud2"


@pytest.mark.parametrize(
    ("name", "topic", "theirs", "inputs", "fitting", "remedy"),
    [
        pytest.param(
            "image",
            "/cam/image_raw/compressed",
            COMPRESSED_IMAGE,
            BOTH,
            [],
            "remap image:=/cam/image_raw and image/compressed:=/cam/image_raw/compressed (segment.launch.py needs only "
            "the former and listens to both)",
            id="compressed on image",
        ),
        pytest.param(
            "front/image",
            "/cam/jpeg",
            COMPRESSED_IMAGE,
            ("front/image",),
            [],
            "remap front/image/compressed:=/cam/jpeg and front/image to any other topic (segment.launch.py: "
            "compressed_image:='front:=/cam/jpeg', and in cameras another one for front), with image_transport:=both",
            id="only raw is listened to",
        ),
        pytest.param(
            "image",
            "/cam/jpeg",
            COMPRESSED_IMAGE,
            BOTH,
            [],
            "start it with -r image/compressed:=/cam/jpeg -p image_transport:=compressed (segment.launch.py: "
            "compressed_image:=/cam/jpeg in place of image)",
            id="compressed under another name",
        ),
        pytest.param(
            "image/compressed",
            "/cam/raw",
            IMAGE,
            BOTH,
            [],
            "start it with -r image:=/cam/raw -p image_transport:=raw (segment.launch.py: image:=/cam/raw)",
            id="raw on compressed",
        ),
        pytest.param(
            "image",
            "/cam/depth/compressedDepth",
            COMPRESSED_IMAGE,
            BOTH,
            [],
            "that is a depth image: remap image to the topic of a colour camera",
            id="compressed depth on image",
        ),
        pytest.param(
            "image",
            "/cam/image_raw/theora",
            PACKET,
            BOTH,
            ["/cam/image_raw"],
            "remap image to a topic of that type; now there are: /cam/image_raw",
            id="video on image",
        ),
        pytest.param(
            "image",
            "/cam/image_raw/theora",
            PACKET,
            BOTH,
            [],
            "now there are: none (image_transport's republish makes them of compressed ones and of videos)",
            id="nothing but a video",
        ),
        pytest.param(
            "depth",
            "/cam/depth/compressedDepth",
            COMPRESSED_IMAGE,
            ("depth", "camera_info"),
            ["/cam/depth"],
            "remap depth:=/cam/depth",
            id="compressed depth, raw there",
        ),
        pytest.param(
            "depth",
            "/cam/depth/compressedDepth",
            COMPRESSED_IMAGE,
            ("depth", "camera_info"),
            [],
            "remap depth:=/cam/depth; nobody publishes that now, but image_transport's republish can make it",
            id="compressed depth alone",
        ),
        pytest.param(
            "depth", "/points", CLOUD, ("depth", "camera_info"), ["/a", "/b"], "now there are: /a, /b", id="cloud"
        ),
    ],
)
def test_the_remedy_is_a_remap_that_works(
    name: str, topic: str, theirs: str, inputs: tuple[str, ...], fitting: list[str], remedy: str
) -> None:
    ours = COMPRESSED_IMAGE if name.endswith("compressed") else IMAGE
    assert input_remedy(name, topic, ours, theirs, inputs, fitting).endswith(remedy)


def test_a_camera_info_of_another_type_is_met_with_those_that_there_are() -> None:
    info = type_name(CameraInfo)
    assert info == "sensor_msgs/msg/CameraInfo"
    remedy = input_remedy("camera_info", "/cam/image", info, IMAGE, ("depth", "camera_info"), [])
    assert remedy == "remap camera_info to a topic of that type; now there are: none"


@pytest.mark.parametrize(
    ("topics", "remapped", "words"),
    [
        ({"image": Image, "image/compressed": CompressedImage}, "/cam/jpeg", ["image_transport:=compressed or :=raw"]),
        ({"depth": Image, "camera_info": CameraInfo}, "/cam/info", ["CameraInfo", "remap one of them"]),
        ({"image": Image, "~/points": PointCloud2}, "/points", ["PointCloud2", "remap one of them"]),
    ],
)
def test_two_types_on_one_topic_are_refused(
    topics: dict[str, type], remapped: str, words: list[str], peer: Peer
) -> None:
    check_one_type(peer.node, topics)
    with pytest.raises(ConfigError) as refused:
        check_one_type(SimpleNamespace(resolve_topic_name=lambda _: remapped), topics)  # type: ignore[arg-type]
    said = str(refused.value)
    assert said.startswith(f"{next(iter(topics))} (sensor_msgs/msg/Image)") and remapped in said
    assert all(word in said for word in [*topics, *words]), said
    check_one_type(SimpleNamespace(resolve_topic_name=lambda _: "/one"), {"a/image": Image, "b/image": Image})  # type: ignore[arg-type]


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A node whose log can be read; all else is the node's."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.lines: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)

    def get_logger(self) -> "Log":
        return self

    def warning(self, line: str) -> None:
        self.lines.append(line)

    info = warning


def test_a_silent_camera_is_missed_less_often_the_longer_it_is_silent(peer: Peer) -> None:
    clock, log = Clock(), Log(peer.node)
    inputs = ImageInputs(log, "silent/", "both", lambda *_: None, clock=clock)

    def said(seconds: int) -> list[int]:
        """At which seconds of these a line is written."""
        heard = []
        for second in range(1, seconds + 1):
            clock.now += 1
            before = len(log.lines)
            inputs.warn(5.0)
            heard += [second] * (len(log.lines) - before)
        return heard

    assert said(100) == [] and inputs.problem(5.0) == ""  # nobody wants its images
    inputs.open()
    assert said(100) == [5, 10, 20, 40, 80]
    assert log.lines[-1].startswith("no image for 80 s on /silent/image (0 publishers) or /silent/image/compressed (0")
    assert inputs.problem(5.0)
    inputs._receive("/silent/image", Image())
    assert log.lines[-1] == "images arrive on /silent/image" and inputs.problem(5.0) == ""
    assert said(12) == [5, 10]
    inputs.close()
    assert said(100) == [] and inputs.problem(5.0) == ""
    inputs.open()
    assert said(12) == [5, 10]
    inputs.close()


def test_publishers_and_subscribers_of_another_type_are_found(peer: Peer) -> None:
    node = peer.node
    made = [
        node.create_publisher(kind, topic, VOLATILE)
        for kind, topic in (
            (CompressedImage, "/odd/image"),
            (Image, "/odd/image/compressed"),
            (PointCloud2, "/odd/depth"),
            (Image, "/odd/camera_info"),
            (CameraInfo, "/odd/info"),
        )
    ]
    images, depth = ImageInputs(node, "odd/", "both", lambda *_: None), DepthInputs(node, "odd/")
    peer.wait_until(lambda: len(images.mistyped()) == 2 and len(depth.mistyped()) == 2, "publishers of other types")
    assert images.mistyped()["/odd/image", COMPRESSED_IMAGE] == (
        f"/odd/image is published as {COMPRESSED_IMAGE} (by node peer), but odd/image takes {IMAGE}; "
        "remap odd/image/compressed:=/odd/image and odd/image to any other topic (segment.launch.py: "
        "compressed_image:='odd:=/odd/image', and in cameras another one for odd)"
    )
    assert images.mistyped()["/odd/image/compressed", IMAGE].endswith(
        "remap odd/image:=/odd/image/compressed and odd/image/compressed to any other topic (segment.launch.py: "
        "cameras:='odd:=/odd/image/compressed')"
    )
    assert "/odd/info" in depth.mistyped()["/odd/camera_info", IMAGE]
    assert "/odd/image/compressed" in depth.mistyped()["/odd/depth", CLOUD]
    for publisher in made:
        node.destroy_publisher(publisher)


def test_depth_is_not_offered_as_image(peer: Peer) -> None:
    made = [peer.node.create_publisher(Image, f"/lone/{name}", VOLATILE) for name in ("depth", "colour")]
    clock = Clock()
    inputs = ImageInputs(peer.node, "lone/", "raw", lambda *_: None, ["lone/depth"], clock)
    inputs.open()
    clock.now += 9
    peer.wait_until(lambda: "/lone/colour" in inputs.problem(5.0), "the topic of the camera")
    assert "/lone/depth" not in inputs.problem(5.0)
    inputs.close()
    for publisher in made:
        peer.node.destroy_publisher(publisher)


def test_subscribers_of_another_type_are_told_what_we_have(peer: Peer, domain: int) -> None:
    kinds = {"labels": Image, "labels/compressed": CompressedImage, "cloud": PointCloud2}
    published = [peer.node.create_publisher(kind, f"/our/{name}", VOLATILE) for name, kind in kinds.items()]
    with Peer(domain) as other:
        for kind, name in ((CompressedImage, "labels"), (Image, "cloud"), (PointCloud2, "labels/compressed")):
            other.node.create_subscription(kind, f"/our/{name}", print, VOLATILE)

        def found_by_name() -> list[str]:
            return [line for line in mistyped_subscribers(peer.node, published).values() if "node peer asks" in line]

        peer.wait_until(lambda: len(found_by_name()) == 3, "subscribers of other types")
        found = mistyped_subscribers(peer.node, published)
    assert found["/our/labels", COMPRESSED_IMAGE] == (
        f"/our/labels is {IMAGE}, but node peer asks for {COMPRESSED_IMAGE}, so it gets nothing; "
        f"subscribe with {IMAGE}, or to /our/labels/compressed, which is {COMPRESSED_IMAGE}"
    )
    assert found["/our/cloud", IMAGE].endswith(f"or to /our/labels, which is {IMAGE}")
    assert found["/our/labels/compressed", CLOUD].endswith(f"or to /our/cloud, which is {CLOUD}")
    for publisher in published:
        peer.node.destroy_publisher(publisher)
