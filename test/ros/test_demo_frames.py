"""Matching messages by their stamp, as the demonstration does."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.core.image_messages import ImageFieldError, ids_from_message
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.demo.frames import IMAGE, SEGMENTS, TOPICS, FrameMatcher
from ovseg_ros.ros.node.conversions import nanoseconds


def header(index: int) -> Header:
    return Header(stamp=Time(sec=index, nanosec=index))


def stamp(index: int) -> int:
    return nanoseconds(header(index).stamp)


def add(matcher: FrameMatcher, index: int, topics: list[str], *, version: int = 1, received: int = 0) -> None:
    """Adds messages of image number `index`."""
    for topic in topics:
        message = TOPICS[topic](header=header(index))
        if isinstance(message, PanopticSegmentation):
            message.vocabulary_version = version
        matcher.add(topic, message, received)


def test_a_frame_is_complete_when_every_topic_has_come_in_any_order() -> None:
    matcher = FrameMatcher()
    add(matcher, 2, list(TOPICS))
    add(matcher, 1, list(reversed(TOPICS)))
    add(matcher, 3, [topic for topic in TOPICS if topic != IMAGE])
    assert [frame.stamp for frame in matcher.complete(1, 0)] == [stamp(i) for i in (1, 2)]
    assert [frame.stamp for frame in matcher.complete(1, stamp(2))] == [stamp(2)]


def test_frames_of_another_version_are_left_out() -> None:
    matcher = FrameMatcher()
    add(matcher, 1, list(TOPICS), version=1)
    add(matcher, 2, list(TOPICS), version=2)
    assert [frame.stamp for frame in matcher.complete(2, 0)] == [stamp(2)]
    assert matcher.complete(3, 0) == []


def test_the_first_message_of_a_version_is_remembered() -> None:
    matcher = FrameMatcher()
    assert 2 not in matcher.first_received
    for index, received in ((1, 100), (2, 200)):
        add(matcher, index, [SEGMENTS], version=2, received=received)
    matcher.forget()
    assert matcher.first_received[2] == 100
    assert not matcher.has(SEGMENTS)


def test_the_first_frames_of_a_path_are_settled_once_one_of_them_or_a_later_one_is_complete() -> None:
    matcher, some = FrameMatcher(), [IMAGE, SEGMENTS]
    for index in (1, 2):
        add(matcher, index, list(TOPICS))  # before the path
    assert matcher.first(1, 1, stamp(3)) is None
    add(matcher, 3, list(TOPICS))
    add(matcher, 4, [IMAGE])
    assert [frame.stamp for frame in matcher.first(1, 1, stamp(3)) or []] == [stamp(3)]
    assert matcher.first(2, 1, stamp(3)) is None  # more may come of the fourth
    add(matcher, 5, some)
    assert matcher.first(2, 1, stamp(3)) is None
    add(matcher, 5, [topic for topic in TOPICS if topic not in some])
    assert [frame.stamp for frame in matcher.first(2, 1, stamp(3)) or []] == [stamp(3)]  # the fourth is lost
    assert [frame.stamp for frame in matcher.first(3, 1, stamp(3)) or []] == [stamp(3), stamp(5)]


@pytest.mark.parametrize("is_bigendian", [False, True])
def test_segment_ids_honour_step_and_byte_order(is_bigendian: bool) -> None:
    ids = np.array([[0, 1, 300], [65535, 5, 6]], dtype=np.uint16)
    rows = np.zeros((2, 8), dtype=np.uint8)  # 2 bytes of padding in each row
    rows[:, :6] = ids.astype(">u2" if is_bigendian else "<u2").view(np.uint8)
    message = Image(height=2, width=3, step=8, encoding="16UC1", is_bigendian=is_bigendian)
    message.data.frombytes(rows.tobytes())
    decoded = ids_from_message(message, "/ids")
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, ids)


def test_segment_ids_refuse_another_encoding() -> None:
    with pytest.raises(ImageFieldError, match="mono8"):
        ids_from_message(Image(height=1, width=1, step=1, encoding="mono8"), "/ids")
