"""The vocabulary in force and the one way to change it: all of a change happens, or none."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg_ros.core.errors import OvsegError, VocabularyError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.own_thread import in_own_thread
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, parse_names, save_vocabulary_file
from ovseg_ros.ros.node.conversions import specs_from_messages
from ovseg_ros.srv import SetVocabulary

if TYPE_CHECKING:
    from ovseg_ros.core.segmenter import PanopticSegmenter

_NAMES_SHOWN = 50


class VocabularyService:
    """Holds one immutable `Prompt`, which carries its vocabulary; a change replaces that one reference.

    Changes run one after the other on a thread of their own: neither callbacks nor frames wait while text is encoded.

    Args:
        segmenter: prepares vocabularies.
        specs: the first vocabulary.
        max_categories: most categories accepted.
        on_change: called with every new vocabulary, the first included, just before frames start to use it, so that
            nobody sees a version in an image that has not been announced.
        saved_to: file that keeps every change; None keeps none.
        on_save_error: called when a change could not be saved; it is in force all the same.

    Raises:
        VocabularyError: the first vocabulary is refused.
    """

    def __init__(
        self,
        segmenter: "PanopticSegmenter",
        specs: Sequence[CategorySpec],
        max_categories: int,
        on_change: Callable[[Vocabulary], None],
        saved_to: Path | None = None,
        on_save_error: Callable[[VocabularyError], None] = lambda error: None,
    ) -> None:
        self._segmenter = segmenter
        self._saved_to, self._on_save_error = saved_to, on_save_error
        self._max_categories = max_categories
        self._on_change = on_change
        self._lock = threading.Lock()
        vocabulary = Vocabulary.build(specs, max_categories=max_categories)
        self._current = self._prepare(vocabulary)
        on_change(vocabulary)
        self._changes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vocabulary")

    @property
    def current(self) -> Prompt:
        """Take it once per frame: everything about that frame then belongs to one version."""
        return self._current

    def change(self, specs: Sequence[CategorySpec]) -> Vocabulary:
        """Replaces the vocabulary; returns the new one.

        Raises:
            VocabularyError: it is refused, and the old one stays.
        """
        with self._lock:
            vocabulary = Vocabulary.build(specs, previous=self._current.vocabulary, max_categories=self._max_categories)
            prompt = self._prepare(vocabulary)
            self._on_change(vocabulary)
            self._current = prompt
            return vocabulary

    def submit(self, request: SetVocabulary.Request) -> "Future[SetVocabulary.Response]":
        """Answers a request in the background. A refusal is in the response; the future raises only the unexpected."""
        return self._changes.submit(self._respond, request)

    def prepare(self, vocabulary: Vocabulary) -> "Future[Prompt]":
        """Prepares another vocabulary in the background; the one in force stays."""
        return self._changes.submit(self._prepare, vocabulary)

    def close(self) -> None:
        """Finishes the change at hand and drops those that wait."""
        self._changes.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, vocabulary: Vocabulary) -> Prompt:
        return in_own_thread("text", lambda: self._segmenter.prepare(vocabulary))

    def _respond(self, request: SetVocabulary.Request) -> SetVocabulary.Response:
        response = SetVocabulary.Response()
        try:
            vocabulary = self.change(_requested_specs(request, self._max_categories))
        except OvsegError as error:
            response.message = str(error)
            response.version = self._current.vocabulary.version
            return response
        response.success = True
        response.version = vocabulary.version
        response.category_ids = [category.id for category in vocabulary.categories]
        remarks = [_guesses(vocabulary)] if request.text else []
        try:
            if self._saved_to:
                save_vocabulary_file(self._saved_to, vocabulary.to_specs())
        except VocabularyError as error:
            remarks.append(str(error))
            self._on_save_error(error)
        response.message = "; ".join(remarks)
        return response


def _requested_specs(request: SetVocabulary.Request, max_categories: int) -> tuple[CategorySpec, ...]:
    if not request.text:
        return specs_from_messages(request.categories)
    if request.categories:
        raise VocabularyError(
            f"the request has both text and {len(request.categories)} categories; give one of them, the other empty"
        )
    return parse_names(request.text, max_categories=max_categories)


def _guesses(vocabulary: Vocabulary) -> str:
    """Which names were taken for things and which for stuff."""
    parts = []
    for kind, is_thing in (("things", True), ("stuff", False)):
        names = [category.name for category in vocabulary.categories if category.is_thing == is_thing]
        if names:
            parts.append(f"{kind}: {', '.join(names[:_NAMES_SHOWN])}" + (", ..." if len(names) > _NAMES_SHOWN else ""))
    return "guessed " + "; ".join(parts)
