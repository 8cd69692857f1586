"""3D messages out: the labelled point cloud, the segments in space, and markers for RViz.

All are in the optical frame of the image's header, in metres.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ovseg_ros.core.outputs import SegmentedFrame
from ovseg_ros.core.space.boxes import OrientedBox
from ovseg_ros.core.space.segments import SegmentGeometry, measure_segments
from ovseg_ros.core.types import Segment
from ovseg_ros.msg import Segment3D, Segments3D
from ovseg_ros.ros.node.depth_inputs import DepthFrame

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


@dataclass(frozen=True)
class FrameInSpace:
    """All that the outputs in 3D of an image are made of."""

    flat: SegmentedFrame
    depth: DepthFrame

    @cached_property
    def geometry(self) -> list[tuple[Segment, SegmentGeometry]]:
        """The segments that have enough depth, measured once, where somebody wants it."""
        segments = {segment.id: segment for segment in self.flat.result.segments}
        things = {segment.id for segment in segments.values() if segment.is_thing}
        measured = measure_segments(self.depth.depth, self.depth.camera, self.flat.result.segment_ids, things)
        return [(segments[geometry.id], geometry) for geometry in measured]


def points_message(frame: FrameInSpace) -> PointCloud2:
    """An organised cloud: one point a pixel, in the image's rows and columns; x, y and z are NaN without a reading."""
    depth, result = frame.depth.depth, frame.flat.result
    columns, rows = frame.depth.camera.rays()
    points = np.empty(depth.shape, _POINT)
    np.multiply(depth, columns[None, :], out=points["x"])
    np.multiply(depth, rows[:, None], out=points["y"])
    points["z"] = depth
    points["bgr"] = frame.flat.image[:, :, ::-1]
    points["unused"] = 0
    points["category_id"] = result.category_ids
    points["segment_id"] = result.segment_ids
    np.multiply(result.confidence, np.float32(1 / 255), out=points["confidence"])
    message = PointCloud2(header=frame.flat.header, fields=_FIELDS, is_bigendian=False, point_step=_POINT.itemsize)
    message.height, message.width = depth.shape
    message.row_step = points.strides[0]
    message.is_dense = bool(np.isfinite(depth).all())
    message.data.frombytes(points.reshape(-1).view(np.uint8))
    return message


def segments_3d_message(frame: FrameInSpace) -> Segments3D:
    """Where the segments are; those without enough depth are left out."""
    return Segments3D(
        header=frame.flat.header,
        vocabulary_version=frame.flat.result.vocabulary_version,
        segments=[_segment_3d(segment, measured) for segment, measured in frame.geometry],
    )


def markers_message(frame: FrameInSpace) -> MarkerArray:
    """A name at every segment and a box around every thing. All markers of frames before are deleted first."""
    header = frame.flat.header
    colors = {category.id: category.color for category in frame.flat.vocabulary.categories}
    message = MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
    for segment, measured in frame.geometry:
        message.markers.append(_name_marker(segment, measured, header))
        if segment.is_thing:
            message.markers.append(_box_marker(segment, measured, colors, header))
    return message


def quaternion_of(rotation: np.ndarray) -> Quaternion:
    """The unit quaternion of a rotation matrix (3, 3), with w >= 0."""
    values = Rotation.from_matrix(rotation).as_quat()
    x, y, z, w = (float(value) for value in (values if values[3] >= 0 else -values))
    return Quaternion(x=x, y=y, z=z, w=w)


def _segment_3d(segment: Segment, measured: SegmentGeometry) -> Segment3D:
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


def _name_marker(segment: Segment, measured: SegmentGeometry, header: Header) -> Marker:
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
    segment: Segment, measured: SegmentGeometry, colors: Mapping[int, tuple[int, int, int]], header: Header
) -> Marker:
    marker = Marker(header=header, ns="boxes", id=segment.id, type=Marker.CUBE, action=Marker.ADD)
    marker.pose = _box_pose(measured.box)
    marker.scale = _vector(np.maximum(measured.box.size, 1e-3))  # RViz refuses a flat cube
    red, green, blue = (channel / 255 for channel in colors[segment.category_id])
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=0.35)
    return marker


def _box_pose(box: OrientedBox) -> Pose:
    return Pose(position=_point(box.centre), orientation=quaternion_of(box.rotation))


def _point(values: np.ndarray) -> Point:
    x, y, z = (float(value) for value in values)
    return Point(x=x, y=y, z=z)


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(value) for value in values)
    return Vector3(x=x, y=y, z=z)
