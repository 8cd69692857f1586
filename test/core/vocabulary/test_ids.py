"""Vocabularies: what is refused and why, stable ids and colours."""

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary import (
    MONO8_NO_CATEGORY,
    CategorySpec,
    Vocabulary,
    color_of_name,
    normalize_name,
    parse_vocabulary,
)
from ovseg_ros.core.vocabulary.words import MAX_NAME_LENGTH, MAX_SYNONYMS


def build(*names: str, previous: Vocabulary | None = None) -> Vocabulary:
    return Vocabulary.build([CategorySpec(name) for name in names], previous=previous)


def test_one_category() -> None:
    vocabulary = build("  red \u00a0 Cube ")
    (category,) = vocabulary.categories
    assert (category.id, category.name, category.synonyms, category.is_thing) == (0, "red Cube", (), True)
    assert (category.threshold, category.negative, vocabulary.version) == (0.0, False, 1)


def test_every_field_arrives() -> None:
    spec = CategorySpec("wall", ("brick wall", "partition"), is_thing=False, threshold=0.25, negative=True)
    vocabulary = Vocabulary.build([spec, CategorySpec("cup")])
    wall = vocabulary.categories[0]
    assert wall.synonyms == ("brick wall", "partition")
    assert (wall.is_thing, wall.threshold, wall.negative) == (False, 0.25, True)
    assert vocabulary.to_specs() == (spec, CategorySpec("cup"))


def test_message_types_are_accepted() -> None:
    spec = CategorySpec("cup", ["mug"], threshold=np.float32(0.5))  # type: ignore[arg-type]
    (category,) = Vocabulary.build([spec]).categories
    assert category.synonyms == ("mug",)
    assert type(category.threshold) is float


