"""What a text is that somebody gave as a vocabulary: a bundled one, a file, or names."""

from pathlib import Path

import pytest

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.vocabulary import (
    CategorySpec,
    Vocabulary,
    initial_specs,
    load_vocabulary_file,
    parse_vocabulary,
    saving_path,
)

BUNDLED = config_dir() / "vocabularies"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_words.yaml").write_text("categories: [lorry]")
    (tmp_path / "lorries.yml").write_text("categories: [lorry]")
    (tmp_path / "mug").write_text("no vocabulary")
    (tmp_path / "plate").mkdir()
    return tmp_path


@pytest.mark.parametrize("text", ["indoor_robot", "indoor_robot.yaml", " indoor_robot\n", "'indoor_robot'"])
def test_a_bundled_name_is_that_vocabulary(text: str) -> None:
    specs = load_vocabulary_file(BUNDLED / "indoor_robot.yaml")
    told: list[str] = []
    assert parse_vocabulary(text, tell=told.append) == initial_specs([text], "") == specs
    assert not told


@pytest.mark.parametrize("text", ["my_words.yaml", "my_words", "./my_words.yaml", "lorries", "lorries.yml"])
def test_a_file_that_exists_is_that_file_with_or_without_its_ending(text: str) -> None:
    assert parse_vocabulary(text) == initial_specs([text], "") == initial_specs([""], text) == (CategorySpec("lorry"),)
    assert saving_path(text) in (Path("my_words.yaml"), Path("lorries.yml"))


@pytest.mark.parametrize(
    ("text", "kind"), [("street", "bundled vocabulary street.yaml"), ("lorries", "file lorries.yml")]
)
def test_where_a_word_is_read_as_a_file_that_is_said(text: str, kind: str) -> None:
    told: list[str] = []
    assert len(parse_vocabulary(text, tell=told.append)) != 0
    assert told == [f"'{text}' is read as the {kind}; for the word alone, write '{text},'"]
    assert [spec.name for spec in parse_vocabulary(f"{text},", tell=told.append)] == [text]
    assert len(told) == 1


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("indoor_robots", "'indoor_robot'"),
        ("Indoor_Robot", "'indoor_robot'"),
        ("indoor-robot", "'indoor_robot'"),
        ("IndoorRobot", "'indoor_robot'"),
        ("coco133", "'coco_133'"),
        ("coco", "'coco_133' or 'coco_stuff_171'"),
        ("coco_panoptic", "'coco_133' or 'coco_stuff_171'"),
        ("COCO_80", "'coco_133' or 'coco_stuff_171'"),
        ("coco_stuff", "'coco_stuff_171'"),
        ("ade20k", "'ade20k_150' or 'ade20k_847'"),
        ("lvis_v1", "'lvis_1203'"),
        ("Tabletop", "'tabletop'"),
        ("ware_house", "'warehouse'"),
    ],
)
def test_what_is_nearly_a_bundled_name_is_no_word(text: str, meant: str) -> None:
    with pytest.raises(VocabularyError, match=rf"there is no vocabulary '{text}'; did you mean {meant}\? .*'{text},'"):
        parse_vocabulary(text)
    assert [spec.name for spec in parse_vocabulary(f"{text},")] == [text]


@pytest.mark.parametrize(
    "text", ["traffic_light", "indoor_plant", "table", "red_cube_2", "plate", "dining-table", "e-scooter"]
)
def test_other_words_are_words(text: str) -> None:
    told: list[str] = []
    assert [spec.name for spec in parse_vocabulary(text, tell=told.append)] == [text]
    assert not told


@pytest.mark.parametrize(
    ("text", "meant"), [("cityscape", "cityscapes"), ("indoor robot", "indoor_robot"), ("streets", "street")]
)
def test_a_word_that_is_nearly_a_bundled_name_is_said(text: str, meant: str) -> None:
    told: list[str] = []
    assert [spec.name for spec in parse_vocabulary(text, tell=told.append)] == [text]
    assert told == [f"'{text}' is taken for a word; did you mean the bundled vocabulary '{meant}'?"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.yaml", "'nowhere.yaml' does not exist or is no file, .*; paths start at /.*; correct the path"),
        ("nowhere.json", "does not exist or is no file"),
        ("labels.names", "does not exist or is no file"),
        ("classes.csv", "does not exist or is no file"),
        ("~/nowhere", "does not exist or is no file"),
        ("plate/", "does not exist or is no file"),
        ("sofa/couch", "does not exist or is no file, .*; for the word alone, write 'sofa/couch,'"),
        ("https://example.org/words.yaml", "is a web address; download the file and give its path"),
        ("mug", "'mug' is a file here, but not .yaml, .yml, .json, .txt, .names; for the word alone, write 'mug,'"),
        (
            "indoor_robot, cup",
            "'indoor_robot' is a bundled vocabulary; expected a name; a vocabulary is given as",
        ),
        ("my_words.yaml, cup", "'my_words.yaml' looks like a file"),
        ("  ", "has no names; expected names such as 'cup, table' or a file"),
    ],
)
def test_what_looks_like_a_file_is_no_word(text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        parse_vocabulary(text)


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    assert [spec.name for spec in parse_vocabulary("\ufeffcup, table")] == ["cup", "table"]


def test_a_nodes_parameter_holds_names_or_one_text() -> None:
    cup_and_wall = (CategorySpec("cup"), CategorySpec("wall", is_thing=False))
    assert initial_specs(["cup", "wall"], "") == initial_specs(["cup; wall"], "") == cup_and_wall
    with pytest.raises(VocabularyError, match="'coco_133' is a bundled vocabulary"):
        Vocabulary.build(initial_specs(["coco_133", "cup"], ""))
    told: list[str] = []
    initial_specs(["street"], "", told.append)
    assert "read as the bundled vocabulary" in told[0]
    initial_specs(["Indoor_Robots", "red_cup"], "", told.append)
    assert told[1:] == [
        "'Indoor_Robots' is taken for a word; did you mean the bundled vocabulary 'indoor_robot', alone?"
    ]
