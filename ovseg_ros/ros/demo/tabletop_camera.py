"""The node `tabletop_camera`: a simulated robot camera over a MuJoCo tabletop, with exact ground truth.

A frame's stamp is taken when its rendering is done, as a camera's driver stamps a finished exposure. All outputs of a
frame carry it, and what nobody subscribes to is not made.

In lock-step (parameter `answers`) time goes by frames instead: frame k of the camera's path is what is to be seen k
periods after its beginning, and is stamped so, however long the frames before it took. It is sent when those before it
are answered, so that whoever answers them meets every frame of the path.
"""

import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.msg import PanopticSegmentation, Segment
from ovseg_ros.ros.demo.lock_step import Unanswered
from ovseg_ros.ros.node.conversions import MESSAGES, nanoseconds
from ovseg_ros.ros.node.node_process import run_node
from ovseg_ros.ros.node.parameter_spec import ParameterSpec, declare, unknown_parameters
from ovseg_ros.sim.simulator import Frame, TabletopSimulator, orbit

FRAME_ID = "camera_color_optical_frame"
_NO_CATEGORY = 65535
_QUEUE_DEPTH = 5
_SECOND = 1_000_000_000  # nanoseconds
_REST = 5 * _SECOND // 2
"""Between the stamps of two paths in lock-step: longer than the 2 s for which tracking remembers what it saw."""

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
    ParameterSpec(
        "answers",
        "",
        "Topic of the PanopticSegmentation that answers each image, such as ovseg/segments: lock-step with whoever "
        "publishes it, in which every run has the same frames. Empty = frames as time goes by.",
        fixed=True,
    ),
    ParameterSpec(
        "unanswered",
        1,
        "In lock-step, most frames that are on the way at once. With more, the node may meet the next before it took "
        "the last, and drop that.",
        1,
        100,
        fixed=True,
    ),
    ParameterSpec(
        "patience", 10.0, "In lock-step, seconds without an answer until the camera goes on.", 0.1, 3600.0, fixed=True
    ),
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
        self._unanswered = Unanswered(self._value("patience"))
        self._in_lock_step = bool(self._value("answers"))
        if self._in_lock_step:
            self._listen(self._value("answers"))
        self._last_stamp = 0  # nanoseconds
        self._begin()
        self._seed = self._value("seed")
        self._simulator = self._make_simulator(self._seed)
        self.create_service(Trigger, "~/restart", self._restart)
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

    def _listen(self, answers: str) -> None:
        try:
            self.create_subscription(PanopticSegmentation, answers, self._take_answer, _QUEUE_DEPTH)
        except InvalidTopicNameException as error:
            raise ConfigError(f"answers {answers!r} is no topic's name, such as ovseg/segments: {error}") from error

    def _begin(self) -> int:
        """The path's first frame is next; the least stamp that it can have, in nanoseconds."""
        now = self.get_clock().now().nanoseconds
        begun = now
        if self._in_lock_step:
            # Whole seconds, because a stamp in floating point then has the same fraction in every run.
            begun = -(-max(now, self._last_stamp + _REST) // _SECOND) * _SECOND
        self._begun, self._count = begun, 0
        self._started = time.monotonic() + (begun - now) / _SECOND
        return begun

    def _restart(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, str(self._begin())
        return response

    def _take_answer(self, message: PanopticSegmentation) -> None:
        self._unanswered.answered(nanoseconds(message.header.stamp), time.monotonic())

    def _publish(self) -> None:
        wanted = {name: output for name, output in self._outputs.items() if output[0].get_subscription_count()}
        if not wanted or (self._in_lock_step and not self._is_due()):
            return
        with_depth = "depth" in wanted
        if self._in_lock_step:
            passed = round(self._count * _SECOND / self._value("rate"))
            frame, stamp = self._render(passed / _SECOND, with_depth=with_depth), self._begun + passed
            self._unanswered.sent(stamp, time.monotonic())
        else:
            frame = self._render(time.monotonic() - self._started, with_depth=with_depth)
            stamp = self.get_clock().now().nanoseconds
        self._count, self._last_stamp = self._count + 1, stamp
        header = Header(stamp=Time(nanoseconds=stamp).to_msg(), frame_id=FRAME_ID)
        for publisher, make in wanted.values():
            publisher.publish(make(frame, header))

    def _is_due(self) -> bool:
        """In lock-step, whether the next frame may go out: not before its path begins, nor with too many on the way."""
        now = time.monotonic()
        if given_up := self._unanswered.give_up(now):
            self.get_logger().warning(
                f"no answer for {self._value('patience'):g} s on {self.resolve_topic_name(self._value('answers'))}, "
                f"images that wait for one: {given_up}; going on without until one comes"
            )
        most = self._value("unanswered") if self._count else 1
        return now >= self._started and len(self._unanswered) < most

    def _render(self, elapsed: float, *, with_depth: bool) -> Frame:
        """What is to be seen `elapsed` seconds after the path began."""
        period = self._value("scene_period")
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
