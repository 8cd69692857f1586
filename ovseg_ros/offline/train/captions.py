"""What a captioner says of a tabletop picture, and whether a caption is true of another picture."""

from dataclasses import dataclass

import numpy as np

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
    """A random caption of a picture, of training names, and what it says: it may leave out the colour or texture."""
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
