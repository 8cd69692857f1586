"""The node `demo`: changes the vocabulary of a running `ovseg`, measures it against the simulator, draws pictures.

It does what a user's own client would: it calls the real services and listens to the real topics, by their relative
names, of the nodes `ovseg` and `tabletop_camera`. The results go to the folder `out`, then the process ends.
"""

import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import rclpy
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

from ovseg_ros.core.draw import Color
from ovseg_ros.core.errors import OvsegError
from ovseg_ros.msg import Category, PanopticSegmentation
from ovseg_ros.ros.demo.frames import (
    IMAGE,
    OVERLAY_IMAGE,
    SEGMENT_IMAGE,
    SEGMENTS,
    TOPICS,
    TRUTH_SEGMENT_IMAGE,
    TRUTH_SEGMENTS,
    FrameMatcher,
    Message,
    StampedFrame,
    segment_ids_from_message,
)
from ovseg_ros.ros.demo.pictures import contact_sheet, write_png
from ovseg_ros.ros.demo.scoring import DemoFrame, DemoVocabulary, TruthInWords, demo_vocabularies, summarize
from ovseg_ros.ros.node.image_decoding import image_from_message
from ovseg_ros.ros.node.parameter_spec import ParameterSpec, declare
from ovseg_ros.srv import GetVocabulary, SetVocabulary

PARAMETERS = (
    ParameterSpec("out", "out/demo", "Folder for pictures and summary.json.", fixed=True),
    ParameterSpec("frames", 20, "Frames to measure with each vocabulary.", 2, 10_000, fixed=True),
    ParameterSpec("timeout", 60.0, "Seconds to wait for any one thing before giving up.", 1.0, 3600.0, fixed=True),
)
_QUEUE_DEPTH = 20
_ROWS = 3
"""Frames in a picture."""

Response = TypeVar("Response")


class DemoError(OvsegError):
    """The demonstration cannot go on; the message says what is missing."""


