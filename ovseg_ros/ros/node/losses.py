"""What goes wrong with a frame costs that frame only, and is said."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from rclpy.lifecycle import LifecycleNode

from ovseg_ros.core.image_messages import ImageFieldError
from ovseg_ros.ros.node.camera import Frame
from ovseg_ros.ros.node.fault_log import FaultLog, describe


class Losses:
    """Counts and says what frames are lost to. May be used from any thread."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._faults = FaultLog(node.get_logger().error)

    @contextmanager
    def only(self, frame: Frame) -> Iterator[None]:
        """What goes wrong inside costs this frame and nothing else."""
        try:
            yield
        except Exception as error:  # a model may raise anything
            if self._node.context.ok():  # else publishing fails because the process shuts down
                frame.camera.statistics.failed(describe(error))
                self.report(error, frame.camera.name)

    def report(self, error: Exception, camera: str = "") -> None:
        """A frame was lost to `error`."""
        if not self._node.context.ok():
            return
        if isinstance(error, ImageFieldError):
            self.say((error.topic, error.field), f"image refused: {error}")
        else:
            kind = type(error).__name__
            of_camera = f" of camera {camera}" if camera else ""
            self.say((kind, camera), f"a frame{of_camera} was lost to {kind}: {error}; the next one is tried")

    def say(self, kind: Hashable, message: str) -> None:
        """As `FaultLog.report`."""
        self._faults.report(kind, message)
