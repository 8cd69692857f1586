"""What the ROS tests share: processes that always end, a peer that waits for conditions, a camera."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
import yaml
from ament_index_python.packages import get_package_prefix
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.msg import Category, Vocabulary
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import GetVocabulary, SetVocabulary

DEADLINE = 60.0
"""Seconds after which a wait fails; generous, because a busy machine is no fault."""

START_DEADLINE = 110.0
"""Seconds for what includes the start of a process, which imports PyTorch."""

VOLATILE = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=100, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
)
_domains = itertools.count(os.getpid())


def free_domain() -> int:
    """A domain id from 1 to 100, another one at every call."""
    return next(_domains) % 100 + 1


class TestProcess:
    """A process whose output is kept in a file."""

    __test__ = False

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("w") as output:
            # Elsewhere than in the repository, whose source folder would hide the built package.
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent
            )

    @property
    def output(self) -> str:
        """Everything written so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for_output(self, text: str, count: int = 1) -> None:
        """Waits until `text` was written `count` times; fails if the process ends first."""
        wait_until(
            lambda: self.output.count(text) >= count or not self.running,
            f"{text!r} in the output",
            self,
            deadline=START_DEADLINE,
        )
        assert self.output.count(text) >= count, f"ended without {text!r}:\n{self.output}"

    def wait(self) -> int:
        """The exit status, once it ended by itself."""
        return self._process.wait(START_DEADLINE)

    def interrupt(self, *signals: signal.Signals) -> int:
        """Sends signals and waits for the exit status."""
        for number in signals:
            self._process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        if self.running:
            self._process.kill()
            self._process.wait()


