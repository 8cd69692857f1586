"""Words for the commands: what may not be as it was meant is said on stderr, once."""

import sys

from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import Vocabulary, parse_vocabulary


def say(remark: str) -> None:
    """One line for whoever reads the terminal."""
    print(f"ovseg: note: {remark}", file=sys.stderr)


def given_vocabulary(text: str) -> Vocabulary:
    """A vocabulary as `--vocabulary` gives it; VocabularyError with the reason if it is refused."""
    return Vocabulary.build(parse_vocabulary(text, tell=say))


def prepared(segmenter: PanopticSegmenter, vocabulary: Vocabulary) -> Prompt:
    """A prompt; what describes its words is said, and what of them the model cannot read or tell apart."""
    prompt = segmenter.prepare(vocabulary)
    if prompt.descriptions is not None:
        say(prompt.descriptions.remark(vocabulary))
    for remark in prompt.remarks:
        say(remark)
    return prompt
