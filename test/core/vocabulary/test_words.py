"""Names, guesses and lists of words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary import (
    CategorySpec,
    Vocabulary,
    guess_is_thing,
    normalize_name,
    parse_names,
    with_added,
    without,
)


@pytest.mark.parametrize(
    "name",
    ["crème brûlée", "日本語", "\u0645\u06cc\u200c\u0631\u0648\u0645", "👩\u200d🚀", "C++ book", "7up", "O'Neill"],
)
def test_names_of_any_script_are_accepted(name: str) -> None:
    assert Vocabulary.build([CategorySpec(name)]).categories[0].name == name


@settings(max_examples=300)
@given(st.text(max_size=20))
def test_normalising_twice_changes_nothing(name: str) -> None:
    assert normalize_name(normalize_name(name)) == normalize_name(name)


@pytest.mark.parametrize(
    ("name", "is_thing"),
    [
        ("cup", True),
        ("wall", False),
        ("Brick WALLS", False),
        ("wall-brick", False),
        ("wall clock", True),
        ("grass", False),
        ("green grass", False),
        ("table", False),
        ("dining table", True),
        ("mat", False),
        ("rug", False),
        ("the table", False),
        ("All the walls", False),
        ("the red things", True),
        ("a", True),
        ("t-shirt", True),
        ("-", True),
        ("", True),
    ],
)
def test_guessed_stuff(name: str, is_thing: bool) -> None:
    assert guess_is_thing(name) is is_thing


def test_text_of_too_many_names_is_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr("ovseg_ros.core.vocabulary.words.named_spec", lambda *_: pytest.fail("a name was read"))
    with pytest.raises(VocabularyError, match="has 500000 categories; at most 65535 are accepted"):
        parse_names("x," * 500_000)
    with pytest.raises(VocabularyError, match="has 3 categories; at most 2 are accepted"):
        parse_names("a, ,b,,c,", max_categories=2)


MUG, WALL, RED_MUG = CategorySpec("mug"), CategorySpec("Wall", is_thing=False), CategorySpec("red mug")


def test_new_names_come_last_and_known_ones_are_replaced_where_they_are():
    assert with_added((), ()) == ()
    assert with_added((MUG, WALL), (RED_MUG,)) == (MUG, WALL, RED_MUG)
    negative = CategorySpec(" WALL ", negative=True)
    assert with_added((MUG, WALL, RED_MUG), (negative, CategorySpec("cup"))) == (
        MUG,
        negative,
        RED_MUG,
        CategorySpec("cup"),
    )


def test_names_are_removed_whatever_their_case_and_spacing():
    assert without((MUG, WALL, RED_MUG), ["wall", "Red  Mug"]) == (MUG,)
    assert without((MUG,), []) == (MUG,)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mugg"], "'mugg' is not in the vocabulary; did you mean 'mug'"),
        (["zzz"], "'zzz' is not .*see `ovseg vocabulary show`"),
        (["mug", "mug"], "'mug' is not"),
        (["x" * 10_000], "is not in the vocabulary"),
    ],
)
def test_a_name_that_is_not_there_is_refused(names, message):
    with pytest.raises(VocabularyError, match=message):
        without((MUG, WALL), names)
