"""Aligned depth and its calibration, paired with the images that are segmented.

A driver publishes depth before or after the colour image, and the model takes its time. So a frame first announces
itself (`expect`), its depth is picked out as it comes, and is asked for (`pair`) when the segments are there. Several
frames may be at work at once. Nothing is decoded but what is used.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from ovseg_ros.core.errors import DepthError
from ovseg_ros.core.image_messages import ImageFieldError, depth_from_message
from ovseg_ros.core.space.pinhole import Pinhole, fit_depth
from ovseg_ros.ros.node.conversions import nanoseconds
from ovseg_ros.ros.node.qos import Subscriptions, input_qos
from ovseg_ros.ros.node.topic_types import publisher_count

_KEPT = 8
"""Depth images that wait for their colour image; those of frames at work are kept besides."""

_PATIENCE = 0.05
"""Longest wait in seconds for depth that is still on its way when the segments are there."""

_GRACE = 2.0
"""Seconds after subscribing in which nothing missing is worth a word, nor what is older than the first depth."""

_SILENCE = 2.0
"""Seconds without depth after which it is the topic that is silent, and not the stamps that differ."""

DEPTH_TYPES: dict[str, type] = {"depth": Image, "camera_info": CameraInfo}
"""The inputs' names, without a camera's, and types."""

_WANTED = {
    "depth": "a depth image that is aligned to the colour image",
    "camera_info": "that of the colour image",
}


@dataclass(frozen=True, slots=True)
class DepthFrame:
    """Depth of one image, at its resolution.

    Attributes:
        depth: (H, W) float32, metres along the optical axis, NaN = no reading.
        camera: intrinsics.
    """

    depth: np.ndarray
    camera: Pinhole


@dataclass(eq=False)
class ExpectedDepth:
    """Where the depth of the image with this header is put as it comes, as long as anybody holds this; see `expect`."""

    header: Header
    best: Image | None = None

    def distance_to(self, message: Image) -> int:
        """Nanoseconds between the stamps."""
        return abs(nanoseconds(message.header.stamp) - nanoseconds(self.header.stamp))


class DepthInputs(Subscriptions):
    """The topics `depth` and `camera_info`.

    `open` and `close` belong to the executor's thread, `expect` to the model's, and `pair` to the one that publishes.

    Args:
        node: its parameter depth_tolerance is read.
        prefix: before the topics' names, such as "front/"; empty for none.
        clock: seconds that never go backwards.
    """

    def __init__(self, node: Node, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        topics = {
            f"{prefix}depth": (Image, self._receive_depth),
            f"{prefix}camera_info": (CameraInfo, self._receive_info),
        }
        super().__init__(node, topics, input_qos(_KEPT), others=[f"{prefix}image"])
        self._prefix = prefix
        self._depth_topic, self._info_topic = self.topics
        self._clock = clock
        self._changed = threading.Condition()
        # Guarded by `_changed`:
        self._waiting: deque[Image] = deque(maxlen=_KEPT)
        self._info: CameraInfo | None = None
        self._expected: weakref.WeakSet[ExpectedDepth] = weakref.WeakSet()
        self._newest: int | None = None
        self._first: int | None = None
        self._since = clock()  # when the first depth came; before that, when it was subscribed to
        self._arrived = float("-inf")
        self._problem = ""

    def problem(self) -> str:
        """Why the last frame had no (usable) depth, in one line; empty where it had, or nobody asks for 3D."""
        with self._changed:
            return self._problem

    def open(self) -> None:
        """As of `Subscriptions`, unless it is open."""
        if not self.is_open:
            self._forget()
            super().open()

    def close(self) -> None:
        """As of `Subscriptions`; what came is forgotten."""
        super().close()
        self._forget()

    def expect(self, header: Header) -> ExpectedDepth:
        """A frame is taken; its depth, there already or still to come, is kept from now on, for `pair`."""
        expected = ExpectedDepth(header)
        with self._changed:
            self._expected.add(expected)
            for message in self._waiting:
                _offer(message, expected)
        return expected

    def pair(self, expected: ExpectedDepth, height: int, width: int) -> DepthFrame | None:
        """The depth that belongs to an expected frame of this size.

        Returns:
            None where there is none that can be used; `problem` then tells why. It also tells of depth that is there
            but has no reading.
        """
        if not self.is_open:
            return None
        tolerance = round(self._node.get_parameter("depth_tolerance").value * 1e9)
        header = expected.header
        with self._changed:
            self._changed.wait_for(lambda: self._is_settled(expected, tolerance), _PATIENCE)
            depth, info, newest = expected.best, self._info, self._newest
            recent = self._clock() - self._since < _GRACE
            # Its depth may have been sent before the subscription was there to hear it.
            is_older = self._first is not None and nanoseconds(header.stamp) < self._first
        frame, problem = None, ""
        try:
            frame = self._pair(header, depth, info, newest, tolerance, (height, width))
        except (DepthError, ImageFieldError) as error:
            is_missing = depth is None or info is None
            problem = "" if recent and (is_missing or is_older) else str(error)
        else:
            if not np.isfinite(frame.depth).any():
                problem = (
                    f"{self._depth_topic}: no pixel has a reading (all are NaN, infinite, 0 or negative); check "
                    "that the depth camera sees something within its range"
                )
        with self._changed:
            self._problem = problem
        return frame

    def _pair(
        self,
        header: Header,
        depth: Image | None,
        info: CameraInfo | None,
        newest: int | None,
        tolerance: int,
        size: tuple[int, int],
    ) -> DepthFrame:
        depth_topic, info_topic = self._depth_topic, self._info_topic
        if newest is None:
            raise self._silence("depth")
        if info is None:
            raise self._silence("camera_info")
        if depth is None or (apart := abs(nanoseconds(depth.header.stamp) - nanoseconds(header.stamp))) > tolerance:
            if self._clock() - self._arrived > _SILENCE:
                raise self._silence("depth")
            gap = abs(newest - nanoseconds(header.stamp)) if depth is None else apart
            raise DepthError(
                f"{depth_topic}: no depth within {tolerance / 1e9:g} s of the image's stamp (the nearest is "
                f"{_in_seconds(gap)} s away); use a driver that stamps both alike, or raise the parameter "
                "depth_tolerance"
            )
        frames = (depth.header.frame_id, header.frame_id)
        if all(frames) and frames[0] != frames[1]:
            raise DepthError(
                f"{depth_topic} is in the frame {frames[0]!r} and the image in {frames[1]!r}, so their pixels do not "
                "match; use the depth image that is aligned to (registered with) the colour image"
            )
        height, width = size
        readings = depth_from_message(depth, depth_topic)
        try:
            values = fit_depth(readings, width, height)
        except DepthError as error:
            raise DepthError(f"{depth_topic}: {error}") from error
        try:
            camera = pinhole_from_message(info).resized(width, height)
        except DepthError as error:
            raise DepthError(f"{info_topic}: {error}") from error
        return DepthFrame(values, camera)

    def _silence(self, what: str) -> DepthError:
        topic = self._depth_topic if what == "depth" else self._info_topic
        count = publisher_count(self._node, topic, DEPTH_TYPES[what])
        mistyped = [line for (of, _), line in self.mistyped().items() if of == topic]
        if mistyped and not count:
            return DepthError(f"no {what}: {'; '.join(mistyped)}")
        if count:
            remedy = "the publisher sends nothing, or nothing that arrives: check the driver and its QoS"
        else:
            remedy = f"remap {self._prefix}{what} to {_WANTED[what]}"
        return DepthError(f"no {what} on {topic} ({count} publishers); {remedy}")

    def _is_settled(self, expected: ExpectedDepth, tolerance: int) -> bool:
        """Whether waiting is over: the frame's own depth is there, or a later one, after which it will not come."""
        if self._newest is None:
            return True  # nothing comes at all
        best = expected.best
        return self._newest >= nanoseconds(expected.header.stamp) or (
            best is not None and expected.distance_to(best) <= tolerance
        )

    def _receive_depth(self, message: Image) -> None:
        with self._changed:
            self._newest, self._arrived = nanoseconds(message.header.stamp), self._clock()
            if self._first is None:
                self._first, self._since = self._newest, self._arrived
            self._waiting.append(message)
            for expected in self._expected:
                _offer(message, expected)
            self._changed.notify_all()

    def _receive_info(self, message: CameraInfo) -> None:
        with self._changed:
            self._info = message

    def _forget(self) -> None:
        with self._changed:
            self._waiting.clear()
            self._expected.clear()
            self._info = self._newest = self._first = None
            self._since = self._clock()
            self._problem = ""


def _offer(message: Image, expected: ExpectedDepth) -> None:
    """Keeps the message if it is nearer to the expected frame than what is kept."""
    if expected.best is None or expected.distance_to(message) <= expected.distance_to(expected.best):
        expected.best = message


def _in_seconds(nanoseconds: int) -> str:
    """To the last digit that counts, so that what differs is not written alike."""
    whole, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{whole}." + f"{rest:09}".rstrip("0").ljust(3, "0")


def pinhole_from_message(info: CameraInfo) -> Pinhole:
    """The camera of the image that `info` belongs to, at the resolution in `info` (of its region of interest, if set).

    The projection matrix P counts, which is that of the rectified image, and where it is empty K. Distortion is not
    applied: image and depth have to be rectified, or of a camera without.

    Raises:
        DepthError: the camera is not calibrated.
    """
    projection = np.array(info.p, dtype=np.float64).reshape(3, 4)
    matrix = projection if projection[0, 0] > 0 else np.array(info.k, dtype=np.float64).reshape(3, 3)
    camera = Pinhole.from_matrix(matrix, info.width, info.height)
    region = info.roi
    if region.width and region.height:
        camera = camera.cropped(region.x_offset, region.y_offset, region.width, region.height)
    return camera
