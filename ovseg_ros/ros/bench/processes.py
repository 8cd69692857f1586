"""Camera, node and subscriber in processes of their own, as on a robot.

Every frame carries its number, so that what is lost is known exactly; stamps are of the one clock of this machine.

    python -m ovseg_ros.ros.bench.processes camera|node|stand_in --ros-args -p ...

is how this module starts its own processes; `stand_in` is the node with a model that returns at once. Imports rclpy:
import this module only where it may be missing.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.core.engine.options import REFERENCE
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter, Pending
from ovseg_ros.core.types import PanopticResult, Segment
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.ros.node import segment_node
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.memory import host_memory
from ovseg_ros.ros.node.middleware import shared_memory_profile
from ovseg_ros.ros.node.node_process import run_node

_START_TIME = 120.0
"""Seconds for the node to load its model."""
_LAST_FRAMES = 2.0
"""Seconds that late frames are waited for."""


class StandInSegmenter(PanopticSegmenter):
    """Not a model: it returns one segment at once, so that only the node and the middleware are measured."""

    def __init__(self) -> None:
        self.device, self.merge, self.engine = torch.device("cpu"), MergeConfig(), REFERENCE

    def prepare(self, vocabulary: Vocabulary) -> Prompt:
        """The words alone."""
        return Prompt(vocabulary)

    def start(self, images: Sequence[np.ndarray], prompt: Prompt, merge: MergeConfig | None = None) -> Pending:
        """The whole of each image as the first category."""
        (height, width), category = images[0].shape[:2], prompt.vocabulary.categories[0]
        result = PanopticResult(
            segment_ids=np.ones((height, width), np.uint16),
            category_ids=np.full((height, width), category.id, np.uint16),
            confidence=np.full((height, width), 255, np.uint8),
            segments=(Segment(1, category.id, category.name, 1.0, True, height * width, (0, 0, width, height)),),
            vocabulary_version=prompt.vocabulary.version,
        )
        return Pending(lambda: [result] * len(images))


@dataclass(slots=True)
class Received:
    """What a subscriber got: for every frame's number the seconds from its stamp to its arrival, and repetitions."""

    latencies: dict[int, float] = field(default_factory=dict)
    repeated: int = 0

    def add(self, message: Image) -> None:
        """A frame arrived."""
        now, stamp, number = time.time(), message.header.stamp, int(message.header.frame_id)
        self.repeated += number in self.latencies
        self.latencies[number] = now - stamp.sec - stamp.nanosec / 1e9


class BenchProcesses:
    """A node and its cameras as processes, and subscribers in this one, as a context manager.

    Args:
        parameters: of the node; without "preset" it runs the stand-in.
        image: what every camera shows, uint8 RGB (H, W, 3).
        rate: frames per second of each camera.
        cameras: how many.
        profile: whether all processes use the package's Fast DDS profile, or what the environment says.

    Raises:
        ConfigError: the node or a camera ended, or did not start in time.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        *,
        image: np.ndarray,
        rate: float,
        cameras: int = 1,
        profile: bool = False,
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="ovseg_bench_", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        if profile:
            self._environment |= shared_memory_profile()
            os.environ.update(shared_memory_profile())  # read when the first context of this process is made
        self._namespace = f"/ovseg_bench_{os.getpid()}"
        names = [f"camera_{number}" for number in range(cameras)] if cameras > 1 else [""]
        self._camera: dict[str, Any] = {"image_file": str(self._folder / "image.npy"), "rate": rate}
        np.save(self._camera["image_file"], image)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.received = {name: Received() for name in names}
        self.diagnostics: dict[str, str] = {}
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = Node("bench_subscriber", namespace=self._namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        for name, received in self.received.items():
            topic = f"ovseg/{name}/label_image" if name else "ovseg/label_image"
            self._node.create_subscription(Image, topic, received.add, QoSProfile(depth=10))
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._read_diagnostics, QoSProfile(depth=10))
        own = {"cameras": names, "image_transport": "raw"} if cameras > 1 else {"image_transport": "raw"}
        self._parameters = {**parameters, **own}

    def __enter__(self) -> "BenchProcesses":
        try:
            self._start("node", "node" if "preset" in self._parameters else "stand_in", self._parameters)
            self.wait(lambda: self.diagnostics.get("state") == "active", _START_TIME, "the node to be active")
            for name in self.received:
                own_names = ["-r", f"image:={name}/image", "-r", f"__node:={name}"] if name else []
                self._start(f"camera {name}", "camera", self._camera, own_names)
            self.wait(lambda: all(r.latencies for r in self.received.values()), _START_TIME, "the first frames")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def node_memory(self) -> int:
        """Resident bytes of the node's process."""
        return host_memory(self._processes["node"].pid)

    def spin(self, seconds: float) -> None:
        """Receive for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(left, 0.1))

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Receive until `condition()` holds; ConfigError if it does not in time, or a process ends."""
        end = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > end:
                log = self._log(ended[0] if ended else "node").read_text(errors="replace")[-2000:]
                raise ConfigError(f"waited for {what}, and {ended or 'time'} ended; the last of its log:\n{log}")
            self._executor.spin_once(timeout_sec=0.1)

    def forget(self) -> None:
        """Count from now on."""
        for received in self.received.values():
            received.latencies.clear()
            received.repeated = 0

    def shares(self) -> dict[str, tuple[int, int]]:
        """For each camera how many frames arrived, and how many it sent between the first and the last of them."""
        self.spin(_LAST_FRAMES)
        numbers = {name: list(received.latencies) for name, received in self.received.items()}
        return {name: (len(arrived), max(arrived) - min(arrived) + 1) for name, arrived in numbers.items() if arrived}

    def close(self) -> None:
        """Ends all processes and the middleware's context, and removes what they wrote; also when interrupted again."""
        try:
            for process in self._processes.values():
                process.send_signal(signal.SIGINT)
            for process in self._processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=20)
        finally:
            for process in self._processes.values():
                process.kill()  # nothing to one that has ended
                process.wait()
            self._temporary.cleanup()
            self._executor.shutdown()
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)

    def _start(self, name: str, role: str, parameters: Mapping[str, Any], remappings: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", __name__, role, "--ros-args", "-r", f"__ns:={self._namespace}", *remappings]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={json.dumps(value)}"]
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command, env=self._environment, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _read_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(self._namespace.removeprefix("/")):
                self.diagnostics |= {pair.key: pair.value for pair in status.values}


def camera_main() -> None:
    """The camera's process: best effort, at a fixed rate; the frame's number is its frame_id."""
    rclpy.init()
    node = rclpy.create_node("bench_camera")
    pixels = np.load(node.declare_parameter("image_file", "").value)
    rate: float = node.declare_parameter("rate", 30.0).value
    publisher = node.create_publisher(Image, "image", qos_profile_sensor_data)
    due, number = time.monotonic(), 0
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        while rclpy.ok():
            header = Header(stamp=node.get_clock().now().to_msg(), frame_id=str(number))
            publisher.publish(MESSAGES.image(pixels, "rgb8", header))
            number += 1
            due = max(due + 1 / rate, time.monotonic() - 1 / rate)  # catch up by one frame, not by a burst
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    match sys.argv.pop(1):  # a node takes ROS arguments only
        case "camera":
            camera_main()
        case "node":
            segment_node.main()
        case "stand_in":
            run_node(lambda: segment_node.SegmentNode(lambda *_: StandInSegmenter()), "ovseg")