class DemoClient(Node):
    """Runs the demonstration from one thread: `run` spins while it waits."""

    def __init__(self) -> None:
        super().__init__("demo")
        declare(self, PARAMETERS)
        self._frames_wanted: int = self.get_parameter("frames").value
        self._timeout: float = self.get_parameter("timeout").value
        self._out = Path(self.get_parameter("out").value)
        self._matcher = FrameMatcher()
        self._set_vocabulary = self.create_client(SetVocabulary, "ovseg/set_vocabulary")
        self._get_vocabulary = self.create_client(GetVocabulary, "ovseg/get_vocabulary")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def run(self) -> None:
        """Measures every vocabulary and writes the results.

        Raises:
            OvsegError: a node does not answer or sends nothing in time, refuses a vocabulary, or a file cannot be
                written.
        """
        self._say("waiting for the segmentation node to load its model")
        self._wait_until(
            lambda: self._set_vocabulary.service_is_ready() and self._get_vocabulary.service_is_ready(),
            f"the service {self._set_vocabulary.srv_name}; is the node ovseg running?",
        )
        for topic, message_type in TOPICS.items():
            self.create_subscription(message_type, topic, partial(self._receive, topic), QoSProfile(depth=_QUEUE_DEPTH))
        self._wait_until(lambda: self._matcher.has(IMAGE), f"images on {IMAGE}; is the node tabletop_camera running?")
        self._wait_until(lambda: self._matcher.has(SEGMENTS), f"messages on {SEGMENTS}; what does the node ovseg log?")
        self._make_folder()
        summary = [self._demonstrate(vocabulary) for vocabulary in demo_vocabularies()]
        path = self._out / "summary.json"
        path.write_text(json.dumps({"vocabularies": summary}, indent=2) + "\n")
        self._say(f"pictures and {path} written")

    def _demonstrate(self, vocabulary: DemoVocabulary) -> dict[str, object]:
        """Sets a vocabulary, measures it and draws it."""
        self._matcher.forget()
        self._say(f"{vocabulary.name}: setting {len(vocabulary.specs)} categories")
        called = self._now()
        answer = self._set(vocabulary)
        self._wait_until(
            lambda: self._matcher.first_received(answer.version) is not None,
            f"segments of vocabulary version {answer.version} on {SEGMENTS}",
        )
        change = self._matcher.first_received(answer.version) - called
        collected = self._collect(vocabulary.name, answer.version)
        stamps = [stamp for stamp, _ in collected]
        dropped = self._matcher.dropped(stamps[0], stamps[-1])
        frames = [_demo_frame(stamp, frame) for stamp, frame in collected]
        truth_in_words = TruthInWords(vocabulary.specs, answer.category_ids)
        summary = summarize(vocabulary.name, frames, truth_in_words, dropped, change)

        shown = [frames[round(i * (len(frames) - 1) / (_ROWS - 1))] for i in range(_ROWS)]
        picture = contact_sheet(shown, vocabulary.name, truth_in_words, self._colors(answer.version))
        write_png(self._out / f"{vocabulary.name}.png", picture)
        write_png(self._out / f"{vocabulary.name}_overlay_image.png", shown[0].overlay)
        self._say(
            f"{vocabulary.name}: PQ {summary['pq']} %, {summary['fps']} frames/s, "
            f"latency {summary['latency_ms']['p50']} ms, change of vocabulary {summary['change_ms']} ms"
        )
        return summary

    def _set(self, vocabulary: DemoVocabulary) -> SetVocabulary.Response:
        request = SetVocabulary.Request(
            categories=[
                Category(name=spec.name, synonyms=list(spec.synonyms), is_thing=spec.is_thing, negative=spec.negative)
                for spec in vocabulary.specs
            ]
        )
        answer: SetVocabulary.Response = self._call(self._set_vocabulary, request)
        if not answer.success:
            raise DemoError(f"the node refused the vocabulary {vocabulary.name!r}: {answer.message}")
        return answer

    def _colors(self, version: int) -> dict[int, Color]:
        """The colour that the node gives each category."""
        vocabulary = self._call(self._get_vocabulary, GetVocabulary.Request()).vocabulary
        if vocabulary.version != version:
            raise DemoError(
                f"the vocabulary is of version {vocabulary.version} instead of {version}; does another client set it?"
            )
        return {
            category.id: tuple(
                round(255 * channel) for channel in (category.color.r, category.color.g, category.color.b)
            )
            for category in vocabulary.categories
        }

    def _collect(self, name: str, version: int) -> list[tuple[int, StampedFrame]]:
        """The wanted number of complete frames of a vocabulary version."""
        collected: list[tuple[int, StampedFrame]] = []
        while len(collected) < self._frames_wanted:
            had = len(collected)
            self._wait_until(
                lambda had=had: len(self._matcher.complete(version)) > had,
                f"another frame of vocabulary {name!r} with all of {', '.join(TOPICS)} ({had} have come)",
            )
            collected = self._matcher.complete(version)
            if len(collected) % 8 == 0:
                self._say(f"{name}: {len(collected)} of {self._frames_wanted} frames")
        return collected[: self._frames_wanted]

    def _receive(self, topic: str, message: Message) -> None:
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

    def _make_folder(self) -> None:
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DemoError(f"cannot make the folder {self._out}: {error.strerror}; choose another with out") from error

    def _now(self) -> int:
        """Nanoseconds of the clock that stamps camera images."""
        return self.get_clock().now().nanoseconds

    def _say(self, what: str) -> None:
        """Progress, for whoever watches."""
        print(f"demo: {what}", flush=True)


def _demo_frame(stamp: int, frame: StampedFrame) -> DemoFrame:
    messages = frame.messages
    segments, truth = messages[SEGMENTS], messages[TRUTH_SEGMENTS]
    assert isinstance(segments, PanopticSegmentation) and isinstance(truth, PanopticSegmentation)
    return DemoFrame(
        image=image_from_message(messages[IMAGE], IMAGE),
        overlay=image_from_message(messages[OVERLAY_IMAGE], OVERLAY_IMAGE),
        segment_ids=segment_ids_from_message(messages[SEGMENT_IMAGE]),
        categories={segment.id: segment.category_id for segment in segments.segments},
        labels={segment.id: segment.label for segment in segments.segments},
        truth_ids=segment_ids_from_message(messages[TRUTH_SEGMENT_IMAGE]),
        truth_labels={segment.id: segment.label for segment in truth.segments},
        stamp=stamp,
        received=frame.received[SEGMENTS],
    )


def main(args: list[str] | None = None) -> None:
    """Runs the demonstration. Exits with 1 where it fails, with the reason on the standard error."""
    client = None
    try:
        rclpy.init(args=args)
        client = DemoClient()
        client.run()
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit("demo: interrupted")
    except OvsegError as error:
        sys.exit(f"demo: {error}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if client is not None:
            client.destroy_node()
        rclpy.try_shutdown()
