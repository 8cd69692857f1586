"""Conversions of 3D that need no node: calibration in, orientation and labels out."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from ovseg_ros.core.errors import DepthError, ImageError
from ovseg_ros.core.space.pinhole import Pinhole
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.depth_inputs import pinhole_from_message
from ovseg_ros.ros.node.space_messages import quaternion_of

K = [500.0, 0, 320, 0, 510, 240, 0, 0, 1]
P = [450.0, 0, 310, -20, 0, 460, 230, 0, 0, 0, 1, 0]


def rotation_of(x: float, y: float, z: float, w: float) -> np.ndarray:
    """The textbook's formula."""
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@settings(deadline=None)
@given(values=st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda v: np.linalg.norm(v) > 0.1))
def test_a_quaternion_stands_for_its_rotation(values: list[float]) -> None:
    rotation = rotation_of(*(np.array(values) / np.linalg.norm(values)))
    q = quaternion_of(rotation)
    assert q.x**2 + q.y**2 + q.z**2 + q.w**2 == pytest.approx(1) and q.w >= 0
    np.testing.assert_allclose(rotation_of(q.x, q.y, q.z, q.w), rotation, atol=1e-9)


@pytest.mark.parametrize("diagonal", [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)])
def test_half_turns(diagonal: tuple[int, int, int]) -> None:
    q = quaternion_of(np.diag(diagonal).astype(float))
    np.testing.assert_allclose(rotation_of(q.x, q.y, q.z, q.w), np.diag(diagonal), atol=1e-12)


def test_a_rectified_cameras_projection_counts() -> None:
    assert pinhole_from_message(CameraInfo(width=640, height=480, k=K, p=P)) == Pinhole(450, 460, 310, 230, 640, 480)
    assert pinhole_from_message(CameraInfo(width=640, height=480, k=K)) == Pinhole(500, 510, 320, 240, 640, 480)


def test_a_sensors_region_of_interest_moves_the_principal_point() -> None:
    region = RegionOfInterest(x_offset=100, y_offset=50, width=320, height=240)
    info = CameraInfo(width=640, height=480, k=K, roi=region)
    assert pinhole_from_message(info) == Pinhole(500, 510, 220, 190, 320, 240)


def test_an_empty_camera_info_is_refused() -> None:
    with pytest.raises(DepthError, match="not calibrated"):
        pinhole_from_message(CameraInfo())


@pytest.mark.parametrize(("encoding", "dtype"), [("mono8", np.uint8), ("16UC1", np.uint16)])
def test_labels_survive_png(encoding: str, dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (7, 5), dtype=dtype, endpoint=True)
    message = MESSAGES.compressed(pixels, encoding, Header(frame_id="camera"), 85)
    assert message.format == f"{encoding}; png compressed " and message.header.frame_id == "camera"
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_pixels_of_another_type_are_refused() -> None:
    with pytest.raises(ImageError, match="uint16 pixels of shape"):
        MESSAGES.compressed(np.zeros((2, 2), np.uint16), "mono8", Header(), 85)
