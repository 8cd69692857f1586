"""The tabletop's words: splits, synonyms, and what is true of a label."""

from ovseg_ros.core.vocabulary import Vocabulary, normalize_name
from ovseg_ros.sim import categories
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym, names_of


def test_the_full_vocabulary_is_valid_and_split_in_two() -> None:
    vocabulary = Vocabulary.build(TABLETOP_SPECS)
    names = {category.name for category in vocabulary.categories}
    assert len(names) == 12 * 8 + 4
    assert names == SEEN | UNSEEN
    assert not SEEN & UNSEEN


def test_unseen_holds_whole_shapes_and_two_colours_of_every_other_shape() -> None:
    for shape in categories.SHAPES:
        unseen = [color.name for color in categories.COLORS if f"{color.name} {shape.name}" in UNSEEN]
        assert len(unseen) == (8 if shape.name in categories.UNSEEN_SHAPES else 2)
    for color in categories.COLORS:  # every colour is seen on some shape, or nothing could be learned of it
        assert any(f"{color.name} {shape.name}" in SEEN for shape in categories.SHAPES)


def test_held_out_synonyms_are_in_no_training_text() -> None:
    trained = {
        normalize_name(name)
        for word in (*categories.SHAPES, *categories.COLORS, *categories.STUFF)
        for name in word.training_names
    }
    for word in (*categories.SHAPES, *categories.COLORS, *categories.STUFF):
        assert not any(f" {normalize_name(word.held_out)} " in f" {name} " for name in trained)


def test_no_training_name_means_two_words() -> None:
    words = (*categories.SHAPES, *categories.COLORS, *categories.STUFF)
    names = [normalize_name(name) for word in words for name in word.training_names]
    assert len(names) == len(set(names))


def test_synonyms_of_the_full_vocabulary_are_distinct_and_true() -> None:
    for replace_color in (False, True):
        replaced = {spec.name: held_out_synonym(spec.name, replace_color=replace_color) for spec in TABLETOP_SPECS}
        assert len(set(replaced.values())) == len(TABLETOP_SPECS)
        for name, synonym in replaced.items():
            assert synonym != name
            assert synonym in names_of(name)
            assert not any(synonym in names_of(other) for other in replaced if other != name)


def test_names_of_a_pair_are_its_shape_and_its_coloured_shape() -> None:
    names = names_of("red ball")
    assert {"ball", "sphere", "red ball", "crimson sphere", "scarlet orb"} <= names
    assert not {"red", "blue ball", "red cube", "table"} & names
    assert {"table", "desk", "wooden table"} <= names_of("table")
