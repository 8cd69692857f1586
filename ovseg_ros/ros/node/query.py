"""From a phrase to its masks on one image; the vocabulary in force is not involved."""

import numpy as np
from std_msgs.msg import Header

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import MAX_NAME_LENGTH, CategorySpec, Vocabulary, check_name, guess_is_thing, split_names
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import Query


def refused_query(reason: str) -> Query.Response:
    """An answer without a mask."""
    return Query.Response(success=False, message=reason)


def phrase_vocabulary(phrase: str) -> Vocabulary:
    """A vocabulary of one phrase.

    Raises:
        VocabularyError: the phrase is empty, too long, several phrases, or holds control characters.
    """
    where = "the phrase"
    # The text's rules come first: what takes it apart or guesses reads all of it, however long it is.
    names = [phrase] if len(phrase) > MAX_NAME_LENGTH else split_names(phrase)
    if not names:
        raise VocabularyError(f"{where} {phrase!r} is empty; say what to look for, such as 'red cup'")
    if len(names) > 1:
        raise VocabularyError(f"{where} {phrase!r} is {len(names)} phrases; expected one, such as {names[0]!r}")
    name = check_name(names[0], where)
    return Vocabulary.build([CategorySpec(name, is_thing=guess_is_thing(name))])


def query_response(result: PanopticResult, prompt: Prompt, header: Header) -> Query.Response:
    """The segments of a result that was made with a prompt of one phrase, on the image with this header."""
    if not result.segments:
        phrase = prompt.vocabulary.categories[0].name
        reason = f"nothing in the newest image is taken for {phrase!r}; lower object_threshold, or rephrase"
        response = refused_query("; ".join([reason, *prompt.remarks]))
        response.header = header
        return response
    found = MESSAGES.segments(result, header, mask_rle=False).segments
    found.sort(key=lambda segment: -segment.score)  # equal ones stay by area
    best = found[0]
    mask = np.where(result.segment_ids == best.id, np.uint8(255), np.uint8(0))
    return Query.Response(
        success=True,
        message="; ".join(prompt.remarks),
        header=header,
        score=best.score,
        box=best.box,
        mask=MESSAGES.image(mask, "mono8", header),
        segments=found,
        segment_image=MESSAGES.image(result.segment_ids, "16UC1", header),
    )