def test_a_synonym_equal_to_the_name_or_another_is_dropped() -> None:
    (category,) = Vocabulary.build([CategorySpec("Cup", ("CUP", "mug", " Mug "))]).categories
    assert category.synonyms == ("mug",)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "no categories; give at least one"),
        ("cup", "specs are 'cup'; expected a list"),
        (None, "specs are None"),
        (["cup"], "category 0 is 'cup'; expected a CategorySpec"),
        ([CategorySpec("")], "category 0: name '' is empty"),
        ([CategorySpec("cup"), CategorySpec(" \u3000 ")], "category 1: name .* is empty"),
        ([CategorySpec("\u200d")], "is empty"),
        ([CategorySpec(None)], r"name is None \(NoneType\); expected text"),  # type: ignore[arg-type]
        ([CategorySpec(7)], r"name is 7 \(int\); expected text; put quotes"),  # type: ignore[arg-type]
        ([CategorySpec("x" * 101)], "has 101 characters; at most 100"),
        ([CategorySpec("cup", ("x" * 101,))], r'category 0 \("cup"\): synonyms\[0\] .* 101 characters'),
        ([CategorySpec("cup", ("",))], r"synonyms\[0\] '' is empty"),
        ([CategorySpec("cup", "mug")], "synonyms are 'mug'; expected a list"),  # type: ignore[arg-type]
        ([CategorySpec("cup", (3,))], r"synonyms\[0\] is 3"),  # type: ignore[arg-type]
        ([CategorySpec("cup", ("mug",) * (MAX_SYNONYMS + 1))], "101 synonyms; at most 100"),
        ([CategorySpec("cu\x00p")], r"control character U\+0000 at position 2; remove it"),
        ([CategorySpec("cup\n")], r"control character U\+000A at position 3"),
        ([CategorySpec("\u202epuc")], r"invisible format character U\+202E at position 0"),
        ([CategorySpec("cu\u2066p")], r"U\+2066"),
        ([CategorySpec("cu\u200bp")], r"U\+200B"),
        ([CategorySpec("cu\ufeffp")], r"U\+FEFF"),
        ([CategorySpec("cup\ud800")], r"lone surrogate U\+D800 at position 3"),
        ([CategorySpec("cu\u2028p")], r"line separator U\+2028"),
        ([CategorySpec("cup", ("m\x1bug",))], r"synonyms\[0\] .* U\+001B"),
        ([CategorySpec("cup", negative=True)], "all 1 categories are negative"),
        ([CategorySpec("cup", is_thing=1)], r"is_thing is 1 \(int\); expected true or false"),  # type: ignore[arg-type]
        ([CategorySpec("cup", negative="no")], "negative is 'no'; expected true or false"),  # type: ignore[arg-type]
        ([CategorySpec("cup", threshold=1.5)], r"threshold is 1.5 \(float\); expected a number from 0 to 1"),
        ([CategorySpec("cup", threshold=-0.1)], "threshold is -0.1"),
        ([CategorySpec("cup", threshold=math.nan)], "threshold is nan"),
        ([CategorySpec("cup", threshold=math.inf)], "threshold is inf"),
        ([CategorySpec("cup", threshold=True)], "threshold is True"),
        ([CategorySpec("cup", threshold="0.5")], "threshold is '0.5'"),  # type: ignore[arg-type]
        (
            [CategorySpec("cup"), CategorySpec(" CUP")],
            r'category 1 \("CUP"\): \'CUP\' is already .* category 0 \("cup"\)',
        ),
        ([CategorySpec("cup", ("mug",)), CategorySpec("Mug")], "'Mug' is already"),
        ([CategorySpec("cup"), CategorySpec("mug", ("Cup",))], "'Cup' is already"),
        ([CategorySpec("cup", ("vessel",)), CategorySpec("bowl", ("vessel",))], "'vessel' is already"),
        ([CategorySpec("caf\u00e9"), CategorySpec("cafe\u0301")], "is already"),
        ([CategorySpec("\ufb01sh"), CategorySpec("fish")], "is already"),
        ([CategorySpec("stra\u00dfe"), CategorySpec("STRASSE")], "is already"),
        ([CategorySpec("cup"), CategorySpec("c\u200dup")], "is already"),
    ],
)
def test_refused(specs: list[CategorySpec], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.build(specs)


def test_longest_name_and_most_categories_are_accepted() -> None:
    assert len(build("x" * MAX_NAME_LENGTH).categories) == 1
    specs = [CategorySpec(f"word {index}") for index in range(3)]
    assert len(Vocabulary.build(specs, max_categories=3).categories) == 3
    with pytest.raises(VocabularyError, match="has 3 categories; at most 2 are accepted"):
        Vocabulary.build(specs, max_categories=2)


def test_hostile_input_is_refused_at_once() -> None:
    huge = "\u0958" * 10_000_000  # NFKC would lengthen it
    started = time.perf_counter()
    for spec in (CategorySpec(huge), CategorySpec("cup", (huge,)), CategorySpec("cup", threshold=huge)):  # type: ignore[arg-type]
        with pytest.raises(VocabularyError) as caught:
            Vocabulary.build([spec])
        assert len(str(caught.value)) < 500
    with pytest.raises(VocabularyError, match="10000 categories"):
        Vocabulary.build([CategorySpec(huge)] * 10_000)
    with pytest.raises(VocabularyError):
        parse_vocabulary(huge)
    with pytest.raises(VocabularyError):
        parse_vocabulary("a," * 10_000_000)
    assert time.perf_counter() - started < 2.0


def test_ten_thousand_words_are_quick() -> None:
    started = time.perf_counter()
    vocabulary = Vocabulary.build([CategorySpec(f"mot n\u00ba {i}") for i in range(10_000)], max_categories=10_000)
    assert len(vocabulary.categories) == 10_000
    assert time.perf_counter() - started < 3.0


def test_ids_stay_with_their_names_and_are_never_reused() -> None:
    first = build("cup", "plate", "bowl")
    second = build("vase", "Plate", previous=first)
    third = build("cup", "spoon", "vase", previous=second)
    assert [category.id for category in first.categories] == [0, 1, 2]
    assert [category.id for category in second.categories] == [3, 1]
    assert [category.id for category in third.categories] == [0, 4, 3]
    assert [first.version, second.version, third.version] == [1, 2, 3]
    assert third.assigned_ids == {"cup": 0, "plate": 1, "bowl": 2, "vase": 3, "spoon": 4}


def test_a_refused_change_leaves_the_previous_vocabulary_as_it_was() -> None:
    first = build("cup")
    with pytest.raises(VocabularyError):
        build("plate", "PLATE", previous=first)
    assert first.assigned_ids == {"cup": 0}
    assert build("bowl", previous=first).categories[0].id == 1


def test_ids_run_out_with_a_reason() -> None:
    full = Vocabulary(build("last").categories, 9, {f"word {index}": index for index in range(65_534)})
    last = build("last", previous=full)
    assert last.categories[0].id == 65_534
    with pytest.raises(VocabularyError, match="all 65535 category ids have been given out"):
        build("one more", previous=last)
    assert build("word 7", previous=last).categories[0].id == 7


words = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=6, unique=True)


