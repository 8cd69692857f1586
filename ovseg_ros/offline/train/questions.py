"""What a training asks a prompt-guided mask generator for: some words, and the masks that answer them.

A word that is asked for in the singular means each of its objects, in the plural all of them as one mask. Segments of
words that are not asked for are nothing to find.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.sim import categories as tabletop

_ANYTHING = ("thing", "object")
"""What a colour is of, whatever the shape."""


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class QuestionConfig:
    """How words are drawn.

    Attributes:
        whole: share of the questions that name every category; the others name a few words, as a person would.
        groups: of the others, the share that asks for groups; on the tabletop only, whose plurals are known.
        synonyms: share of the words that are called by another name than their first.
        several: of the others, the share that is about a word which means several segments of the image, where one
            does; that is where one mask for all and one for each differ.
    """

    whole: Share = 0.5
    groups: Share = 0.0
    synonyms: Share = 0.0
    several: Share = 0.0


@dataclass(frozen=True, slots=True)
class AskableWord:
    """What can be asked for.

    Attributes:
        phrases: ways to say it, the plainest first.
        categories: names of the data set's categories that it means.
        is_group: whether all that it means is one mask.
    """

    phrases: tuple[str, ...]
    categories: frozenset[str]
    is_group: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """Words, and of each mask that answers them, which word it answers and which segments it consists of."""

    phrases: tuple[str, ...]
    answers: tuple[tuple[int, tuple[int, ...]], ...]


class Questions:
    """Draws questions about images.

    Attributes:
        whole: the words of a question that names every category.
    """

    def __init__(
        self,
        config: QuestionConfig,
        whole: Sequence[AskableWord],
        few: Sequence[Sequence[AskableWord]],
        groups: Sequence[Sequence[AskableWord]] = (),
    ) -> None:
        """`few`, `groups`: the words among which a question of that sort chooses, one of the lists at a time."""
        self.whole = tuple(whole)
        self._config, self._few, self._groups = config, tuple(map(tuple, few)), tuple(map(tuple, groups))

    def draw(self, segments: Sequence[tuple[int, str]], rng: np.random.Generator) -> Question:
        """A question about an image with these segments, ids and category names; it is about one of them, if any.

        What `several` draws is drawn only where it is asked for: without it, questions are those of older recipes.
        """
        if rng.random() < self._config.whole:
            return self.ask(self.whole, segments, rng)
        lists = self._groups if self._groups and rng.random() < self._config.groups else self._few
        words = lists[rng.integers(len(lists))]
        meant = [sum(name in word.categories for _, name in segments) for word in words]
        least = 2 if max(meant) > 1 and self._config.several and rng.random() < self._config.several else 1
        present = [index for index, count in enumerate(meant) if count >= least]
        first = present[rng.integers(len(present))] if present else rng.integers(len(words))
        count = round(math.exp(rng.uniform(0, math.log(len(words)))))  # log-uniform from 1 to all
        others = [index for index in rng.permutation(len(words)) if index != first][: count - 1]
        return self.ask([words[index] for index in sorted([first, *others])], segments, rng)

    def ask(
        self, words: Sequence[AskableWord], segments: Sequence[tuple[int, str]], rng: np.random.Generator | None = None
    ) -> Question:
        """The question for some words, each called by a name of its, or without `rng` by its plainest."""
        phrases, answers = [], []
        for index, word in enumerate(words):
            phrases.append(word.phrases[0] if rng is None else self._name(word, rng))
            meant = tuple(segment for segment, name in segments if name in word.categories)
            if meant:
                answers += [(index, meant)] if word.is_group else [(index, (segment,)) for segment in meant]
        return Question(tuple(phrases), tuple(answers))

    def _name(self, word: AskableWord, rng: np.random.Generator) -> str:
        another = rng.random() < self._config.synonyms and len(word.phrases) > 1
        return word.phrases[rng.integers(1, len(word.phrases))] if another else word.phrases[0]


def about_categories(categories: Sequence[DatasetCategory], config: QuestionConfig) -> Questions:
    """Questions for a data set's categories by their names, each object one by one."""
    words = [AskableWord((c.name, *c.synonyms), frozenset({c.name})) for c in categories]
    return Questions(config, words, [words])


def about_tabletop(config: QuestionConfig) -> Questions:
    """Questions for what the tabletop's training shows, the seen categories, at every grain.

    "red cube", "cube" and "red thing" mean each such object, "red cubes", "cubes" and "red things" all as one.
    """
    stuff = [AskableWord(word.training_names, frozenset({word.name})) for word in tabletop.STUFF]
    few, groups = ([words(plural) + stuff for words in (_pairs, _shapes, _colors)] for plural in (False, True))
    return Questions(config, few[0], few, groups)


def _pairs(plural: bool) -> list[AskableWord]:
    found = []
    for name in tabletop.SEEN_THINGS:
        color, shape = (tabletop.WORDS[part] for part in tabletop.split_pair(name))
        each = tuple(tabletop.pair_name(c, s) for s in _singular(shape) for c in color.training_names)
        phrases = tabletop.group_names(color.name, shape.name) if plural else each
        found.append(AskableWord(phrases, frozenset({name}), plural))
    return found


def _shapes(plural: bool) -> list[AskableWord]:
    found = []
    for shape in tabletop.SHAPES:
        if meant := _seen(shape.name):
            phrases = tabletop.group_names("", shape.name) if plural else _singular(shape)
            found.append(AskableWord(phrases, meant, plural))
    return found


def _colors(plural: bool) -> list[AskableWord]:
    found = []
    for color in tabletop.COLORS:
        each = tuple(tabletop.pair_name(name, noun) for noun in _ANYTHING for name in color.training_names)
        groups = tuple(name for noun in _ANYTHING for name in tabletop.group_names(color.name, noun))
        found.append(AskableWord(groups if plural else each, _seen(color.name), plural))
    return found


def _singular(shape: tabletop.Word) -> tuple[str, ...]:
    """What one such object may be called; captions call one banana "bananas" as well."""
    return tuple(name for name in shape.training_names if name not in tabletop.group_names("", shape.name))


def _seen(word: str) -> frozenset[str]:
    """The seen things of a colour or shape."""
    return frozenset(name for name in tabletop.SEEN_THINGS if word in tabletop.split_pair(name))
