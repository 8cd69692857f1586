"""Depth to 3D through the real node: pairing, units, what is wrong with depth, and what comes out."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_support import VOLATILE, Camera, Peer, Processes, TestProcess, picture, pixels_of, stamp_of
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from ovseg_ros.core.image_messages import depth_from_message
from ovseg_ros.msg import PanopticSegmentation, Segments3D
from ovseg_ros.ros.node.conversions import MESSAGES

WIDTH, HEIGHT = 64, 48
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
TYPES: dict[str, Any] = {
    "points": PointCloud2,
    "segments_3d": Segments3D,
    "markers": MarkerArray,
    "segments": PanopticSegmentation,
    "segment_image": Image,
    "segment_image/compressed": CompressedImage,
    "label_image": Image,
    "label_image/compressed": CompressedImage,
    "confidence_image": Image,
}
Outputs = dict[str, list[Any]]


def ramp() -> np.ndarray:
    """A floor that rises from 1 m at the bottom to 2 m at the top, in steps of a millimetre."""
    return np.round(np.linspace(2, 1, HEIGHT)[:, None] + np.zeros((1, WIDTH)), 3).astype(np.float32)


def metres(depth: np.ndarray, header: Header) -> Image:
    return MESSAGES.image(depth, "32FC1", header)


def millimetres(depth: np.ndarray, header: Header) -> Image:
    return MESSAGES.image(np.rint(np.nan_to_num(depth, nan=0) * 1000).astype(np.uint16), "16UC1", header)


def camera_info(header: Header, matrix: np.ndarray = K, width: int = WIDTH, height: int = HEIGHT) -> CameraInfo:
    return CameraInfo(header=header, width=width, height=height, k=matrix.ravel())


class DepthCamera:
    """A colour camera with aligned depth."""

    def __init__(self, peer: Peer) -> None:
        self._camera = Camera(peer)
        self._depth = peer.node.create_publisher(Image, "/depth", VOLATILE)
        self._info = peer.node.create_publisher(CameraInfo, "/camera_info", VOLATILE)
        self._peer = peer

    def send(self, make_depth: Callable[[Header], Image] | None, info: Callable[[Header], CameraInfo] | None) -> Image:
        """Calibration, colour and depth of one moment, in this order, as drivers have it; the colour image."""
        image = MESSAGES.image(picture(), "rgb8", self._camera.header())
        if info is not None:
            self._info.publish(info(image.header))
        if make_depth is not None:
            self._depth.publish(make_depth(image.header))
        return image

    def until(
        self,
        condition: Callable[[], Any],
        what: str,
        make_depth: Callable[[Header], Image] | None,
        info: Callable[[Header], CameraInfo] | None = camera_info,
    ) -> None:
        self._camera.until(condition, what, lambda: self.send(make_depth, info))

    def close(self) -> None:
        self._camera.close()
        self._peer.node.destroy_publisher(self._depth)
        self._peer.node.destroy_publisher(self._info)


@pytest.fixture(scope="module")
def depth_camera(segment_node: TestProcess, peer: Peer) -> Iterator[DepthCamera]:
    camera = DepthCamera(peer)
    yield camera
    camera.close()


@pytest.fixture
def outputs(segment_node: TestProcess, peer: Peer) -> Iterator[Outputs]:
    """All outputs. Before, the node has forgotten the last test's depth: nobody wanted it for a while."""
    peer.wait_until(lambda: not peer.node.count_subscribers("/depth"), "end of the depth subscription")
    with ExitStack() as stack:
        yield {name: stack.enter_context(peer.collect(kind, f"/ovseg/{name}")) for name, kind in TYPES.items()}


def stamps(outputs: Outputs, *names: str) -> set[tuple[int, int]]:
    """Stamps for which all these outputs came."""

    def stamps_of(name: str) -> set[tuple[int, int]]:
        if name == "markers":
            return {stamp_of(message.markers[0]) for message in outputs[name]}
        return {stamp_of(message) for message in outputs[name]}

    return set.intersection(*(stamps_of(name) for name in names))


