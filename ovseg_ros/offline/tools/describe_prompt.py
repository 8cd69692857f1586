"""What a language model is asked about a word, and which answers are taken."""

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from open_clip.tokenizer import SimpleTokenizer

from ovseg_ros.core.backbones.open_clip_model import count_prompt_tokens
from ovseg_ros.core.descriptions import (
    ATTRIBUTES,
    MAX_PHRASES,
    MAX_WORDS,
    Attribute,
    Description,
    Descriptions,
    check_phrase,
)
from ovseg_ros.core.vocabulary import as_read, normalize_name
from ovseg_ros.core.vocabulary.lists import show

TASK = f"""\
You describe what a camera sees, for a program that finds things in pictures by words. You answer with one JSON object
and nothing else: {{"color": [...], "shape": [...], "texture": [...]}}. Each list has 1 to {MAX_PHRASES} short English
phrases of at most {MAX_WORDS} words: letters, digits, spaces and hyphens, no commas."""

QUESTION = """\
How does a typical {word} look?{sense}{synonyms}{neighbours}
color: its usual colors, one look a phrase.
shape: its outline, its visible parts and how large it is.
texture: its surface and its material.
Say what is there, never what is missing. Name no other thing of the list. Do not repeat the word itself.
Example, for a traffic cone: {{"color": ["bright orange with white bands"], "shape": ["tall cone on a square base"], \
"texture": ["smooth matte plastic"]}}"""

RETRY = "That answer was refused: {reason}. Answer again, with the JSON object alone."

PROMPT_HASH = hashlib.sha256("\0".join((TASK, QUESTION, RETRY)).encode()).hexdigest()[:8]
"""Of the templates above: which prompt a description was written for."""

_LIST = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MAX_PHRASES}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": dict.fromkeys(ATTRIBUTES, _LIST),
    "required": list(ATTRIBUTES),
    "additionalProperties": False,
}
"""Of an answer, as JSON schema."""

CLIP_TOKENS = 77
"""What CLIP's text encoders read of a sentence."""

_LONGEST_ANSWER = 20_000
"""Characters; an answer has some hundreds."""

# fmt: off
_NEGATIONS = frozenset((
    "no", "not", "non", "without", "never", "none", "nor", "neither", "nothing", "lacking", "lacks", "absent", "except",
    "unlike", "free",
))
_LOOKS = frozenset((
    "orange", "wood", "metal", "plastic", "paper", "stone", "glass", "cardboard", "cloth", "fabric", "textile",
    "leather", "rubber", "brick", "concrete", "marble", "clay", "straw", "bamboo", "tile",
))
# fmt: on
"""Of `_LOOKS`: a colour and materials, which things have although some vocabularies have them as categories."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # noqa: RUF001 - an apostrophe


class AnswerFault(ValueError):
    """Why an answer is not taken, in words that the model may read."""


@dataclass(frozen=True, slots=True)
class Question:
    """A word to describe.

    Attributes:
        word: as the vocabulary has it.
        sense: which of its meanings, if somebody said so.
        synonyms: other words for the same.
        neighbours: words for others, near it in the vocabulary.
        listed: all words of the vocabulary, its own too, as `plain` has them.
    """

    word: str
    sense: str
    synonyms: tuple[str, ...]
    neighbours: tuple[str, ...]
    listed: Collection[str]

    def messages(self) -> list[dict[str, str]]:
        """As chat completions have them; in one message, since not every model knows a system's."""
        sense = f" It is meant in this sense: {self.sense}." if self.sense else ""
        synonyms = f" Other words for it: {', '.join(self.synonyms)}." if self.synonyms else ""
        near = f" It is in a list beside: {', '.join(self.neighbours)}." if self.neighbours else ""
        text = QUESTION.format(word=as_read(self.word), sense=sense, synonyms=synonyms, neighbours=near)
        return [{"role": "user", "content": f"{TASK}\n\n{text}"}]


