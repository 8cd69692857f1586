"""The node `demo`: changes the vocabulary of a running `ovseg`, measures it against the simulator, draws pictures.

It does what a user's own client would: it calls the real services and listens to the real topics, by their relative
names, of the nodes `ovseg` and `tabletop_camera`. The results go to the folder `out`, then the process ends.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from ovseg_ros.core.draw import Color
from ovseg_ros.core.errors import OvsegError
from ovseg_ros.core.image_messages import ids_from_message, image_from_message
from ovseg_ros.core.vocabulary import CategorySpec
from ovseg_ros.ros.demo.frames import (
    IMAGE,
    OVERLAY_IMAGE,
    SEGMENT_IMAGE,
    SEGMENTS,
    TOPICS,
    TRUTH_SEGMENT_IMAGE,
    TRUTH_SEGMENTS,
    FrameMatcher,
    StampedFrame,
)
from ovseg_ros.ros.demo.pictures import contact_sheet, tour_pictures, write_png, write_tour
from ovseg_ros.ros.demo.scoring import DemoFrame, DemoSegments, demo_vocabularies, summarize, truth_in_words
from ovseg_ros.ros.node.command_line import init_ros
from ovseg_ros.ros.node.conversions import vocabulary_request
from ovseg_ros.ros.node.parameter_spec import ParameterSpec, declare, unknown_parameters
from ovseg_ros.srv import GetVocabulary, SetVocabulary

PARAMETERS = (
    ParameterSpec("out", "out/demo", "Folder for pictures and summary.json.", fixed=True),
    ParameterSpec("frames", 20, "Frames to measure with each vocabulary.", 2, 10_000, fixed=True),
    ParameterSpec("timeout", 60.0, "Seconds to wait for any one thing before giving up.", 1.0, 3600.0, fixed=True),
)
_QUEUE_DEPTH = 20
_ROWS = 3
"""Frames in a picture."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class DemoError(OvsegError):
    """The demonstration cannot go on; the message says what is missing."""


