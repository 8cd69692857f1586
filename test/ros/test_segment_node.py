"""The node's outputs, quality of service, services and parameters, over DDS."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from pycocotools import mask
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from ros_support import LATCHED, VOLATILE, Camera, Peer, TestProcess, picture, pixels_of, stamp_of
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool

from ovseg_ros.core.image_messages import image_from_compressed_message, image_from_message
from ovseg_ros.msg import PanopticSegmentation, Vocabulary
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import Query

IMAGES = ("label_image", "segment_image", "confidence_image", "overlay_image")
WHOLE = [0, 0, 0, 0]
VOCABULARY = {0: "cup", 1: "floor", 2: "red ball"}


@pytest.fixture
def set_parameter(peer: Peer, segment_node: TestProcess) -> Callable[[str, object], SetParametersResult]:
    def set_one(name: str, value: object) -> SetParametersResult:
        message: ParameterMessage = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        return peer.call(SetParameters, "/ovseg/set_parameters", request).results[0]

    return set_one


def test_all_outputs_of_a_frame_agree(peer: Peer, camera: Camera) -> None:
    types: dict[str, Any] = dict.fromkeys(IMAGES, Image)
    types |= {"overlay_image/compressed": CompressedImage, "segments": PanopticSegmentation}
    with ExitStack() as stack:
        outputs = {name: stack.enter_context(peer.collect(kind, f"/ovseg/{name}")) for name, kind in types.items()}

        def complete_stamps() -> set[tuple[int, int]]:
            return set.intersection(*({stamp_of(message) for message in messages} for messages in outputs.values()))

        camera.until(complete_stamps, "frame with all outputs")
    stamp = complete_stamps().pop()
    frame = {name: next(m for m in messages if stamp_of(m) == stamp) for name, messages in outputs.items()}

    assert {message.header.frame_id for message in frame.values()} == {"test_camera"}
    described = {name: (frame[name].encoding, frame[name].step, frame[name].height) for name in IMAGES}
    assert described == {
        "label_image": ("mono8", 64, 48),
        "segment_image": ("16UC1", 128, 48),
        "confidence_image": ("mono8", 64, 48),
        "overlay_image": ("rgb8", 192, 48),
    }
    labels, ids, confidence = (pixels_of(frame[name]) for name in ("label_image", "segment_image", "confidence_image"))
    segments = frame["segments"].segments
    assert len(segments) > 1 and frame["segments"].vocabulary_version == 1
    assert set(np.unique(ids)) - {0} == {segment.id for segment in segments}
    for segment in segments:
        mask = ids == segment.id
        assert mask.sum() == segment.area
        assert set(labels[mask]) == {segment.category_id}
        assert VOCABULARY[segment.category_id] == segment.label
        assert segment.is_thing == (segment.label != "floor")
        rows, columns = np.nonzero(mask)
        assert (segment.box.x_offset, segment.box.y_offset) == (columns.min(), rows.min())
        assert (segment.box.width, segment.box.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert set(labels[ids == 0]) <= {255} and not confidence[ids == 0].any()

    overlay = image_from_message(frame["overlay_image"], "overlay")
    compressed = image_from_compressed_message(frame["overlay_image/compressed"], "overlay")
    assert frame["overlay_image/compressed"].format == "rgb8; jpeg compressed bgr8"
    assert np.corrcoef(overlay.ravel(), compressed.ravel())[0, 1] > 0.9


def test_masks_are_in_the_segments_where_the_parameter_asks(
    peer: Peer, camera: Camera, set_parameter: Callable[[str, object], SetParametersResult]
) -> None:
    with (
        peer.collect(Image, "/ovseg/segment_image") as ids,
        peer.collect(PanopticSegmentation, "/ovseg/segments") as lists,
    ):

        def pairs() -> list[tuple[Image, PanopticSegmentation]]:
            return [(i, s) for i in ids for s in lists if i.header == s.header and s.segments]

        for asked, region in ((False, WHOLE), (True, WHOLE), (True, [10, 6, 20, 30]), (False, WHOLE)):
            assert set_parameter("roi", region).successful and set_parameter("mask_rle", asked).successful
            ids.clear()
            lists.clear()
            camera.until(lambda: len(pairs()) >= 2, "two frames, of which one may have been on its way")
            image, segments = pairs()[-1]
            pixels = pixels_of(image)
            assert pixels[:6].any() == (region == WHOLE)
            for segment in segments.segments:
                code = {"size": [image.height, image.width], "counts": segment.mask_rle.encode()}
                if asked:
                    np.testing.assert_array_equal(mask.decode(code), pixels == segment.id)
                assert bool(segment.mask_rle) == asked


@pytest.mark.parametrize("qos", [VOLATILE, qos_profile_sensor_data], ids=["reliable", "best effort"])
def test_outputs_reach_reliable_and_best_effort_subscribers(peer: Peer, camera: Camera, qos: QoSProfile) -> None:
    with peer.collect(PanopticSegmentation, "/ovseg/segments", qos) as messages:
        camera.until(lambda: messages, "segments")


def test_images_of_a_best_effort_camera_arrive(peer: Peer, camera: Camera) -> None:
    publisher = peer.node.create_publisher(Image, "/image", qos_profile_sensor_data)
    message = MESSAGES.image(picture(), "rgb8", camera.header())
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as messages:
        camera.until(lambda: messages, "segments", lambda: publisher.publish(message) or message)
    peer.node.destroy_publisher(publisher)


def test_the_vocabulary_is_latched(peer: Peer, segment_node: TestProcess) -> None:
    with peer.collect(Vocabulary, "/ovseg/vocabulary", LATCHED) as messages:
        peer.wait_until(lambda: messages, "the latched vocabulary")
    assert peer.vocabulary() == messages[0]
    assert (messages[0].version, {c.id: c.name for c in messages[0].categories}) == (1, VOCABULARY)


def test_an_incompatible_subscriber_is_logged_with_the_policy(peer: Peer, segment_node: TestProcess) -> None:
    with peer.collect(Image, "/ovseg/label_image", LATCHED):
        segment_node.wait_for_output("/ovseg/label_image: a subscriber requests an incompatible QoS policy DURABILITY")


def test_compressed_images_are_segmented_and_twins_only_once(peer: Peer, camera: Camera) -> None:
    twin = Camera(peer, "/image/compressed", CompressedImage)
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as messages:
        twin.until(lambda: messages, "segments", lambda: MESSAGES.compressed(picture(), "rgb8", twin.header(), 90))
        messages.clear()

        def send_both() -> Image:
            header = camera.header()
            header.frame_id = "both"
            twin.send(MESSAGES.compressed(picture(), "rgb8", header, 90))
            return MESSAGES.image(picture(), "rgb8", header)

        camera.until(lambda: sum(m.header.frame_id == "both" for m in messages) >= 5, "segments", send_both)
    stamps = [stamp_of(message) for message in messages if message.header.frame_id == "both"]
    assert len(stamps) == len(set(stamps))
    twin.close()


def test_enable(peer: Peer, camera: Camera, segment_node: TestProcess) -> None:
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as messages:
        assert peer.call(SetBool, "/ovseg/enable", SetBool.Request(data=False)).success
        values = peer.call(GetParameters, "/ovseg/get_parameters", GetParameters.Request(names=["enabled"])).values
        assert values[0].bool_value is False
        camera.send(MESSAGES.image(picture(), "rgb8", camera.header()))
        # The answer comes from the same thread as images, after them, so that the image above is known to be ignored.
        peer.vocabulary()
        messages.clear()
        ignored = camera.header()
        camera.send(MESSAGES.image(picture(), "rgb8", ignored))
        answer = peer.call(SetBool, "/ovseg/enable", SetBool.Request(data=True))
        assert (answer.success, answer.message) == (True, "enabled")
        camera.until(lambda: messages, "segments")
        assert ignored.stamp not in [message.header.stamp for message in messages]


def test_query_leaves_the_vocabulary(peer: Peer, camera: Camera) -> None:
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as messages:
        camera.until(lambda: messages, "segments")
        answer = peer.call(Query, "/ovseg/query", Query.Request(phrase="green cone"))
        assert answer.success, answer.message
        mask = pixels_of(answer.mask)
        assert (answer.mask.encoding, answer.mask.header, answer.header.frame_id) == (
            "mono8",
            answer.header,
            "test_camera",
        )
        assert set(np.unique(mask)) <= {0, 255} and 0 < answer.score <= 1
        rows, columns = np.nonzero(mask)
        assert (answer.box.x_offset, answer.box.y_offset) == (columns.min(), rows.min())
        assert (answer.box.width, answer.box.height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        messages.clear()
        camera.until(lambda: messages, "segments")
        assert {message.vocabulary_version for message in messages} == {1}


@pytest.mark.parametrize(
    ("phrase", "reason"),
    [
        ("", "the phrase '' is empty; say what to look for, such as 'red cup'"),
        ("  \t ", "is empty; say what to look for"),
        ("x" * 101, "101 characters"),
        ("a\x07b", "U+0007"),
        ("cup, table", "the phrase 'cup, table' is 2 phrases; expected one, such as 'cup'"),
        ("words.yaml", "the phrase 'words.yaml' looks like a file"),
    ],
)
def test_query_refuses_bad_phrases(peer: Peer, camera: Camera, phrase: str, reason: str) -> None:
    answer = peer.call(Query, "/ovseg/query", Query.Request(phrase=phrase))
    assert not answer.success and reason in answer.message
    assert not answer.mask.data


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("object_threshold", 1.5, "out of range"),
        ("object_threshold", -0.1, "out of range"),
        ("object_threshold", float("nan"), "out of range"),
        ("min_area", -1, "out of range"),
        ("jpeg_quality", 0, "out of range"),
        ("max_rate", -1.0, "out of range"),
        ("overlay_alpha", "half", "type"),
        ("preset", "other", "read-only"),
        ("vocabulary", ["cup"], "read-only"),
        ("image_transport", "theora", "read-only"),
        ("roi", [0, 0, 5], "width and height"),
        ("roi", [0, 0, 5, -1], "0 or more"),
        ("roi", 5, "type"),
        ("cameras", ["front"], "read-only"),
        ("no_such_parameter", 1, "undeclared"),
    ],
)
def test_bad_parameters_are_refused_with_a_reason(
    set_parameter: Callable[[str, object], SetParametersResult], name: str, value: object, reason: str
) -> None:
    result = set_parameter(name, value)
    assert not result.successful
    assert reason in result.reason.lower()


def test_parameters_are_live(
    peer: Peer, camera: Camera, set_parameter: Callable[[str, object], SetParametersResult]
) -> None:
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as messages:
        for value, expected in ((3073, False), (1, True)):
            assert set_parameter("min_area", value).successful
            camera.until(lambda expected=expected: messages and bool(messages[-1].segments) == expected, "new min_area")


def test_max_rate_limits_the_rate(
    peer: Peer, camera: Camera, set_parameter: Callable[[str, object], SetParametersResult]
) -> None:
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as messages:
        camera.until(lambda: messages, "segments")
        assert set_parameter("max_rate", 4.0).successful
        messages.clear()
        arrivals: list[float] = []

        def send_often() -> bool:
            camera.send()
            peer.spin(0.01)
            arrivals.extend([time.monotonic()] * (len(messages) - len(arrivals)))
            return len(arrivals) >= 6

        peer.wait_until(send_often, "six frames")
        assert set_parameter("max_rate", 0.0).successful
    # One frame may have been on its way when the limit came.
    assert arrivals[5] - arrivals[1] > 0.8 * 4 / 4.0


def test_parameters_describe_themselves(peer: Peer, segment_node: TestProcess) -> None:
    names = ["object_threshold", "max_rate", "jpeg_quality", "preset"]
    request = DescribeParameters.Request(names=names)
    descriptors: list[ParameterDescriptor] = peer.call(
        DescribeParameters, "/ovseg/describe_parameters", request
    ).descriptors
    assert all(descriptor.description for descriptor in descriptors)
    assert [descriptor.read_only for descriptor in descriptors] == [False, False, False, True]
    assert descriptors[0].floating_point_range[0].to_value == 1.0
    assert descriptors[2].integer_range[0].to_value == 100
