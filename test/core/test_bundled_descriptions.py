"""The descriptions in config/descriptions: whole, honest about their author, within the limits, free of other names."""

import re
from functools import cache
from typing import Any

import pytest
import yaml

from ovseg_ros.core.resources import bundled_vocabularies, config_dir
from ovseg_ros.core.vocabulary import load_vocabulary_file, normalize_name
from ovseg_ros.sim import categories

NAMES = (
    "ade20k_150",
    "cityscapes",
    "coco_133",
    "coco_stuff_171",
    "indoor_robot",
    "street",
    "tabletop",
    "warehouse",
)
ATTRIBUTES = ("color", "shape", "texture")
MOST_PHRASES = 4
MOST_WORDS = 8
PHRASE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9' -]*[A-Za-z0-9])?")
NEGATION = re.compile(r"\b(no|not|non|none|never|without|lack|lacks|lacking|absent)\b|\w(less|-free)\b")


@cache
def words_of(name: str) -> dict[str, dict[str, Any]]:
    document = yaml.safe_load((config_dir() / "descriptions" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert list(document) == ["format", "words"]
    assert document["format"] == 1
    return document["words"]


def phrases_of(entry: dict[str, Any]) -> list[str]:
    return [phrase for attribute in ATTRIBUTES for phrase in entry[attribute]]


def names_in(names: list[str], phrase: str) -> list[str]:
    """Those of the names that stand in the phrase as whole words."""
    return re.findall(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])", phrase.casefold())


def test_the_bundled_files_are_these() -> None:
    assert sorted(path.name for path in (config_dir() / "descriptions").iterdir()) == [f"{name}.yaml" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_every_category_is_described_in_the_vocabularys_order(name: str) -> None:
    expected = [normalize_name(spec.name) for spec in load_vocabulary_file(bundled_vocabularies()[name])]
    assert list(words_of(name)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_no_entry_claims_that_a_person_wrote_or_read_it(name: str) -> None:
    # When a person has reviewed some, this becomes: those that are not reviewed name their author.
    for word, entry in words_of(name).items():
        assert (entry["by"], entry["reviewed"]) == ("a language model, for this package", False), word


@pytest.mark.parametrize("name", NAMES)
def test_phrases_keep_the_limits(name: str) -> None:
    for word, entry in words_of(name).items():
        assert set(entry) - {"sense"} == {*ATTRIBUTES, "by", "reviewed"}, word
        for attribute in ATTRIBUTES:
            assert 1 <= len(entry[attribute]) == len(set(entry[attribute])) <= MOST_PHRASES, (word, attribute)
        for phrase in (*phrases_of(entry), entry.get("sense", "a")):
            assert PHRASE.fullmatch(phrase), (word, phrase)
            assert len(phrase.split()) <= MOST_WORDS, (word, phrase)
            assert not NEGATION.search(phrase), (word, phrase)  # a text encoder reads past a "no"


@pytest.mark.parametrize("name", NAMES)
def test_no_phrase_names_a_category(name: str) -> None:
    # "bowl-shaped" would draw a cup's sentence towards another word that is asked for.
    words = list(words_of(name))
    found = {word: names_in(words, " . ".join(phrases_of(entry))) for word, entry in words_of(name).items()}
    assert {word: names for word, names in found.items() if names} == {}


def test_a_word_has_one_description_for_each_sense() -> None:
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for name in NAMES:
        for word, entry in words_of(name).items():
            assert first.setdefault((word, entry.get("sense", "")), entry) == entry, (name, word)


def test_the_tabletops_sentences_fit_its_text_encoder_and_hold_no_held_out_word() -> None:
    # It cuts at 32 tokens. Training texts hold no held-out synonym, and descriptions are training texts.
    held_out = [word.held_out for word in categories.WORDS.values()]
    for word, entry in words_of("tabletop").items():
        phrases = phrases_of(entry)
        assert all(len(phrase.split()) <= 4 for phrase in phrases), word
        assert names_in(held_out, " . ".join(phrases)) == []
