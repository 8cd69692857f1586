"""Lists of names as people type and paste them."""
# ruff: noqa: RUF001 - look-alikes of commas and quotes are what is tested

from contextlib import suppress

import pytest

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, parse_names, split_names


def names_of(text: str) -> list[str]:
    return [spec.name for spec in parse_names(text)]


@pytest.mark.parametrize(
    "text",
    [
        "cup, table",
        "cup,,table,",
        "cup; table",
        "cup;table;",
        "cup . table .",
        "cup. table.",
        "cup, table.",
        "cup | table",
        "| cup | table |",
        "cup\ttable",
        "cup / table",
        "cup • table",
        "cup\ntable\n",
        "cup\r\ntable",
        "cup,\ntable",
        "# kitchen\ncup\n\n# rest\ntable",
        "- cup\n- table",
        "* cup\n* table",
        "categories:\n- cup\n- table",
        "- cup - table",
        "- cup, - table",
        "• cup • table",
        "1. cup 2. table",
        "1. cup\n2. table",
        "1) cup; 2) table",
        "0: cup, 1: table",
        "1\tcup\n3\ttable",
        "['cup', 'table']",
        '["cup", "table"]',
        '[\n  "cup",\n  "table"\n]',
        "[“cup”, “table”]",
        "('cup', 'table')",
        "{'cup', 'table'}",
        "{0: cup, 1: 'table'}",
        '{"0": "cup", "1": "table"}',
        "names: [cup, table]",
        "classes = ['cup', 'table']",
        '"cup" "table"',
        '"cup", "table"',
        '"cup, table"',
        "‘cup’, ‘table’",
        "«cup» «table»",
        "cup, and table",
        "cup, table, etc.",
        "cup · table",
        "0 cup\n1 table",
        "1 cup, 2 table",
        "cup ¦ table",
    ],
)
def test_two_names_however_they_are_listed(text: str) -> None:
    assert names_of(text) == ["cup", "table"]


@pytest.mark.parametrize(
    "text",
    ["椅子，桌子", "椅子、桌子", "椅子；桌子", "椅子。桌子。", "椅子｜桌子", "「椅子」「桌子」", "【椅子，桌子】"],
)
def test_full_width_separators(text: str) -> None:
    assert names_of(text) == ["椅子", "桌子"]


@pytest.mark.parametrize(
    "text",
    [
        "St. Bernard",
        "T-shirt",
        "col·lector",
        "コーヒー・カップ",
        "2 cups",
        "café",
        "carpenter's saw",
        "salt and pepper",
        "'90s car",
        '12" ruler',
        "16:9 monitor",
        "bow (weapon)",
        "wiper (for windshield/screen)",
        "7up",
        "C++ book",
        "Lane Marking - Crosswalk",
        "1.5 l bottle",
        "traffic_light",
    ],
)
def test_one_name_with_signs_in_it(text: str) -> None:
    assert names_of(text) == [text]
    assert names_of(f"{text}, cup") == [text, "cup"]
    assert Vocabulary.build([CategorySpec(text)]).categories[0].name == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cup; red, blue", "'cup; red, blue' has a comma and a semicolon; expected one of them, as in 'cup, table'"),
        ("cup | table, chair", "a comma and a bar"),
        ("cup, mug\ntable", "name 0 'cup, mug' has a comma"),
        ("categories:\n  - name: cup\n    is_thing: true", "is data; save it as a .yaml file and give its path"),
        ("cup:table", "'cup:table' has a ':'"),
        ("cup # mine", "has a '#'; expected the name alone"),
        ("cup 0.5, table 0.3", "'cup 0.5' ends with a number"),
        ("+cup, -hand", "'\\+cup' starts with a sign"),
        ("cup：table", "'cup：table' has a '：'"),
        ("**cup**, **table**", r"has an asterisk; .* without marks"),
        ("1:person,child", "'person,child' has a comma"),
        ("1. cup, table, 2. wall", "'cup, table' has a comma"),
        ('"cup, mug", table', "name 0 '\"cup' starts with a quote"),
        ("[cup, table", r"name 0 '\[cup' has a bracket"),
        ("array(['cup', 'table'], dtype=object)", "has a '='"),
        ("cup (red, blue), table", "has a bracket without its partner"),
        ('[{"id": 1, "name": "cup"}]', "is data; save it as a .json file"),
        ('{"categories": [{"name": "cup"}]}', "is data; save it as a .json file"),
        ("cup:0.5, table", "'cup:0.5' ends with a number; expected the name alone; a threshold is a key in a YAML"),
        ("person=1", "has a '='"),
        ("kitchen: cup, table", "'kitchen: cup' has a ':'; expected the name alone"),
        ("#cup", "'#cup' has a '#'; expected the name alone"),
        ("cup=table", "'cup=table' has a '='"),
        ("cup\\ntable", "has a backslash"),
        ("<cup>", "has a bracket"),
        ("-", "name 0 '-' has no letters"),
        ("cup, !!", "name 1 '!!' has no letters"),
        ("cup, words.yaml", "name 1 'words.yaml' looks like a file; .* a file is given as a text of its own"),
        ("cup, https://example.org/words", "looks like a file"),
        ("cup.table.wall", "has a full stop between two words"),
        ("cup\u200b, table", r"invisible format character U\+200B at position 3; remove it"),
        ("# nothing\n# at all", "has no names"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as caught:
        parse_names(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cup, table", "a comma"),
        ("椅子，桌子", "a comma"),
        ("cup; table", "a semicolon"),
        ("cup | table", "a bar"),
        ("cup . table", "a full stop"),
        ("cup / table", "a slash between spaces"),
        ("['cup']", "a bracket"),
        ("(cup)", "a bracket"),
        ('"cup"', "a quote"),
        ("1. cup", "starts with a number"),
        ("cup: 1", "ends with a number"),
        ("/tmp/words", "looks like a file"),
        ("words.JSON", "looks like a file"),
    ],
)
def test_one_rule_for_names_wherever_they_come_from(name: str, message: str) -> None:
    for spec in (CategorySpec(name), CategorySpec("wall", (name,))):
        with pytest.raises(VocabularyError, match=f"{message}.*; expected "):
            Vocabulary.build([spec])


def test_a_name_of_several_words_may_have_been_a_list() -> None:
    told: list[str] = []
    parse_names("red cup", tell=told.append)
    parse_names("cup, table, wall", tell=told.append)
    parse_names("the red things", tell=told.append)
    parse_names("all the cups", tell=told.append)
    assert not told
    parse_names("cup table wall", tell=told.append)
    parse_names("cup & table", tell=told.append)
    assert told == [
        f"'{words}' is one name of several words; several names are separated by commas"
        for words in ("cup table wall", "cup & table")
    ]


@pytest.mark.parametrize(
    "piece", [",", " ", "\n", "'", "[", ". ", "1. ", "1. a ", "a . ", "a\n", '"a" ', "a / ", "x, ", "“"]
)
def test_a_mebibyte_of_anything_is_taken_apart(piece: str) -> None:
    with suppress(VocabularyError):  # a pattern that goes back and forth would take days
        split_names(piece * ((1 << 20) // len(piece)))