@given(st.lists(words, min_size=1, max_size=8))
def test_ids_are_stable_under_any_edits(edits: list[list[str]]) -> None:
    vocabulary = None
    known: dict[str, int] = {}
    for names in edits:
        vocabulary = build(*names, previous=vocabulary)
        ids = {category.name: category.id for category in vocabulary.categories}
        assert all(known.get(name, category_id) == category_id for name, category_id in ids.items())
        known |= ids
    assert sorted(known.values()) == list(range(len(known)))


def fitted(specs: list[CategorySpec], previous: Vocabulary | None = None) -> Vocabulary:
    return Vocabulary.build(specs, previous=previous, fit_mono8=True)


def names(first: int, last: int, *, negative: bool = False) -> list[CategorySpec]:
    return [CategorySpec(f"word {index}", negative=negative) for index in range(first, last)]


def test_mono8_gives_an_id_again_only_when_all_are_used_up_and_the_longest_gone_first() -> None:
    first = fitted(names(0, 100))
    second = fitted(names(50, 200), first)
    third = fitted(names(150, 255), second)  # the last id that was never given
    assert [category.id for category in third.categories] == list(range(150, 255))
    assert second.reused_ids(first) == third.reused_ids(second) == {}
    back = fitted([*names(10, 12), *names(200, 255)], third)  # gone and back, still with their ids
    assert [category.id for category in back.categories] == [10, 11, *range(200, 255)] and not back.reused_ids(third)

    fourth = fitted([CategorySpec("Mug"), *names(200, 255), CategorySpec("vase")], back)
    assert [category.id for category in fourth.categories] == [0, *range(200, 255), 1]
    assert fourth.reused_ids(back) == {0: ("word 0", "Mug"), 1: ("word 1", "vase")}
    assert "word 0" not in fourth.assigned_ids and fourth.assigned_ids["mug"] == 0
    # 2 to 9 went in version 2, 12 to 49 too; 10 and 11 only now.
    fifth = fitted([CategorySpec(f"new {index}") for index in range(48)], fourth)
    assert [category.id for category in fifth.categories] == [*range(2, 10), *range(12, 50), 50, 51]


def test_mono8_refuses_more_published_categories_than_there_are_ids() -> None:
    full = fitted([*names(0, 255), *names(1000, 1400, negative=True)])
    assert [category.id for category in full.categories[:255]] == list(range(255))
    assert min(category.id for category in full.categories[255:]) == MONO8_NO_CATEGORY
    assert full.highest_published_id == 254
    with pytest.raises(VocabularyError, match=r"257 categories that are published.* 255 .*remove 2 of them or make"):
        fitted(names(100, 357), full)
    assert fitted(names(0, 1), full).categories[0].id == 0
    # Whoever becomes negative makes room, and whoever no longer is needs some.
    turned = fitted([*names(0, 1, negative=True), *names(1, 255), *names(1000, 1001)], full)
    ids = {category.name: category.id for category in turned.categories}
    assert ids["word 1000"] == 0 and ids["word 0"] >= MONO8_NO_CATEGORY
    assert turned.reused_ids(full) == {0: ("word 0", "word 1000")}


