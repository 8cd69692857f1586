"""Adding, replacing and removing entries by name."""

import pytest

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec
from ovseg_ros.core.vocabulary.edit import with_added, without

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
