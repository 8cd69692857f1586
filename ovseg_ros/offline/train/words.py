"""What tabletop trainings call things: captions of pictures, and the seen categories under changing names.

Both draw from the training names; the held-out synonyms are never used.
"""

from dataclasses import dataclass, replace

import numpy as np

from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.sim import categories

TEMPLATES = ("a photo of a {}", "{}", "a {}", "a picture of a {}", "a {} in a room", "a close-up of a {}")


@dataclass(frozen=True, slots=True)
class Concept:
    """What a picture shows or a caption says: a shape or surface, with its colour or texture where known."""

    noun: str
    color: str | None = None
    texture: str | None = None

    @property
    def category(self) -> str:
        """The tabletop category that it belongs to; a shape without a colour is no category of its own."""
        return self.noun if self.color is None else categories.pair_name(self.color, self.noun)


def caption(seen: Concept, rng: np.random.Generator) -> tuple[str, Concept]:
    """A random caption of a picture, and what exactly it says: it may leave out the colour or texture."""
    said = Concept(seen.noun)
    phrase = _draw_name(categories.WORDS[seen.noun].training_names, rng)
    if seen.color is not None and rng.random() < 0.75:
        said = Concept(seen.noun, color=seen.color)
        phrase = f"{_draw_name(categories.WORDS[seen.color].training_names, rng)} {phrase}"
    elif seen.texture is not None and rng.random() < 0.5:
        said = Concept(seen.noun, texture=seen.texture)
        phrase = f"{seen.texture} {phrase}"
    return str(rng.choice(TEMPLATES)).format(phrase), said


def _draw_name(names: tuple[str, ...], rng: np.random.Generator) -> str:
    """The plain name half of the time, else one of its synonyms."""
    return names[0] if rng.random() < 0.5 else str(rng.choice(names[1:]))


def is_true_of(said: Concept, seen: Concept) -> bool:
    """Whether a caption that says `said` is true of a picture that shows `seen`."""
    return said.noun == seen.noun and said.color in (None, seen.color) and said.texture in (None, seen.texture)


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
