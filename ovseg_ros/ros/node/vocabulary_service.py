"""The vocabulary in force, its announcement, and the one way to change it: all of a change happens, or none."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.node import Node

from ovseg_ros.core.errors import OvsegError, VocabularyError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.outputs import label_encoding
from ovseg_ros.core.own_thread import in_own_thread
from ovseg_ros.core.vocabulary import (
    CategorySpec,
    Vocabulary,
    file_of,
    parse_vocabulary,
    save_vocabulary_file,
)
from ovseg_ros.msg import Vocabulary as VocabularyMessage
from ovseg_ros.ros.node.conversions import MESSAGES, specs_from_messages
from ovseg_ros.ros.node.qos import latched_publisher, offending_subscribers
from ovseg_ros.ros.node.topic_types import MistypedPeers, mistyped_subscribers
from ovseg_ros.ros.node.vision_outputs import VisionAnnouncer
from ovseg_ros.srv import SetVocabulary

if TYPE_CHECKING:
    from ovseg_ros.core.segmenter import PanopticSegmenter

_NAMES_SHOWN = 50


class VocabularyService:
    """Holds one immutable `Prompt`, which carries its vocabulary; a change replaces that one reference.

    Changes run one after the other on a thread of their own: neither callbacks nor frames wait while text is encoded.
    Every new vocabulary, the first included, is published just before frames start to use it, so that nobody sees a
    version in an image that has not been announced.

    Args:
        node: its parameters preset, max_categories, label_image_encoding and object_threshold are read.
        vocabulary: the first one.
        saved_to: file that keeps every change; None keeps none.
        on_save_error: told why a change could not be saved; it is in force all the same.
    """

    def __init__(
        self,
        node: Node,
        segmenter: "PanopticSegmenter",
        vocabulary: Vocabulary,
        saved_to: Path | None,
        on_save_error: Callable[[str], None],
    ) -> None:
        self._node = node
        self._segmenter = segmenter
        self._saved_to, self._on_save_error = saved_to, on_save_error
        self._encoding: str = node.get_parameter("label_image_encoding").value
        self._current = self._prepare(vocabulary)
        self._log(self._current, self._current.remarks)
        # Made only now, so that there is nothing to destroy where the first vocabulary fails.
        self._publisher = latched_publisher(node, VocabularyMessage, "vocabulary")
        self._vision = VisionAnnouncer(node)
        self._publishers = (self._publisher, *self._vision.publishers)
        self._peers = MistypedPeers(node, lambda: mistyped_subscribers(node, self._publishers))
        self._announce(vocabulary)
        if self.warning:
            node.get_logger().warning(self.warning)
        self._changes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vocabulary")

    @property
    def current(self) -> Prompt:
        """Take it once per frame: everything about that frame then belongs to one version."""
        return self._current

    @property
    def message(self) -> VocabularyMessage:
        """As last published."""
        return self._message

    @property
    def warning(self) -> str:
        """That ~/label_image has 16 bits though nobody asked for them; empty where it has not."""
        vocabulary = self._current.vocabulary
        if self._encoding == "16UC1" or label_encoding(vocabulary, self._encoding) == "mono8":
            return ""
        return (
            f"vocabulary {vocabulary.version}: its highest id is {vocabulary.highest_published_id}, and mono8 ends at "
            "254, so ~/label_image is 16UC1; whoever reads it as bytes, such as Nav2's semantic layer, gets wrong "
            "classes. Start the node with label_image_encoding:=mono8 to keep ids below 255, or with :=16UC1 if 16 "
            "bits are wanted"
        )

    def problems(self) -> list[str]:
        """What to warn of now: `warning`, and subscribers that cannot hear what is latched."""
        unheard = [*self._peers.lines, *offending_subscribers(self._node, self._publishers)]
        return [self.warning, *unheard] if self.warning else unheard

    def submit(self, request: SetVocabulary.Request) -> "Future[SetVocabulary.Response]":
        """Answers a request in the background. A refusal is in the response; the future raises only the unexpected."""
        return self._changes.submit(self._respond, request)

    def prepare(self, vocabulary: Vocabulary) -> "Future[Prompt]":
        """Prepares another vocabulary in the background; the one in force stays."""
        return self._changes.submit(self._prepare, vocabulary)

    def update(self) -> None:
        """Called now and then: publishes object_threshold again if it changed, and looks for who hears nothing."""
        self._vision.follow_threshold()
        self._peers.update()

    def close(self) -> None:
        """Finishes the change at hand, drops those that wait and destroys the publishers."""
        self._changes.shutdown(wait=True, cancel_futures=True)
        self._vision.close()
        self._node.destroy_publisher(self._publisher)

    def _prepare(self, vocabulary: Vocabulary) -> Prompt:
        return in_own_thread("text", lambda: self._segmenter.prepare(vocabulary))

    def _log(self, prompt: Prompt, remarks: Iterable[str]) -> None:
        for line in _described(prompt):
            self._node.get_logger().info(line)
        for remark in remarks:
            self._node.get_logger().warning(remark)

    def _announce(self, vocabulary: Vocabulary) -> None:
        self._message = MESSAGES.vocabulary(vocabulary, self._node.get_clock().now().to_msg())
        self._publisher.publish(self._message)
        self._vision.announce(vocabulary, self._message.header.stamp)

    def _respond(self, request: SetVocabulary.Request) -> SetVocabulary.Response:
        previous, known_warning = self._current.vocabulary, self.warning
        remarks: list[str] = []
        try:
            specs = _requested_specs(request, self._node.get_parameter("max_categories").value, remarks.append)
            vocabulary = build_vocabulary(self._node, specs, previous)
            prompt = self._prepare(vocabulary)
        except OvsegError as error:
            return SetVocabulary.Response(message=str(error), version=previous.version)
        self._announce(vocabulary)
        self._current = prompt
        remarks += prompt.remarks
        remarks += filter(None, (_reused_ids(vocabulary, previous), "" if known_warning else self.warning))
        self._log(prompt, remarks)
        remarks[:0] = _described(prompt)
        if request.text:
            remarks.insert(0, _origin(request.text, vocabulary))
        try:
            if self._saved_to:
                save_vocabulary_file(self._saved_to, vocabulary.to_specs())
        except VocabularyError as error:
            remarks.append(str(error))
            self._on_save_error(str(error))
        return SetVocabulary.Response(
            success=True,
            version=vocabulary.version,
            category_ids=[category.id for category in vocabulary.categories],
            message="; ".join(remarks),
        )


def build_vocabulary(node: Node, specs: Sequence[CategorySpec], previous: Vocabulary | None = None) -> Vocabulary:
    """The vocabulary of `specs` under the parameters max_categories and label_image_encoding.

    Raises:
        VocabularyError: it breaks a rule, or does not fit.
    """
    return Vocabulary.build(
        specs,
        previous=previous,
        max_categories=node.get_parameter("max_categories").value,
        fit_mono8=node.get_parameter("label_image_encoding").value == "mono8",
    )


def _described(prompt: Prompt) -> list[str]:
    """What describes the words, and how many of them; nothing where nobody asked for descriptions."""
    return [prompt.descriptions.remark(prompt.vocabulary)] if prompt.descriptions is not None else []


def _reused_ids(vocabulary: Vocabulary, previous: Vocabulary) -> str:
    """Which ids belong to another word than before; empty if none does."""
    reused = vocabulary.reused_ids(previous)
    told = [f'{id_} is now "{now}", was "{before}"' for id_, (before, now) in reused.items()]
    told = [*told[:_NAMES_SHOWN], *(["..."] if len(told) > _NAMES_SHOWN else [])]
    kept = "id of a word that is gone was" if len(reused) == 1 else "ids of words that are gone were"
    again = f"{len(reused)} {kept} given again to stay in mono8"
    return f"vocabulary {vocabulary.version}: {again}: {', '.join(told)}" if reused else ""


def _requested_specs(
    request: SetVocabulary.Request, max_categories: int, tell: Callable[[str], None]
) -> tuple[CategorySpec, ...]:
    if not request.text:
        return specs_from_messages(request.categories)
    if request.categories:
        raise VocabularyError(
            f"the request has both text and {len(request.categories)} categories; give one, the other empty"
        )
    return parse_vocabulary(request.text, max_categories=max_categories, tell=tell)


def _origin(text: str, vocabulary: Vocabulary) -> str:
    """Where the words of a text are from: a file, or the text, with thing or stuff guessed."""
    file = file_of(text)
    return f"read from {file}" if file is not None else _guesses(vocabulary)


def _guesses(vocabulary: Vocabulary) -> str:
    """Which names were taken for things and which for stuff."""
    parts = []
    for kind, is_thing in (("things", True), ("stuff", False)):
        names = [category.name for category in vocabulary.categories if category.is_thing == is_thing]
        if names:
            parts.append(f"{kind}: {', '.join(names[:_NAMES_SHOWN])}" + (", ..." if len(names) > _NAMES_SHOWN else ""))
    return "guessed " + "; ".join(parts)
