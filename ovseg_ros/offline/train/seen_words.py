"""The tabletop's training vocabulary: the seen categories, under names that change from step to step."""

from dataclasses import replace

import numpy as np

from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.sim import categories


class SeenWords:
    """The seen categories, each called by its name or by a training synonym of its colour, shape or stuff.

    Attributes:
        vocabulary: all of them by their names.
        text_encoder: as given.
    """

    def __init__(self, text_encoder: TextEncoder, synonyms: float) -> None:
        """`synonyms`: share of the words that are replaced by a training synonym, in [0, 1]."""
        self.text_encoder = text_encoder
        self._synonyms = synonyms
        self._specs = [spec for spec in categories.TABLETOP_SPECS if spec.name in categories.SEEN]
        self._places = {spec.name: place for place, spec in enumerate(self._specs)}
        self.vocabulary = Vocabulary.build(self._specs)

    def index_of(self, name: str) -> int:
        """A category's place in the vocabulary; KeyError if it is not a seen one."""
        return self._places[name]

    def draw(self, rng: np.random.Generator) -> TextEmbeddings:
        """The vocabulary of a step; no gradients flow into it."""
        names = {word: self._name_of(word, rng) for word in categories.WORDS}
        return self.text_encoder.encode(
            Vocabulary.build([replace(spec, name=self._phrase(spec, names)) for spec in self._specs])
        )

    def _name_of(self, word: str, rng: np.random.Generator) -> str:
        synonyms = categories.WORDS[word].synonyms
        replaced = rng.random() < self._synonyms
        return str(rng.choice(synonyms)) if replaced and synonyms else word

    def _phrase(self, spec: CategorySpec, names: dict[str, str]) -> str:
        if not spec.is_thing:
            return names[spec.name]
        color, shape = categories.split_pair(spec.name)
        return categories.pair_name(names[color], names[shape])