def frame_at(outputs: Outputs, stamp: tuple[int, int]) -> dict[str, Any]:
    return {
        name: next(m for m in messages if stamp_of(m.markers[0] if name == "markers" else m) == stamp)
        for name, messages in outputs.items()
    }


def cloud_of(message: PointCloud2) -> np.ndarray:
    """Fields by name, read as a subscriber reads them: from the message's own description."""
    kinds = {2: "u1", 4: "u2", 7: "f4"}
    dtype = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [kinds[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


def decoded(message: CompressedImage) -> np.ndarray:
    import cv2

    return cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("encode", [metres, millimetres])
def test_everything_about_a_frame(
    outputs: Outputs, depth_camera: DepthCamera, encode: Callable[[np.ndarray, Header], Image]
) -> None:
    depth = ramp()
    depth[5:9, 10:20] = np.nan  # in 16UC1 it becomes 0: no reading, either way
    depth_camera.until(lambda: stamps(outputs, *TYPES), "frame with all outputs", lambda header: encode(depth, header))
    frame = frame_at(outputs, stamps(outputs, *TYPES).pop())

    message = frame["points"]
    assert (message.height, message.width, message.is_dense) == (HEIGHT, WIDTH, False)
    assert message.row_step == WIDTH * message.point_step and message.header.frame_id == "test_camera"
    cloud = cloud_of(message)
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    np.testing.assert_allclose(cloud["z"], depth, atol=1e-6)
    np.testing.assert_allclose(cloud["x"], (columns - 31.5) / 60 * depth, atol=1e-5)
    np.testing.assert_allclose(cloud["y"], (rows - 23.5) / 60 * depth, atol=1e-5)
    color = cloud["rgb"].view(np.uint32)
    np.testing.assert_array_equal(np.stack([color >> 16 & 255, color >> 8 & 255, color & 255], axis=-1), picture())
    ids = pixels_of(frame["segment_image"])
    labels = pixels_of(frame["label_image"])
    np.testing.assert_array_equal(cloud["segment_id"], ids)
    np.testing.assert_array_equal(np.where(ids, cloud["category_id"], 255), labels)
    confidence = pixels_of(frame["confidence_image"])
    np.testing.assert_allclose(cloud["confidence"], confidence / 255, atol=1e-6)

    segments = {segment.id: segment for segment in frame["segments"].segments}
    measured = frame["segments_3d"].segments
    assert len(measured) > 1 and frame["segments_3d"].vocabulary_version == 1
    for segment in measured:
        flat = segments[segment.id]
        assert (segment.category_id, segment.label, segment.track_id) == (
            flat.category_id,
            flat.label,
            flat.track_id,
        )
        inside = np.isfinite(depth) & (ids == segment.id)
        assert segment.points == inside.sum()
        assert depth[inside].min() <= segment.depth <= depth[inside].max()
        centroid = np.array([segment.centroid.x, segment.centroid.y, segment.centroid.z])
        bounds = np.stack([cloud[axis][inside] for axis in "xyz"])
        assert (bounds.min(axis=1) - 1e-5 <= centroid).all() and (centroid <= bounds.max(axis=1) + 1e-5).all()
        turn = segment.box_pose.orientation
        assert np.linalg.norm([turn.x, turn.y, turn.z, turn.w]) == pytest.approx(1)
    things = [segment for segment in segments.values() if segment.is_thing]
    track_ids = [segment.track_id for segment in things]
    assert all(track_ids) and len(set(track_ids)) == len(track_ids)
    assert all(segment.track_id == 0 for segment in segments.values() if not segment.is_thing)

    markers = frame["markers"].markers
    assert markers[0].action == Marker.DELETEALL and all(m.action == Marker.ADD for m in markers[1:])
    names = {m.id: m.text for m in markers if m.ns == "names"}
    assert names.keys() == {segment.id for segment in measured}
    assert all(text.startswith(segments[i].label) for i, text in names.items())
    boxes = {m.id for m in markers if m.ns == "boxes"}
    assert boxes == {segment.id for segment in measured if segments[segment.id].is_thing}
    assert all(min(m.scale.x, m.scale.y, m.scale.z) > 0 for m in markers if m.ns == "boxes")

    assert frame["label_image/compressed"].format == "mono8; png compressed "
    assert frame["segment_image/compressed"].format == "16UC1; png compressed "
    np.testing.assert_array_equal(decoded(frame["label_image/compressed"]), labels)
    np.testing.assert_array_equal(decoded(frame["segment_image/compressed"]), ids)


def nan_depth(header: Header) -> Image:
    return metres(np.full((HEIGHT, WIDTH), np.nan, np.float32), header)


def test_depth_without_any_reading_is_said_at_a_bounded_rate(
    outputs: Outputs, depth_camera: DepthCamera, segment_node: TestProcess
) -> None:
    text = "/depth: no pixel has a reading"
    depth_camera.until(lambda: len(stamps(outputs, *TYPES)) >= 8, "eight frames without reading", nan_depth)
    frame = frame_at(outputs, max(stamps(outputs, *TYPES)))
    assert np.isnan(cloud_of(frame["points"])["z"]).all()
    assert frame["segments_3d"].segments == [] and frame["segments"].segments
    assert 1 <= segment_node.output.count(text) <= 3
    depth_camera.until(
        lambda: any(message.segments for message in outputs["segments_3d"]),
        "segments in 3D again",
        lambda header: metres(ramp(), header),
    )


@pytest.mark.parametrize(
    ("make_depth", "info", "message"),
    [
        pytest.param(
            lambda header: metres(ramp(), header), None, "no camera_info on /camera_info (1 publishers)", id="no info"
        ),
        pytest.param(None, camera_info, "no depth on /depth (1 publishers); the publisher sends", id="no depth"),
        pytest.param(
            lambda header: metres(ramp()[:, :40], header),
            camera_info,
            "depth has 40x48 pixels and the image 64x48: another aspect ratio",
            id="depth of another view",
        ),
        pytest.param(
            lambda header: metres(ramp(), header),
            lambda header: camera_info(header, np.zeros((3, 3))),
            "/camera_info: the camera is not calibrated: fx 0.0",
            id="uncalibrated",
        ),
        pytest.param(
            lambda header: metres(ramp(), header),
            lambda header: camera_info(header, width=640, height=640),
            "/camera_info: the calibration is for 640x640 pixels and the image has 64x48",
            id="calibration of another view",
        ),
        pytest.param(
            lambda header: MESSAGES.image(picture(), "rgb8", header),
            camera_info,
            "/depth: encoding is 'rgb8'; expected a depth image",
            id="colour as depth",
        ),
        pytest.param(
            lambda header: metres(ramp(), Header(stamp=header.stamp, frame_id="depth_optical_frame")),
            camera_info,
            "/depth is in the frame 'depth_optical_frame' and the image in 'test_camera'",
            id="not aligned",
        ),
    ],
)
def test_what_is_wrong_is_said_and_2d_goes_on(
    outputs: Outputs,
    depth_camera: DepthCamera,
    segment_node: TestProcess,
    make_depth: Callable[[Header], Image] | None,
    info: Callable[[Header], CameraInfo] | None,
    message: str,
) -> None:
    before = segment_node.output.count(message)
    depth_camera.until(lambda: segment_node.output.count(message) > before, message, make_depth, info)
    assert not outputs["points"] and not outputs["segments_3d"] and not outputs["markers"]
    assert outputs["segments"] and outputs["label_image"]
    depth_camera.until(lambda: outputs["points"], "points again", lambda header: metres(ramp(), header))


def test_smaller_depth_of_the_same_view_is_used(outputs: Outputs, depth_camera: DepthCamera) -> None:
    """Depth and calibration at half the resolution: the cloud still has the image's pixels, and the same extent."""
    half = K * [[0.5], [0.5], [1]]
    half[:2, 2] -= 0.25
    depth_camera.until(
        lambda: outputs["points"],
        "points",
        lambda header: metres(np.full((24, 32), 1.5, np.float32), header),
        lambda header: camera_info(header, half, 32, 24),
    )
    cloud = cloud_of(outputs["points"][0])
    assert cloud.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(cloud["x"][0], (np.arange(WIDTH) - 31.5) / 60 * 1.5, atol=1e-5)


def test_stamps_have_to_agree_within_the_tolerance(
    outputs: Outputs, depth_camera: DepthCamera, peer: Peer, segment_node: TestProcess
) -> None:
    def shifted(header: Header) -> Image:
        other = Header(frame_id=header.frame_id)  # a microsecond before the image
        other.stamp.sec, other.stamp.nanosec = header.stamp.sec - 1, header.stamp.nanosec + 999_999_000
        return metres(ramp(), other)

    def set_tolerance(seconds: float) -> None:
        request = SetParameters.Request(parameters=[Parameter("depth_tolerance", value=seconds).to_parameter_msg()])
        assert peer.call(SetParameters, "/ovseg/set_parameters", request).results[0].successful

    text = r"no depth within 0 s of the image's stamp \(the nearest is 0\.00000[0-9]+ s away\)"
    depth_camera.until(lambda: re.search(text, segment_node.output), text, shifted)
    assert not outputs["points"]
    set_tolerance(0.6)
    depth_camera.until(lambda: outputs["points"], "points", shifted)
    assert stamp_of(outputs["points"][0])[1] < 999_999_000  # the header is the image's, not the depth's
    set_tolerance(0.0)


def test_track_ids_stay_and_can_be_switched_off(outputs: Outputs, depth_camera: DepthCamera, peer: Peer) -> None:
    def identities() -> list[frozenset[int]]:
        return [frozenset(s.track_id for s in message.segments if s.is_thing) for message in outputs["segments"]]

    depth_camera.until(lambda: len(identities()) >= 4, "four frames", None, None)
    assert len(set(identities())) == 1  # the same picture every time
    for tracking in (False, True):
        request = SetParameters.Request(parameters=[Parameter("tracking", value=tracking).to_parameter_msg()])
        assert peer.call(SetParameters, "/ovseg/set_parameters", request).results[0].successful
        if not tracking:
            depth_camera.until(lambda: {0} in identities(), "frame without identities", None, None)


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_with_the_simulated_camera(outputs: Outputs, peer: Peer, processes: Processes, encoding: str) -> None:
    pytest.importorskip("mujoco", reason="the simulated camera needs mujoco")
    with peer.collect(Image, "/depth") as depths, peer.collect(CameraInfo, "/camera_info") as infos:
        camera = processes.start(
            "tabletop_camera", seed=3, width=WIDTH, height=HEIGHT, rate=4.0, depth_encoding=encoding
        )
        try:
            peer.wait_until(
                lambda: stamps(outputs, *TYPES) & {stamp_of(m) for m in depths} & {stamp_of(m) for m in infos},
                "frame in 3D",
                camera,
            )
        finally:
            camera.kill()
        stamp = max(stamps(outputs, *TYPES) & {stamp_of(m) for m in depths})
        depth = depth_from_message(next(m for m in depths if stamp_of(m) == stamp), "depth")
        assert next(m for m in depths if stamp_of(m) == stamp).encoding == encoding
    frame = frame_at(outputs, stamp)
    cloud = cloud_of(frame["points"])
    np.testing.assert_array_equal(cloud["z"], depth)
    assert frame["points"].header.frame_id == "camera_color_optical_frame"
    focal = infos[0].k[0]
    np.testing.assert_allclose(cloud["x"], (np.arange(WIDTH) - 31.5) / focal * depth, atol=1e-4)
    assert frame["segments_3d"].segments and 0.2 < frame["segments_3d"].segments[0].depth < 4
