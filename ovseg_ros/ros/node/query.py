"""From a phrase to the best mask on one image; the vocabulary in force is not involved."""

import numpy as np
from std_msgs.msg import Header

from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, guess_is_thing
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import Query


def refused_query(reason: str) -> Query.Response:
    """An answer without a mask."""
    return Query.Response(success=False, message=reason)


def phrase_vocabulary(phrase: str) -> Vocabulary:
    """A vocabulary of one phrase.

    Raises:
        VocabularyError: the phrase is empty, too long or holds control characters.
    """
    # The text's rules come first: guessing normalises all of it, however long it is.
    name = Vocabulary.build([CategorySpec(phrase)]).categories[0].name
    return Vocabulary.build([CategorySpec(name, is_thing=guess_is_thing(name))])


def query_response(result: PanopticResult, phrase: str, header: Header) -> Query.Response:
    """The best segment of a result that was made with `phrase_vocabulary(phrase)`, on the image with this header."""
    if not result.segments:
        response = refused_query(
            f"nothing in the newest image is taken for {phrase!r}; lower object_threshold, or rephrase"
        )
        response.header = header
        return response
    best = max(result.segments, key=lambda segment: segment.score)
    mask = np.where(result.segment_ids == best.id, np.uint8(255), np.uint8(0))
    return Query.Response(
        success=True,
        header=header,
        score=float(best.score),
        box=MESSAGES.region(best.box),
        mask=MESSAGES.image(mask, "mono8", header),
    )
