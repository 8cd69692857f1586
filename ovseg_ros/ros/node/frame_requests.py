"""Waiting for the newest frame, which may need a subscription first."""

import time
from collections.abc import Sequence

from rclpy.node import Node
from rclpy.task import Future

from ovseg_ros.ros.node.camera import Camera, Frame

_PATIENCE = 2.0
"""Seconds that a request waits for an image."""


class FrameRequests:
    """Requests of one frame, by callbacks of `node`. Belongs to the executor's thread; nobody blocks it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last: Camera | None = None
        self._waiting: list[tuple[float, Future]] = []

    async def newest(self, cameras: Sequence[Camera]) -> Frame | None:
        """The frame that came last from any camera; waits for one where nobody was subscribed. None if none comes."""
        for camera in cameras:
            camera.hold()
        if self._last is None or self._last.latest is None:
            came: Future = Future(executor=self._node.executor)
            self._waiting.append((time.monotonic() + _PATIENCE, came))
            await came
        return self._last.latest if self._last is not None else None

    def arrived(self, camera: Camera) -> None:
        """A frame came: whoever waits goes on."""
        self._last = camera
        self._wake(float("inf"))

    def expire(self) -> None:
        """Whoever has waited too long goes on without; to be called now and then."""
        self._wake(time.monotonic())

    def forget(self) -> None:
        """The cameras are not there any more."""
        self._last = None
        self._wake(float("inf"))

    def _wake(self, now: float) -> None:
        ready = [came for deadline, came in self._waiting if deadline <= now]
        self._waiting = [(deadline, came) for deadline, came in self._waiting if deadline > now]
        for came in ready:
            came.set_result(None)