class DemoClient(Node):
    """Runs the demonstration from one thread: `run` spins while it waits."""

    def __init__(self) -> None:
        super().__init__("demo")
        declare(self, PARAMETERS)
        if unknown := unknown_parameters(self):
            self.get_logger().warning(unknown)
        self._frames_wanted: int = self.get_parameter("frames").value
        self._timeout: float = self.get_parameter("timeout").value
        self._out = Path(self.get_parameter("out").value)
        self._matcher = FrameMatcher()
        self._set_vocabulary = self.create_client(SetVocabulary, "ovseg/set_vocabulary")
        self._get_vocabulary = self.create_client(GetVocabulary, "ovseg/get_vocabulary")
        self._restart_camera = self.create_client(Trigger, "tabletop_camera/restart")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def run(self) -> None:
        """Measures every vocabulary and writes the results.

        Raises:
            OvsegError: a node does not answer or sends nothing in time, refuses a vocabulary, or a file cannot be
                written.
        """
        _say("waiting for the segmentation node to load its model")
        self._wait_until(
            lambda: self._set_vocabulary.service_is_ready() and self._get_vocabulary.service_is_ready(),
            f"the service {self._set_vocabulary.srv_name}; is the node ovseg running?",
        )
        for topic, message_type in TOPICS.items():
            self.create_subscription(message_type, topic, partial(self._receive, topic), QoSProfile(depth=_QUEUE_DEPTH))
        self._wait_until(
            self._restart_camera.service_is_ready,
            f"the service {self._restart_camera.srv_name}; is the node tabletop_camera running?",
        )
        self._wait_until(lambda: self._matcher.has(IMAGE), f"images on {IMAGE}; is the node tabletop_camera running?")
        self._wait_until(lambda: self._matcher.has(SEGMENTS), f"messages on {SEGMENTS}; what does the node ovseg log?")
        path = self._out / "summary.json"
        try:
            self._out.mkdir(parents=True, exist_ok=True)
            summary, measured = [], []
            for name, specs in demo_vocabularies().items():
                entry, frames, colors = self._demonstrate(name, specs)
                summary.append(entry)
                measured.append((name, frames, colors))
            path.write_text(json.dumps({"vocabularies": summary}, indent=2) + "\n")
            # With the words of the first two, which name everything, by turns.
            write_tour(self._out / "tour.webp", *tour_pictures(measured[:2]))
        except OSError as error:
            raise DemoError(f"cannot write to {self._out}: {error.strerror}; choose another with out") from error
        _say(f"pictures and {path} written")

    def _demonstrate(
        self, name: str, specs: Sequence[CategorySpec]
    ) -> tuple[dict[str, Any], list[DemoFrame], dict[int, Color]]:
        """Sets a vocabulary, measures it on the first frames of the camera's path and draws it.

        Returns:
            Its entry of summary.json, the frames, and the colour of each category id.
        """
        self._matcher.forget()
        _say(f"{name}: setting {len(specs)} categories")
        called = self._now()
        answer = self._call(self._set_vocabulary, vocabulary_request(specs))
        if not answer.success:
            raise DemoError(f"the node refused the vocabulary {name!r}: {answer.message}")
        version = answer.version
        self._wait_until(
            lambda: version in self._matcher.first_received, f"segments of vocabulary version {version} on {SEGMENTS}"
        )
        change = self._matcher.first_received[version] - called
        collected = self._collect(name, version)
        dropped = self._frames_wanted - len(collected)
        if dropped:
            _say(f"{name}: {dropped} of {self._frames_wanted} frames never came whole; figures are without them")
        if len(collected) < 2:
            raise DemoError(f"a rate needs two frames of vocabulary {name!r}, and {len(collected)} came whole")
        frames = [_demo_frame(frame, specs, answer.category_ids) for frame in collected]
        summary = summarize(name, frames, dropped, change)

        shown = [frames[round(i * (len(frames) - 1) / (_ROWS - 1))] for i in range(_ROWS)]
        colors = self._colors(version)
        write_png(self._out / f"{name}.png", contact_sheet(shown, name, colors))
        write_png(self._out / f"{name}_overlay_image.png", shown[0].overlay)
        _say(
            f"{name}: PQ {summary['pq']} %, {summary['name_changes']} changes of name, {summary['fps']} frames/s, "
            f"latency {summary['latency_ms']['p50']} ms, change of vocabulary {summary['change_ms']} ms"
        )
        return summary, frames, colors

    def _colors(self, version: int) -> dict[int, Color]:
        """The colour that the node gives each category."""
        vocabulary = self._call(self._get_vocabulary, GetVocabulary.Request()).vocabulary
        if vocabulary.version != version:
            raise DemoError(
                f"the vocabulary is of version {vocabulary.version} instead of {version}; does another client set it?"
            )
        return {
            category.id: tuple(round(255 * value) for value in (category.color.r, category.color.g, category.color.b))
            for category in vocabulary.categories
        }

    def _collect(self, name: str, version: int) -> list[StampedFrame]:
        """The first frames of the camera's path under a vocabulary version, but for those that did not come whole."""
        self._matcher.forget()
        begun = int(self._call(self._restart_camera, Trigger.Request()).message)

        def is_settled(count: int) -> bool:
            return self._matcher.first(count, version, begun) is not None

        for count in range(1, self._frames_wanted + 1):
            self._wait_until(
                partial(is_settled, count),
                f"frame {count} of vocabulary {name!r} with all of {', '.join(TOPICS)}",
            )
            if count % 8 == 0:
                _say(f"{name}: {count} of {self._frames_wanted} frames")
        return self._matcher.first(self._frames_wanted, version, begun) or []

    def _receive(self, topic: str, message: Any) -> None:
        self._matcher.add(topic, message, self._now())

    def _call(self, client: Client, request: Any) -> Any:
        future = client.call_async(request)
        self._wait_until(future.done, f"an answer from {client.srv_name}")
        return future.result()

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = self._now() + int(self._timeout * 1e9)
        while not condition():
            if self._now() > deadline:
                raise DemoError(f"waited {self._timeout:g} s for {what}")
            self._executor.spin_once(timeout_sec=0.1)

    def _now(self) -> int:
        """Nanoseconds of the clock that stamps camera images."""
        return int(self.get_clock().now().nanoseconds)


def _demo_frame(frame: StampedFrame, specs: Sequence[CategorySpec], category_ids: Sequence[int]) -> DemoFrame:
    messages = frame.messages
    found, truth = messages[SEGMENTS].segments, messages[TRUTH_SEGMENTS].segments
    true_ids = ids_from_message(messages[TRUTH_SEGMENT_IMAGE], TRUTH_SEGMENT_IMAGE)
    return DemoFrame(
        image=image_from_message(messages[IMAGE], IMAGE),
        overlay=image_from_message(messages[OVERLAY_IMAGE], OVERLAY_IMAGE),
        found=DemoSegments(
            ids_from_message(messages[SEGMENT_IMAGE], SEGMENT_IMAGE),
            {segment.id: segment.category_id for segment in found},
            {segment.id: segment.label for segment in found},
            {segment.id: segment.track_id for segment in found if segment.track_id},
        ),
        truth=truth_in_words(true_ids, {segment.id: segment.label for segment in truth}, specs, category_ids),
        stamp=frame.stamp,
        sent=frame.received[IMAGE],
        received=frame.received[SEGMENTS],
    )


def _say(what: str) -> None:
    """Progress, for whoever watches."""
    print(f"demo: {what}", flush=True)


def main(args: list[str] | None = None) -> None:
    """Runs the demonstration. Exits with 1 where it fails, with the reason on the standard error."""
    client = None
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.default_int_handler)
        init_ros("demo", args)
        client = DemoClient()
        client.run()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("demo: interrupted")
    except OvsegError as error:
        if client is not None:
            sys.exit(f"demo: {error}")
        get_logger("demo").fatal(f"cannot start: {error}")
        sys.exit(1)
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if client is not None:
            client.destroy_node()
        rclpy.try_shutdown()
