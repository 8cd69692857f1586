"""3D messages out: the labelled point cloud, the segments in space, and markers for RViz.

All are in the optical frame of the image's header, in metres.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.msg import Segment3D, Segments3D
from ovseg_ros.ros.node.depth_inputs import DepthFrame

if TYPE_CHECKING:
    from ovseg_ros.core.space.boxes import OrientedBox
    from ovseg_ros.core.space.segments import SegmentGeometry
    from ovseg_ros.core.types import PanopticResult, Segment

_POINT = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("bgr", "u1", 3),  # of a little-endian 0x00RRGGBB, which point clouds call "rgb"
        ("unused", "u1"),
        ("category_id", "<u2"),
        ("segment_id", "<u2"),
        ("confidence", "<f4"),
    ]
)
_FIELDS = [
    PointField(name="x", offset=0, datatype=PointField.FLOAT32, count=1),
    PointField(name="y", offset=4, datatype=PointField.FLOAT32, count=1),
    PointField(name="z", offset=8, datatype=PointField.FLOAT32, count=1),
    PointField(name="rgb", offset=12, datatype=PointField.FLOAT32, count=1),
    PointField(name="category_id", offset=16, datatype=PointField.UINT16, count=1),
    PointField(name="segment_id", offset=18, datatype=PointField.UINT16, count=1),
    PointField(name="confidence", offset=20, datatype=PointField.FLOAT32, count=1),
]
_TEXT_HEIGHT = 0.04
"""Height of a name as a share of its distance."""


def points_message(image: np.ndarray, result: "PanopticResult", frame: DepthFrame, header: Header) -> PointCloud2:
    """An organised cloud: one point a pixel, in the image's rows and columns; x, y and z are NaN without a reading."""
    height, width = frame.depth.shape
    columns, rows = frame.camera.rays()
    points = np.empty((height, width), _POINT)
    np.multiply(frame.depth, columns[None, :], out=points["x"])
    np.multiply(frame.depth, rows[:, None], out=points["y"])
    points["z"] = frame.depth
    points["bgr"] = image[:, :, ::-1]
    points["unused"] = 0
    points["category_id"] = result.category_ids
    points["segment_id"] = result.segment_ids
    np.multiply(result.confidence, np.float32(1 / 255), out=points["confidence"])
    message = PointCloud2()
    message.header = header
    message.height, message.width = height, width
    message.fields = _FIELDS
    message.is_bigendian = False
    message.point_step = _POINT.itemsize
    message.row_step = _POINT.itemsize * width
    message.is_dense = bool(np.isfinite(frame.depth).all())
    message.data.frombytes(memoryview(points.view(np.uint8)).cast("B"))
    return message


def segments_3d_message(result: "PanopticResult", geometry: Sequence["SegmentGeometry"], header: Header) -> Segments3D:
    """Where the segments are; those without enough depth are left out."""
    segments = {segment.id: segment for segment in result.segments}
    message = Segments3D()
    message.header = header
    message.vocabulary_version = result.vocabulary_version
    message.segments = [_segment_3d(segments[measured.id], measured) for measured in geometry]
    return message


def markers_message(
    result: "PanopticResult", geometry: Sequence["SegmentGeometry"], vocabulary: Vocabulary, header: Header
) -> MarkerArray:
    """A name at every segment and a box around every thing. All markers of frames before are deleted first."""
    colors = {category.id: category.color for category in vocabulary.categories}
    segments = {segment.id: segment for segment in result.segments}
    message = MarkerArray()
    message.markers.append(Marker(header=header, action=Marker.DELETEALL))
    for measured in geometry:
        segment = segments[measured.id]
        message.markers.append(_name_marker(segment, measured, header))
        if segment.is_thing:
            message.markers.append(_box_marker(segment, measured, colors, header))
    return message


def quaternion_of(rotation: np.ndarray) -> Quaternion:
    """The unit quaternion of a rotation matrix (3, 3), with w >= 0."""
    m = rotation
    # Of the four squared components the largest is at least a quarter: no division by something small.
    squares = np.array(
        [
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m[0, 0] + m[1, 1] + m[2, 2],
        ]
    )
    products = np.array(
        [
            [squares[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], squares[1], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[2], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]],
        ]
    )
    values = products[squares.argmax()]
    values = values / np.linalg.norm(values) * (1 if values[3] >= 0 else -1)
    x, y, z, w = (float(value) for value in values)
    return Quaternion(x=x, y=y, z=z, w=w)


def _segment_3d(segment: "Segment", measured: "SegmentGeometry") -> Segment3D:
    return Segment3D(
        id=segment.id,
        category_id=segment.category_id,
        label=segment.label,
        track_id=segment.track_id,
        depth=measured.depth,
        centroid=_point(measured.centroid),
        box_pose=_box_pose(measured.box),
        box_size=_vector(measured.box.size),
        is_supported=measured.is_supported,
        points=measured.points,
    )


def _name_marker(segment: "Segment", measured: "SegmentGeometry", header: Header) -> Marker:
    size = max(_TEXT_HEIGHT * measured.depth, 0.01)
    above = measured.box.rotation[:, 2] * (measured.box.size[2] / 2 + size) if segment.is_thing else np.zeros(3)
    anchor = measured.box.centre if segment.is_thing else measured.centroid
    marker = Marker(header=header, ns="names", id=segment.id, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
    marker.pose.position = _point(anchor + above)
    marker.scale.z = size
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    marker.text = f"{segment.label} #{segment.track_id}" if segment.track_id else segment.label
    return marker


def _box_marker(
    segment: "Segment", measured: "SegmentGeometry", colors: Mapping[int, tuple[int, int, int]], header: Header
) -> Marker:
    marker = Marker(header=header, ns="boxes", id=segment.id, type=Marker.CUBE, action=Marker.ADD)
    marker.pose = _box_pose(measured.box)
    marker.scale = _vector(np.maximum(measured.box.size, 1e-3))  # RViz refuses a flat cube
    red, green, blue = (channel / 255 for channel in colors[segment.category_id])
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=0.35)
    return marker


def _box_pose(box: "OrientedBox") -> Pose:
    return Pose(position=_point(box.centre), orientation=quaternion_of(box.rotation))


def _point(values: np.ndarray) -> Point:
    x, y, z = (float(value) for value in values)
    return Point(x=x, y=y, z=z)


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(value) for value in values)
    return Vector3(x=x, y=y, z=z)