flags = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 300), st.booleans()), min_size=1, max_size=6)


@given(flags)
def test_ids_in_mono8_are_below_255_and_stay_while_they_can(edits: list[tuple[int, int, bool]]) -> None:
    vocabulary = None
    for first, count, with_negatives in edits:
        negatives = names(first + count, first + count + 5, negative=True) if with_negatives else []
        try:
            following = fitted([*names(first, first + count), *negatives], vocabulary)
        except VocabularyError:
            assert count > MONO8_NO_CATEGORY
            continue
        ids = {category.name: category.id for category in following.categories}
        assert len(set(ids.values())) == len(ids) and following.highest_published_id < MONO8_NO_CATEGORY
        assert following.assigned_ids.items() >= ids.items()
        assert len(set(following.assigned_ids.values())) == len(following.assigned_ids)
        if vocabulary:
            published = {c.name: c.id for c in vocabulary.categories if not c.negative}
            assert all(
                ids[name] == id_
                for name, id_ in published.items()
                if name in ids and name not in {spec.name for spec in negatives}
            )
            if reused := following.reused_ids(vocabulary):
                low = {id_ for id_ in vocabulary.assigned_ids.values() if id_ < MONO8_NO_CATEGORY}
                assert low | set(ids.values()) >= set(range(MONO8_NO_CATEGORY))  # not before all were given
                assert all(
                    ids[now] == id_ and following.assigned_ids.get(before) != id_
                    for id_, (before, now) in reused.items()
                )
        vocabulary = following


@given(st.text(max_size=40))
def test_a_name_is_refused_or_comes_back_normal(name: str) -> None:
    try:
        (category,) = build(name).categories
    except VocabularyError as error:
        assert "\n" not in str(error)
        str(error).encode()  # a message can always be printed
        return
    assert category.name == category.name.strip() != ""
    assert normalize_name(category.name) == normalize_name(name)
    assert build(category.name).categories == (category,)


def test_colors_are_the_same_in_every_process() -> None:
    program = "from ovseg_ros.core.vocabulary import color_of_name; print(color_of_name('red cube'))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{color_of_name('red cube')}\n"}
    assert color_of_name(" RED  cube") == color_of_name("red cube")


def test_colors_are_bright_saturated_and_varied() -> None:
    colors = np.array([color_of_name(f"word {index}") for index in range(2000)])
    assert colors.min() >= 0
    assert colors.max() <= 255
    luma = colors @ (0.299, 0.587, 0.114)
    assert luma.min() >= 88
    assert (colors.max(axis=1) - colors.min(axis=1)).min() >= 80
    assert len({tuple(color) for color in colors.tolist()}) > 1990


def test_a_vocabulary_cannot_be_changed_but_can_be_copied() -> None:
    vocabulary = build("cup", "plate")
    with pytest.raises(TypeError):
        vocabulary.assigned_ids["bowl"] = 2  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        vocabulary.version = 2  # type: ignore[misc]
    for twin in (pickle.loads(pickle.dumps(vocabulary)), copy.deepcopy(vocabulary)):
        assert twin == vocabulary
        assert hash(twin) == hash(vocabulary)


def test_traits_follow_the_categories() -> None:
    vocabulary = Vocabulary.build(
        [CategorySpec("wall", is_thing=False, threshold=0.5), CategorySpec("hand", negative=True)],
        previous=build("cup"),
    )
    assert vocabulary.traits.dtype == np.float32
    assert vocabulary.traits.tolist() == [[0.5, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 2.0]]
