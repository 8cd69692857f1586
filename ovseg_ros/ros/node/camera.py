"""One camera of the node: its inputs, the slot in which its newest frame waits, its outputs and its figures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.core.image_messages import image_from_compressed_message
from ovseg_ros.core.tracking.tracker import Tracker
from ovseg_ros.ros.node.depth_inputs import DEPTH_TYPES, DepthInputs
from ovseg_ros.ros.node.diagnostics import camera_status
from ovseg_ros.ros.node.image_decoding import image_from_message
from ovseg_ros.ros.node.image_inputs import ImageInputs, ImageMessage, image_types
from ovseg_ros.ros.node.mailbox import Mailbox
from ovseg_ros.ros.node.outputs import NEEDS_DEPTH, OUTPUTS, Outputs
from ovseg_ros.ros.node.parameters import camera_names
from ovseg_ros.ros.node.statistics import CameraStatistics
from ovseg_ros.ros.node.topic_types import Mistyped, MistypedPeers

_LINGER = 2.0
"""Seconds for which a camera stays subscribed after the last consumer left, in case another comes."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """An image as received, on its way through the node; nothing is decoded until somebody needs the pixels.

    `received` is when its callback was called, by `time.monotonic`.
    """

    camera: "Camera"
    message: ImageMessage
    topic: str
    received: float

    @property
    def header(self) -> Header:
        """Stamp and frame, which every output copies."""
        return self.message.header

    def decode(self) -> np.ndarray:
        """uint8 RGB (H, W, 3).

        Raises:
            ImageFieldError: the message cannot be used.
        """
        if isinstance(self.message, Image):
            return image_from_message(self.message, self.topic)
        return image_from_compressed_message(self.message, self.topic)


def _prefix(name: str) -> str:
    return f"{name}/" if name else ""


def camera_topics(name: str, transport: str) -> dict[str, type]:
    """Every input and output of a camera, by name before remapping, with its type."""
    prefix = _prefix(name)
    return (
        image_types(prefix, transport)
        | {f"{prefix}{topic}": kind for topic, kind in DEPTH_TYPES.items()}
        | {f"~/{prefix}{topic}": kind for topic, (kind, _) in OUTPUTS.items()}
    )


class Camera:
    """Subscribes while somebody wants its outputs, and hands the newest frame over in a mailbox.

    `tracker` and `published` belong to the thread that publishes; it and the model's use `frames`, `depth`, `outputs`
    and `statistics`, too. All else belongs to the executor's thread.

    Args:
        node: owns subscriptions and publishers; its parameters image_transport, enabled and image_timeout are read.
        name: as in the parameter cameras; empty for the only one.
        frames: where the model's thread takes the newest frame from.
        on_frame: called in the executor's thread after a frame came.
    """

    def __init__(
        self, node: LifecycleNode, name: str, frames: Mailbox[Frame], on_frame: Callable[["Camera"], None]
    ) -> None:
        self.name = name
        self.frames = frames
        self.statistics = CameraStatistics()
        prefix, transport = _prefix(name), node.get_parameter("image_transport").value
        cameras = camera_names(node.get_parameter("cameras").value)
        others = [f"{_prefix(camera)}{topic}" for camera in cameras for topic in DEPTH_TYPES]
        self.inputs = ImageInputs(node, prefix, transport, self._receive, others)
        self.depth = DepthInputs(node, prefix)
        self.outputs = Outputs(node, prefix, self.update)
        self.tracker = Tracker()
        """Lives as long as the camera, so that no track id is given twice until cleanup."""
        self.published: tuple[Frame, int] | None = None
        """The last frame whose outputs went out, and the version of its vocabulary."""
        self.latest: Frame | None = None
        """The newest frame while subscribed, for queries; None before the first."""
        self._node = node
        self._on_frame = on_frame
        self._active = False
        self._consumed: frozenset[str] = frozenset()
        self._wanted_until = float("-inf")
        self._depth_until = float("-inf")
        self._peers = MistypedPeers(node, self._mistyped)

    def activate(self) -> None:
        """From now on it subscribes where somebody wants its outputs; raises as `Subscriptions.open`."""
        # Opened in any case, so that wrong parameters show at once and not when a consumer comes.
        self.inputs.open()
        self.depth.open()
        self._active = True
        self.update()

    def deactivate(self) -> None:
        """Unsubscribes and drops the frame that waits."""
        self._active = False
        self._wanted_until = float("-inf")
        self.update()

    def hold(self) -> None:
        """Subscribes for a while although nobody wants the outputs."""
        if self._active:
            self._wanted_until = time.monotonic() + _LINGER
            self.update()

    def update(self) -> None:
        """Subscribes or unsubscribes, as consumers came or went. Called now and then, and by the middleware."""
        now = time.monotonic()
        self._consumed = self.outputs.wanted() if self._active and self._parameter("enabled") else frozenset()
        if self._consumed:
            self._wanted_until = now + _LINGER
        if self._consumed & NEEDS_DEPTH:
            self._depth_until = now + _LINGER
        wanted = self._active and now < self._wanted_until
        if wanted and not self.inputs.is_open:
            self.inputs.open()
        elif not wanted and self.inputs.is_open:
            self.inputs.close()
            self.frames.take()
            self.latest = None
        if wanted and now < self._depth_until:
            self.depth.open()
        elif self.depth.is_open:
            self.depth.close()

    def warn(self) -> None:
        """Logs that no image comes, now and then while somebody wants one, and, once, peers of another type."""
        if self._consumed:
            self.inputs.warn(self._parameter("image_timeout"))
        if self._active:
            self._peers.update()

    def status(self) -> DiagnosticStatus:
        """How it is, for the diagnostics."""
        if not self._active:
            activity = "inactive"
        elif not self._parameter("enabled"):
            activity = "disabled by the parameter enabled"
        elif not self.inputs.is_open:
            activity = "resting: nobody subscribes to an output"
        else:
            activity = "subscribed"
        problem = self.inputs.problem(self._parameter("image_timeout")) if self._consumed else ""
        if not problem and self._consumed & NEEDS_DEPTH:
            problem = self.depth.problem()
        mistyped = self._peers.lines if self._active else ()
        return camera_status(
            self.statistics.figures(),
            name=self.name,
            activity=activity,
            topics=self.inputs.topics,
            dropped=self.frames.dropped,
            problem=problem,
            mistyped=tuple(line for line in mistyped if line not in problem),
            incompatible=(*self.inputs.incompatible(), *self.outputs.incompatible()),
        )

    def close(self) -> None:
        """Destroys subscriptions and publishers."""
        self.deactivate()
        self.outputs.close()

    def _mistyped(self) -> Mistyped:
        depth = self.depth.mistyped() if self.depth.is_open else {}
        return self.inputs.mistyped() | depth | self.outputs.mistyped()

    def _receive(self, message: ImageMessage, topic: str, received: float) -> None:
        self.statistics.arrived()
        self.latest = Frame(self, message, topic, received)
        if self._parameter("enabled"):
            self.frames.put(self.latest)
        self._on_frame(self)

    def _parameter(self, name: str) -> Any:
        return self._node.get_parameter(name).value
