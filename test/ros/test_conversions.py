"""The core's results and vocabularies to messages and back."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.core.image_messages import depth_from_message, image_from_compressed_message, image_from_message
from ovseg_ros.core.outputs import COMPRESSED_OUTPUTS, DATA_OUTPUTS, OVERLAY_OUTPUTS, OutputOptions, SegmentedFrame
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.msg import Category, PanopticSegmentation
from ovseg_ros.offline.data.bag_messages import BagMessages
from ovseg_ros.ros.node.conversions import MESSAGE_TYPES, MESSAGES, specs_from_messages

HEADER = Header(stamp=Time(sec=12, nanosec=34), frame_id="camera")
RGB = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def over_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


@pytest.mark.parametrize(
    "pixels", [RGB, RGB[:, ::2], RGB[::-1], RGB[..., ::-1]], ids=["packed", "strided", "up", "bgr"]
)
def test_rgb_round_trip_whatever_the_memory_layout(pixels: np.ndarray) -> None:
    message = over_the_wire(MESSAGES.image(pixels, "rgb8", HEADER))
    assert (message.header, message.encoding, message.step) == (HEADER, "rgb8", pixels.shape[1] * 3)
    np.testing.assert_array_equal(image_from_message(message, "/image"), pixels)


def test_depth_round_trip() -> None:
    depth = np.array([[0.25, 3.0]], np.float32)
    message = over_the_wire(MESSAGES.image(depth, "32FC1", HEADER))
    assert message.step == 8
    np.testing.assert_array_equal(depth_from_message(message, "/depth"), depth)


@pytest.mark.parametrize(
    ("pixels", "encoding"), [(RGB, "mono8"), (RGB[..., 0], "rgb8"), (RGB[..., 0], "16UC1"), (RGB[..., :2], "rgb8")]
)
def test_pixels_that_do_not_fit_the_encoding_are_refused(pixels: np.ndarray, encoding: str) -> None:
    with pytest.raises(ValueError, match=encoding):
        MESSAGES.image(pixels, encoding, HEADER)


def test_jpeg_keeps_colour_and_names_its_format() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    message = over_the_wire(MESSAGES.compressed(red, "rgb8", HEADER, 90))
    assert (message.header, message.format) == (HEADER, "rgb8; jpeg compressed bgr8")
    np.testing.assert_allclose(image_from_compressed_message(message, "/c").astype(int), red, atol=4)


def result_of(category_ids: list[int], segments: tuple[Segment, ...] = ()) -> PanopticResult:
    ids = np.array([category_ids], np.uint16)
    return PanopticResult(np.ones_like(ids), ids, np.zeros(ids.shape, np.uint8), segments, 3)


def vocabulary_with_last_id(last: int) -> Vocabulary:
    """A vocabulary of one category whose id is `last`."""
    before = Vocabulary.build([CategorySpec(f"name {index}") for index in range(last)]) if last else None
    return Vocabulary.build([CategorySpec("cup")], previous=before)


def output(name: str, result: PanopticResult, vocabulary: Vocabulary | None = None, **options: Any):
    image = np.zeros((*result.segment_ids.shape, 3), np.uint8)
    frame = SegmentedFrame(image, HEADER, result, vocabulary or vocabulary_with_last_id(0), OutputOptions(**options))
    return over_the_wire((DATA_OUTPUTS | COMPRESSED_OUTPUTS)[name].make(MESSAGES, frame))


def test_labels_are_mono8_up_to_id_254() -> None:
    message = output("label_image", result_of([0, 254, NO_CATEGORY]), vocabulary_with_last_id(254))
    assert (message.encoding, message.step, list(message.data)) == ("mono8", 3, [0, 254, 255])


def test_labels_are_16_bit_from_id_255_on() -> None:
    message = output("label_image", result_of([0, 255, NO_CATEGORY]), vocabulary_with_last_id(255))
    assert (message.encoding, message.step) == ("16UC1", 6)
    assert np.frombuffer(message.data, np.uint16).tolist() == [0, 255, NO_CATEGORY]


def test_labels_are_16_bit_from_the_first_id_where_that_is_wanted() -> None:
    message = output("label_image", result_of([0, NO_CATEGORY]), label_image_encoding="16UC1")
    assert (message.encoding, np.frombuffer(message.data, np.uint16).tolist()) == ("16UC1", [0, NO_CATEGORY])
    compressed = output("label_image/compressed", result_of([0]), label_image_encoding="16UC1")
    assert compressed.format == "16UC1; png compressed "


def test_negatives_need_no_room_in_labels() -> None:
    specs = [CategorySpec("cup"), *(CategorySpec(f"not {index}", negative=True) for index in range(300))]
    result = result_of([0, NO_CATEGORY])
    assert list(output("label_image", result, Vocabulary.build(specs)).data) == [0, 255]
    assert output("label_image/compressed", result, Vocabulary.build(specs)).format == "mono8; png compressed "


def test_segments_message() -> None:
    segments = (
        Segment(1, 7, "cup", 0.75, True, 12, (3, 4, 5, 6)),
        Segment(2, 65534, "Tisch äöü 机", 1.0, False, 99, (0, 0, 10, 10)),
    )
    message = output("segments", result_of([0], segments))
    assert (message.header, message.vocabulary_version) == (HEADER, 3)
    first, second = message.segments
    assert (first.id, first.category_id, first.label, first.score, first.is_thing, first.area) == (
        1,
        7,
        "cup",
        0.75,
        True,
        12,
    )
    assert (first.box.x_offset, first.box.y_offset, first.box.width, first.box.height) == (3, 4, 5, 6)
    assert (first.track_id, first.mask_rle) == (0, "")
    assert (second.category_id, second.label, second.is_thing) == (65534, "Tisch äöü 机", False)


def test_no_segments() -> None:
    assert output("segments", result_of([NO_CATEGORY])) == PanopticSegmentation(header=HEADER, vocabulary_version=3)


def test_vocabulary_round_trip() -> None:
    specs = (
        CategorySpec("cup", ("mug", "beaker"), True, 0.3, False),
        CategorySpec("floor", (), False, 0.0, False),
        CategorySpec("hand", negative=True),
    )
    vocabulary = Vocabulary.build(specs)
    message = over_the_wire(MESSAGES.vocabulary(vocabulary, HEADER.stamp))
    assert (message.version, message.header.stamp) == (1, HEADER.stamp)
    assert [category.id for category in message.categories] == [0, 1, 2]
    color = message.categories[0].color
    assert [round(255 * channel) for channel in (color.r, color.g, color.b)] == list(vocabulary.categories[0].color)
    assert specs_from_messages(message.categories) == specs


def test_a_category_is_a_thing_unless_said_otherwise() -> None:
    assert specs_from_messages([Category(name="cup")]) == (CategorySpec("cup"),)


def test_headers_are_not_shared_with_later_messages() -> None:
    first = MESSAGES.image(RGB, "rgb8", HEADER)
    assert isinstance(first, Image)
    assert MESSAGES.image(RGB, "rgb8", Header(frame_id="other")).header != first.header


def test_bags_hold_what_the_node_sends() -> None:
    ids = np.zeros((4, 6), np.uint16)
    ids[1:, 2:5] = 1
    result = PanopticResult(
        segment_ids=ids,
        category_ids=np.where(ids == 1, 0, NO_CATEGORY).astype(np.uint16),
        confidence=(200 * ids).astype(np.uint8),
        segments=(Segment(1, 0, "cup", 0.5, True, 9, (2, 1, 3, 3), track_id=4),),
        vocabulary_version=1,
    )
    vocabulary = vocabulary_with_last_id(0)
    bag = BagMessages()
    for name, output in {**DATA_OUTPUTS, **COMPRESSED_OUTPUTS, **OVERLAY_OUTPUTS}.items():
        sent, kept = (
            output.make(make, SegmentedFrame(RGB, header, result, vocabulary, OutputOptions(mask_rle=True)))
            for make, header in ((MESSAGES, HEADER), (bag, bag.header_of(SimpleNamespace(header=HEADER))))
        )
        assert kept.__msgtype__ == output.type_name and isinstance(sent, MESSAGE_TYPES[output.type_name]), name
        assert deserialize_message(bytes(bag.serialize(kept)), type(sent)) == over_the_wire(sent), name
    sent, kept = MESSAGES.vocabulary(vocabulary, HEADER.stamp), bag.vocabulary(vocabulary, bag.time(12, 34))
    assert deserialize_message(bytes(bag.serialize(kept)), type(sent)) == over_the_wire(sent)
