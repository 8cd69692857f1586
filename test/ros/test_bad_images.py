"""Bad images through the real node: one clear message, and the next good frame is segmented."""

from collections.abc import Callable

import numpy as np
import pytest
from ros_support import Camera, Peer, TestProcess, picture, stamp_of
from sensor_msgs.msg import CompressedImage, Image

from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES

MakeImage = Callable[[Camera], Image]


def changed(**changes: object) -> MakeImage:
    def make(camera: Camera) -> Image:
        message = MESSAGES.image(picture(), "rgb8", camera.header())
        for field, value in changes.items():
            setattr(message, field, value)
        return message

    return make


def depth_with_nan(camera: Camera) -> Image:
    return MESSAGES.image(np.full((48, 64), np.nan, np.float32), "32FC1", camera.header())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(changed(step=100), "/image: step is 100; a row of 64 pixels in rgb8 takes 192 bytes", id="step"),
        pytest.param(changed(data=b""), "/image: data is empty; expected 9216 bytes", id="empty data"),
        pytest.param(changed(data=bytes(9000)), "/image: data has 9000 bytes; expected step x height", id="truncated"),
        pytest.param(changed(encoding="banana"), "/image: encoding is 'banana', which cannot be", id="encoding"),
        pytest.param(changed(width=0), "/image: width is 0; expected at least 1", id="zero width"),
        pytest.param(changed(height=0), "/image: height is 0; expected at least 1", id="zero height"),
        pytest.param(depth_with_nan, "/image: encoding is '32FC1', which holds depth", id="NaN depth as image"),
    ],
)
def test_a_bad_image_is_named_and_the_next_good_one_is_segmented(
    peer: Peer, camera: Camera, segment_node: TestProcess, make: MakeImage, message: str
) -> None:
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        bad_stamps = set()

        def send_bad() -> Image:
            bad = make(camera)
            bad_stamps.add(stamp_of(bad))
            return bad

        # Kinds of fault share a throttle by topic and field, hence the generous deadline of `until`.
        camera.until(lambda: message in segment_node.output, message, send_bad)
        camera.until(lambda: segments, "segments of a good frame")
    assert not bad_stamps & {stamp_of(received) for received in segments}


def test_a_flood_of_bad_images_is_logged_at_a_bounded_rate(
    peer: Peer, camera: Camera, segment_node: TestProcess
) -> None:
    text = "/image: step is 99;"
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: text in segment_node.output, text, lambda: changed(step=99)(camera))
        before = segment_node.output.count(text)
        for _ in range(50):
            camera.send(changed(step=99)(camera))
            peer.spin(0.005)
        camera.until(lambda: segments, "segments after the flood")
    assert segment_node.output.count(text) - before <= 3


def test_bad_compressed_images(peer: Peer, camera: Camera, segment_node: TestProcess) -> None:
    compressed = Camera(peer, "/image/compressed", CompressedImage)

    def truncated() -> CompressedImage:
        message = MESSAGES.compressed(picture(), "rgb8", compressed.header(), 90)
        message.data = message.data[:-50]
        return message

    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        text = "/image/compressed: data ends early after"
        compressed.until(lambda: text in segment_node.output, text, truncated)
        compressed.until(
            lambda: segments, "segments", lambda: MESSAGES.compressed(picture(), "rgb8", compressed.header(), 90)
        )
    compressed.close()


def test_resolution_may_change_in_the_stream(peer: Peer, camera: Camera) -> None:
    with peer.collect(Image, "/ovseg/segment_image") as images:
        for height, width in ((48, 64), (33, 57), (1, 1), (120, 160)):
            camera.until(
                lambda size=(height, width): any((image.height, image.width) == size for image in images),
                f"output of {width}x{height}",
                lambda size=(height, width): MESSAGES.image(picture(*size), "rgb8", camera.header()),
            )
    assert all(image.step == 2 * image.width and len(image.data) == image.step * image.height for image in images)


@pytest.mark.parametrize("encoding", ["mono8", "mono16"])
def test_grey_cameras_are_segmented(peer: Peer, camera: Camera, encoding: str) -> None:
    pixels = picture()[..., 0]

    def grey() -> Image:
        if encoding == "mono8":
            return MESSAGES.image(pixels, encoding, camera.header())
        message = MESSAGES.image(pixels.astype(np.uint16) << 8, "16UC1", camera.header())
        message.encoding = encoding
        return message

    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: segments, "segments", grey)
