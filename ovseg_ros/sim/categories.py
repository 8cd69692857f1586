"""The tabletop's categories, their names, and the two splits: seen and unseen.

A thing category is a colour-shape pair ("red cube"), as in CLEVR; a stuff category is a surface ("table").
*Seen* categories have masks in segmentation training. *Unseen* ones never appear in it: whole shapes (`UNSEEN_SHAPES`)
and, as in CLEVR-CoGenT, some colours of every other shape. Captions may name both, as captions on the web do.

Every word has training synonyms, which captions use, and one held-out synonym, which no training text contains. The
held-out nouns were chosen, before any evaluation, among near synonyms that the frozen text encoder alone ranks closest
to the right word (it knows no "pentagram"); held-out colours were not filtered so and are reported apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from ovseg_ros.core.vocabulary import CategorySpec


@dataclass(frozen=True, slots=True)
class Word:
    """A name, the synonyms that captions may use, and the one that training never sees."""

    name: str
    synonyms: tuple[str, ...]
    held_out: str

    @property
    def training_names(self) -> tuple[str, ...]:
        """The name and its training synonyms."""
        return (self.name, *self.synonyms)

    @property
    def all_names(self) -> tuple[str, ...]:
        """Every phrase that means this word."""
        return (*self.training_names, self.held_out)


SHAPES = (
    Word(
        "cube",
        ("box", "dice", "brick", "cuboid", "crate", "die", "carton", "square box", "toy brick", "wooden cube"),
        "block",
    ),
    Word("ball", ("orb", "globe", "marble", "round ball", "tennis ball", "beach ball", "bead", "football"), "sphere"),
    Word("cylinder", ("can", "barrel", "pipe", "canister", "drum", "tin", "rod", "column", "roller"), "tube"),
    Word("cone", ("pointed cone", "spike", "party hat", "ice cream cone", "funnel", "pylon"), "traffic cone"),
    Word("ring", ("torus", "hoop", "circlet", "donut", "bracelet", "band", "doughnut", "washer", "bangle"), "loop"),
    Word("egg", ("boiled egg", "chicken egg", "bird egg", "oval egg", "painted egg", "chocolate egg"), "easter egg"),
    Word("star", ("five-pointed star", "starfish", "christmas star", "toy star", "pentagram", "stars"), "star shape"),
    Word("cup", ("teacup", "coffee cup", "tumbler", "drinking cup", "beaker", "tea cup", "goblet", "cocoa cup"), "mug"),
    Word("bowl", ("soup bowl", "basin", "salad bowl", "saucer", "plate", "mixing bowl", "fruit bowl", "tray"), "dish"),
    Word(
        "bottle",
        ("wine bottle", "vial", "jar", "water bottle", "carafe", "decanter", "glass bottle", "phial", "jug"),
        "flask",
    ),
    Word(
        "book", ("novel", "notebook", "hardcover", "paperback", "volume", "manual", "diary", "closed book"), "textbook"
    ),
    Word("banana", ("ripe banana", "bananas", "fruit", "plantain", "banana fruit", "fruits"), "tropical fruit"),
)
COLORS = (
    Word("red", ("scarlet",), "crimson"),
    Word("orange", ("tangerine",), "pumpkin"),
    Word("yellow", ("lemon yellow",), "golden"),
    Word("green", ("emerald",), "leaf-green"),
    Word("blue", ("azure",), "navy"),
    Word("purple", ("violet",), "lavender"),
    Word("white", ("ivory",), "snow-white"),
    Word("black", ("jet black",), "dark"),
)
STUFF = (
    Word("table", ("tabletop", "countertop", "workbench", "counter", "dining table", "worktop"), "desk"),
    Word("floor", ("ground", "room floor", "paving", "tiles", "floorboards", "parquet"), "flooring"),
    Word("wall", ("room wall", "backdrop", "house wall", "partition", "wallpaper", "side wall"), "interior wall"),
    Word("mat", ("rug", "placemat", "doormat", "floor mat", "table mat", "blanket"), "carpet"),
)
MATERIALS = ("matte", "shiny", "metallic")
TEXTURES = {
    "table": ("wooden", "marble", "plain", "speckled"),
    "floor": ("tiled", "wooden", "plain", "speckled"),
    "wall": ("brick", "striped", "plain", "speckled"),
    "mat": ("checkered", "striped", "plain", "woven"),
}

UNSEEN_SHAPES = frozenset({"star", "bowl"})

WORDS = {word.name: word for word in (*SHAPES, *COLORS, *STUFF)}
"""Every word by its name."""


def pair_name(color: str, shape: str) -> str:
    """The category name of a colour-shape pair."""
    return f"{color} {shape}"


def group_names(color: str, noun: str) -> tuple[str, ...]:
    """Ways to ask for all of some things at once, the plainest first: "red cubes", "the red cubes", "all red cubes".

    Args:
        color: "" leaves it out.
        noun: a shape, or such as "thing", in the singular; all have regular plurals.
    """
    plural = f"{color} {noun}s".strip()
    return plural, f"the {plural}", f"all {plural}"


def things_by_noun(things: Iterable[tuple[int, str]]) -> dict[str, list[tuple[int, str]]]:
    """What the nouns that are true of an image's things mean there: of a "red cup", "red thing", "cup" and "red cup".

    `things`: ids and category names, as in the result.
    """
    meant: dict[str, list[tuple[int, str]]] = {}
    for thing, name in things:
        color, shape = split_pair(name)
        for noun in (f"{color} thing", shape, name):
            meant.setdefault(noun, []).append((thing, name))
    return meant


# Of every other shape two colours are held out; the stride spreads them evenly over the colours.
UNSEEN = frozenset(
    pair_name(color.name, shape.name)
    for (color_index, color), (shape_index, shape) in product(enumerate(COLORS), enumerate(SHAPES))
    if shape.name in UNSEEN_SHAPES or (color_index - 3 * shape_index) % len(COLORS) in (0, 4)
)
THINGS = tuple(pair_name(color.name, shape.name) for shape, color in product(SHAPES, COLORS))
SEEN_THINGS = tuple(name for name in THINGS if name not in UNSEEN)
SEEN = frozenset(SEEN_THINGS) | frozenset(word.name for word in STUFF)

TABLETOP_SPECS = tuple(CategorySpec(name=name, is_thing=True) for name in THINGS) + tuple(
    CategorySpec(name=word.name, is_thing=False) for word in STUFF
)
"""The full tabletop vocabulary: 96 things, then 4 stuff categories, one canonical name each."""


def split_pair(name: str) -> tuple[str, str]:
    """The (colour, shape) of a thing category's name."""
    color, shape = name.split(" ", maxsplit=1)
    return color, shape


def held_out_synonym(name: str, *, replace_color: bool = False) -> str:
    """The synonym of a category name that no training text contains: "red ball" -> "red sphere" or "crimson sphere"."""
    if name in WORDS:
        return WORDS[name].held_out
    color, shape = split_pair(name)
    return f"{WORDS[color].held_out if replace_color else color} {WORDS[shape].held_out}"


def names_of(label: str) -> frozenset[str]:
    """Every phrase of this vocabulary that is true of a ground-truth segment with category `label`."""
    color, noun = ("", label) if label in WORDS else split_pair(label)
    nouns, adjectives = WORDS[noun].all_names, WORDS[color].all_names if color else TEXTURES[label]
    return frozenset(nouns) | {f"{adjective} {noun}" for adjective, noun in product(adjectives, nouns)}