def parse_answer(answer: str, question: Question, author: str, tokenizer: SimpleTokenizer) -> Description:
    """The description in a model's answer; fences and talk around the JSON object are left out.

    Raises:
        AnswerFault: there is none, or it breaks a rule.
    """
    lists = _lists(answer)
    for attribute, phrases in lists.items():
        for index, phrase in enumerate(phrases):
            _check_words(phrase, f"{attribute}[{index}] {show(phrase)}", question)
    description = Description(
        sense=question.sense, color=lists["color"], shape=lists["shape"], texture=lists["texture"], by=author
    )
    descriptions = Descriptions({normalize_name(question.word): description}, ATTRIBUTES, False, ())
    for sentence in descriptions.sentences(question.word):
        [(tokens, _)] = count_prompt_tokens(tokenizer, [sentence])
        if tokens > CLIP_TOKENS:
            raise AnswerFault(
                f"{show(sentence)} has {tokens} tokens, at most {CLIP_TOKENS} are read; use shorter phrases"
            )
    return description


def _lists(answer: str) -> dict[Attribute, tuple[str, ...]]:
    if len(answer) > _LONGEST_ANSWER:
        raise AnswerFault(f"it has {len(answer)} characters, at most {_LONGEST_ANSWER} are read")
    text = answer.rpartition("</think>")[2]
    start = text.find("{")
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start) if start >= 0 else (None, 0)
    except (ValueError, RecursionError) as error:
        raise AnswerFault(f"{show(text[start:])} is not JSON") from error
    if not isinstance(found, dict):
        raise AnswerFault(f"{show(answer)} has no JSON object")
    lists: dict[Attribute, tuple[str, ...]] = {}
    for attribute in ATTRIBUTES:
        phrases = found.get(attribute)
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
            raise AnswerFault(f"{attribute} is {show(phrases)}, expected a list of 1 to {MAX_PHRASES} phrases")
        if not 1 <= len(phrases) <= MAX_PHRASES:
            raise AnswerFault(f"{attribute} has {len(phrases)} phrases, expected 1 to {MAX_PHRASES}")
        try:
            tidy = [phrase.strip().removesuffix(".") for phrase in phrases]
            lists[attribute] = tuple(check_phrase(phrase, f"{attribute}[{i}]") for i, phrase in enumerate(tidy))
        except ValueError as error:
            raise AnswerFault(str(error)) from error
    return lists


def _check_words(phrase: str, where: str, question: Question) -> None:
    words = _WORD.findall(normalize_name(phrase))
    for word in words:
        if word in _NEGATIONS or word.endswith(("n't", "n’t")):  # noqa: RUF001
            raise AnswerFault(f"{where} says by {word!r} what is missing, expected what is there")
    own = {plain(name) for name in (question.word, *question.synonyms)}
    for length in range(1, len(words) + 1):
        for start in range(len(words) - length + 1):
            name = _named(" ".join(words[start : start + length]), question.listed)
            if name and name not in _LOOKS and not any(_contains(mine, name) for mine in own):
                raise AnswerFault(f"{where} names {name!r}, another thing of the list")


def _named(words: str, listed: Collection[str]) -> str:
    """The category's name that some words are, singular or plural; empty if they are none."""
    return next((name for name in (words, words.removesuffix("s"), words.removesuffix("es")) if name in listed), "")


def _contains(name: str, part: str) -> bool:
    return f" {part} " in f" {name} "


def plain(name: str) -> str:
    """A name's words alone: what stands between them, such as the hyphen of "wall-brick", is no part of them."""
    return " ".join(_WORD.findall(normalize_name(name)))


def author_of(model: str) -> str:
    """What `by` says of a model."""
    return f"{model}@{PROMPT_HASH}"


def is_machine(by: str) -> bool:
    """Whether `by` is of this form, of any model and prompt."""
    return re.fullmatch(r".+@[0-9a-f]{8}", by) is not None


def questions_of(
    categories: Sequence[Sequence[str]], senses: dict[str, str], nearest: int, *, synonyms: bool
) -> list[Question]:
    """What to ask of a vocabulary.

    Args:
        categories: of each its name, then its synonyms.
        senses: by normalised word, where somebody said so.
        nearest: how many neighbours before and behind it a word is asked with.
        synonyms: whether to ask for them too.
    """
    listed = frozenset(plain(phrase) for phrases in categories for phrase in phrases)
    questions = []
    for place, phrases in enumerate(categories):
        near = [
            c[0] for c in (*categories[max(0, place - nearest) : place], *categories[place + 1 : place + 1 + nearest])
        ]
        for word in phrases if synonyms else phrases[:1]:
            rest = tuple(phrase for phrase in phrases if phrase != word)
            sense = senses.get(normalize_name(word), "")
            questions.append(Question(word, sense, rest, tuple(near), listed))
    return questions
