"""The node `tabletop_camera`: a simulated robot camera over a MuJoCo tabletop, with exact ground truth.

A frame's stamp is taken when its rendering is done, as a camera's driver stamps a finished exposure. All outputs of a
frame carry it, and what nobody subscribes to is not made.
"""

import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.msg import PanopticSegmentation, Segment
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.node_process import run_node
from ovseg_ros.ros.node.parameter_spec import ParameterSpec, declare, unknown_parameters
from ovseg_ros.sim.simulator import Frame, TabletopSimulator, orbit

FRAME_ID = "camera_color_optical_frame"
_NO_CATEGORY = 65535
_QUEUE_DEPTH = 5

PARAMETERS = (
    ParameterSpec("seed", 0, "Seed of the first scene.", 0, 2**31 - 1, fixed=True),
    ParameterSpec("split", "test", "Which scenes and objects: train, val, test or other (another make).", fixed=True),
    ParameterSpec("width", 320, "Pixels in a row.", 16, 1920, fixed=True),
    ParameterSpec("height", 240, "Rows.", 16, 1920, fixed=True),
    ParameterSpec("rate", 5.0, "Frames per second.", 0.01, 1000.0, fixed=True),
    ParameterSpec("moving", True, "Whether the camera sways around the scene.", fixed=True),
    ParameterSpec(
        "scene_period", 0.0, "Seconds until the next scene, of the next seed; 0 = never.", 0.0, 1e6, fixed=True
    ),
    ParameterSpec(
        "depth_encoding",
        "32FC1",
        "Depth in metres (32FC1) or in millimetres (16UC1), as REP 118 has it.",
        choices=("32FC1", "16UC1"),
        fixed=True,
    ),
    ParameterSpec("reliable", True, "Publish reliable, as camera drivers do; false = best effort.", fixed=True),
)


class TabletopCamera(Node):
    """Renders in the executor's thread, which owns the GL context: construct, spin and close it in one thread."""

    def __init__(self) -> None:
        super().__init__("tabletop_camera")
        declare(self, PARAMETERS)
        if unknown := unknown_parameters(self):
            self.get_logger().warning(unknown)
        reliability = QoSReliabilityPolicy.RELIABLE if self._value("reliable") else QoSReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=_QUEUE_DEPTH, reliability=reliability)
        image, jpeg, depth_encoding = MESSAGES.image, MESSAGES.compressed, self._value("depth_encoding")
        outputs: dict[str, tuple[type, Callable[[Frame, Header], Any]]] = {
            "image": (Image, lambda frame, header: image(frame.image, "rgb8", header)),
            "image/compressed": (CompressedImage, lambda frame, header: jpeg(frame.image, "rgb8", header, 90)),
            "depth": (Image, lambda frame, header: depth_message(frame.depth, depth_encoding, header)),
            "camera_info": (CameraInfo, camera_info_message),
            "ground_truth/segment_image": (Image, lambda frame, header: image(frame.segment_ids, "16UC1", header)),
            "ground_truth/segments": (PanopticSegmentation, ground_truth_message),
        }
        self._outputs = {name: (self.create_publisher(kind, name, qos), make) for name, (kind, make) in outputs.items()}
        self._started = time.monotonic()
        self._seed = self._value("seed")
        self._simulator = self._make_simulator(self._seed)
        # By a clock of its own: a camera goes on where simulated time stands still.
        self.create_timer(1.0 / self._value("rate"), self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def is_loading(self) -> bool:
        """Never: no callback takes long."""
        return False

    def start(self) -> bool:
        """Nothing more to do."""
        return True

    def close(self) -> None:
        """Frees the GL context."""
        self._simulator.close()

    def _publish(self) -> None:
        wanted = {name: output for name, output in self._outputs.items() if output[0].get_subscription_count()}
        if not wanted:
            return
        frame = self._render(with_depth="depth" in wanted)
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=FRAME_ID)
        for publisher, make in wanted.values():
            publisher.publish(make(frame, header))

    def _render(self, *, with_depth: bool) -> Frame:
        elapsed, period = time.monotonic() - self._started, self._value("scene_period")
        scenes, in_scene = divmod(elapsed, period) if period > 0 else (0, elapsed)
        seed = self._value("seed") + int(scenes)
        if seed != self._seed:
            self._simulator.close()
            self._simulator = self._make_simulator(seed)
            self._seed = seed
        pose = orbit(self._simulator.scene.camera, in_scene if self._value("moving") else 0.0)
        return self._simulator.render_from(pose, with_depth=with_depth)

    def _make_simulator(self, seed: int) -> TabletopSimulator:
        try:
            return TabletopSimulator(
                seed, split=self._value("split"), width=self._value("width"), height=self._value("height")
            )
        except ValueError as error:
            raise ConfigError(f"no scene from these parameters: {error}") from error

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def depth_message(depth: np.ndarray, encoding: str, header: Header) -> Image:
    """Depth (H, W) float32 in metres as REP 118 has it: 32FC1 in metres, or 16UC1 in millimetres, where 0 is none."""
    if encoding == "16UC1":
        millimetres = np.rint(depth * 1000)
        depth = np.where(millimetres < 2**16, millimetres, 0).astype(np.uint16)
    return MESSAGES.image(depth, encoding, header)


def camera_info_message(frame: Frame, header: Header) -> CameraInfo:
    """A pinhole camera without distortion."""
    matrix = frame.camera_matrix
    message = CameraInfo(header=header, distortion_model="plumb_bob", d=[0.0] * 5)
    message.height, message.width = frame.image.shape[:2]
    message.k = matrix.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.hstack([matrix, np.zeros((3, 1))]).ravel()
    return message


def ground_truth_message(frame: Frame, header: Header) -> PanopticSegmentation:
    """The segments in view; labels are the simulator's names, which belong to no vocabulary."""
    message = PanopticSegmentation(header=header)
    for truth in frame.segments:
        mask = frame.segment_ids == truth.id
        message.segments.append(
            Segment(
                id=truth.id,
                category_id=_NO_CATEGORY,
                label=truth.label,
                score=1.0,
                is_thing=truth.is_thing,
                area=int(mask.sum()),
                box=MESSAGES.region(cv2.boundingRect(mask.view(np.uint8))),
            )
        )
    return message


def main(args: list[str] | None = None) -> None:
    """Runs the camera until SIGINT or SIGTERM. Exits with 1 where it cannot start."""
    run_node(TabletopCamera, "tabletop_camera", args)