class Processes:
    """Starts executables of the package on one domain, with further environment variables; kills them at the end."""

    def __init__(self, domain: int, folder: Path, **environment: str) -> None:
        own = {"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment}
        self._environment = {**os.environ, **own}
        self._environment.setdefault("MUJOCO_GL", "egl")
        self._folder = folder
        self._started: list[TestProcess] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill()

    @property
    def folder(self) -> Path:
        """The processes' working folder."""
        return self._folder

    def start(self, executable: str | Path, *remappings: str, **parameters: Any) -> TestProcess:
        """Starts an installed executable, by name, or a Python file."""
        if isinstance(executable, str):
            executable = Path(get_package_prefix("ovseg_ros")) / "lib/ovseg_ros" / executable
        number = len(self._started)
        command = [sys.executable, str(executable), "--ros-args", *itertools.chain(*(("-r", r) for r in remappings))]
        if parameters:
            file = self._folder / f"parameters_{number}.yaml"
            file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
            command += ["--params-file", str(file)]
        self._started.append(TestProcess(command, self._folder / f"output_{number}.txt", self._environment))
        return self._started[-1]


class Peer:
    """A node in this process. Everything happens inside its waits."""

    def __init__(self, domain: int) -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("peer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def spin(self, seconds: float = 0.05) -> None:
        """Handles what comes in, for at most `seconds` while nothing does."""
        self._executor.spin_once(timeout_sec=seconds)

    def wait_until(
        self, condition: Callable[[], Any], what: str, process: TestProcess | None = None, deadline: float = DEADLINE
    ) -> None:
        """Spins until `condition` holds."""
        wait_until(condition, what, process, self.spin, deadline)

    def call(self, service_type: type, name: str, request: Any) -> Any:
        """The answer of a service."""
        future, done = self.call_async(service_type, name, request)
        self.wait_until(future.done, f"an answer of {name}")
        done()
        return future.result()

    def call_async(self, service_type: type, name: str, request: Any) -> tuple[Any, Callable[[], None]]:
        """A future of the answer, and what to call when done with it."""
        client = self.node.create_client(service_type, name)
        self.wait_until(client.service_is_ready, f"the service {name}")
        return client.call_async(request), lambda: self.node.destroy_client(client)

    def wait_until_active(self, process: TestProcess, name: str = "ovseg") -> None:
        """Waits until a lifecycle node is active.

        Asks again and again: after a node of this name was killed, its service looks ready for some seconds, and a
        request that went to it alone is lost.
        """
        process.wait_for_output("active; images come from")
        client, asked, again = self.node.create_client(GetState, f"/{name}/get_state"), list[Any](), 0.0

        def answered() -> bool:
            nonlocal again
            if client.service_is_ready() and time.monotonic() >= again:
                asked.append(client.call_async(GetState.Request()))
                again = time.monotonic() + 2.0
            return any(future.done() for future in asked)

        self.wait_until(answered, f"an answer of /{name}/get_state", process)
        self.node.destroy_client(client)
        state = next(future.result() for future in asked if future.done()).current_state
        assert state.id == State.PRIMARY_STATE_ACTIVE, process.output

    def change_state(self, transition: int) -> tuple[bool, int]:
        """Asks the node `ovseg` for a transition; its success and the state after it."""
        request = ChangeState.Request(transition=Transition(id=transition))
        success = self.call(ChangeState, "/ovseg/change_state", request).success
        return success, self.call(GetState, "/ovseg/get_state", GetState.Request()).current_state.id

    def vocabulary(self) -> Vocabulary:
        """That of the node `ovseg`, in force."""
        return self.call(GetVocabulary, "/ovseg/get_vocabulary", GetVocabulary.Request()).vocabulary

    @contextmanager
    def collect(self, message_type: type, topic: str, qos: QoSProfile = VOLATILE) -> Iterator[list[Any]]:
        """A list that grows with every message, while subscribed; yielded once a publisher is found."""
        messages: list[Any] = []
        subscription = self.node.create_subscription(message_type, topic, messages.append, qos)
        try:
            self.wait_until(lambda: self.node.count_publishers(topic), f"a publisher of {topic}")
            yield messages
        finally:
            self.node.destroy_subscription(subscription)


class Camera:
    """Publishes pictures under known headers, from inside the peer's waits."""

    def __init__(self, peer: Peer, topic: str = "/image", message_type: type = Image) -> None:
        self._peer = peer
        self.publisher = peer.node.create_publisher(message_type, topic, VOLATILE)
        self._stamps = itertools.count(1)

    def header(self) -> Header:
        """A stamp that was not used before."""
        header = Header(frame_id="test_camera")
        header.stamp.sec, header.stamp.nanosec = 1000, next(self._stamps)
        return header

    def send(self, message: Any | None = None) -> Any:
        """Publishes once; a new picture unless a message is given."""
        message = message or MESSAGES.image(picture(), "rgb8", self.header())
        self.publisher.publish(message)
        return message

    def until(self, condition: Callable[[], Any], what: str, make: Callable[[], Any] | None = None) -> None:
        """Sends again and again until `condition` holds: best-effort messages may be lost."""
        last = -np.inf

        def poll() -> None:
            nonlocal last
            if time.monotonic() - last > 0.2:
                last = time.monotonic()
                self.send(make() if make else None)
            self._peer.spin(0.02)

        wait_until(condition, what, None, poll)

    def wait_for_subscriber(self) -> None:
        """Waits until the node listens, which it does while somebody listens to it."""
        self._peer.wait_until(self.publisher.get_subscription_count, f"a subscriber of {self.publisher.topic_name}")

    def close(self) -> None:
        self._peer.node.destroy_publisher(self.publisher)


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 RGB (height, width, 3) with coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    return blocks[rows][:, columns]


def pixels_of(image: Image) -> np.ndarray:
    """(height, width) of a mono8 or 16UC1 image without row padding."""
    dtype = np.uint8 if image.encoding == "mono8" else np.uint16
    return np.frombuffer(image.data, dtype).reshape(image.height, image.width)


def request_of(*categories: str | Category, text: str = "") -> SetVocabulary.Request:
    """The request for a vocabulary of these names or categories."""
    return SetVocabulary.Request(
        categories=[Category(name=entry) if isinstance(entry, str) else entry for entry in categories], text=text
    )


def ovseg_vocabulary(domain: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The command, at its end."""
    command = [sys.executable, "-m", "ovseg_ros.offline.cli.main", "vocabulary", *arguments]
    environment = os.environ | {"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1", **environment}
    folder = Path(sys.prefix)  # not the source tree, which would hide the built interfaces
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, encoding="utf-8", timeout=120)


def stamp_of(message: Any) -> tuple[int, int]:
    """What identifies a frame."""
    return message.header.stamp.sec, message.header.stamp.nanosec


def wait_until(
    condition: Callable[[], Any],
    what: str,
    process: TestProcess | None = None,
    poll: Callable[[], None] = lambda: time.sleep(0.02),
    deadline: float = DEADLINE,
) -> None:
    """Polls until `condition` holds; fails with `what` was missing."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"no {what} in {deadline:.0f} s\n{process.output if process else ''}"
        poll()
