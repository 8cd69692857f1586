"""Vocabulary files and command lines: found, read, refused with a reason, and saved whole or not at all."""

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.vocabulary import (
    CategorySpec,
    Vocabulary,
    files,
    find_vocabulary,
    initial_specs,
    load_vocabulary_file,
    parse_vocabulary,
    save_vocabulary_file,
    saving_path,
)
from ovseg_ros.core.vocabulary.files import is_saved_file
from ovseg_ros.core.vocabulary.words import MAX_VOCABULARY_BYTES
from ovseg_ros.sim.categories import TABLETOP_SPECS

EXAMPLES = config_dir() / "vocabularies"


def write(folder: Path, text: str | bytes, name: str = "words.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_names_on_the_command_line() -> None:
    assert parse_vocabulary(" red cube,wall , cup,") == (
        CategorySpec("red cube"),
        CategorySpec("wall", is_thing=False),
        CategorySpec("cup"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no names"),
        (" , ,", "has no names"),
        ("cup, pla\x07te", r"name 1 .* U\+0007"),
        ("missing/words.yaml", "missing/words.yaml' does not exist"),
        ("words\x00.yaml", "cannot be read|does not exist"),
        ("x" * 5000 + ".yaml", "cannot be read|does not exist"),
        (None, "the vocabulary is None"),
    ],
)
def test_command_line_text_refused(text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        parse_vocabulary(text)


def test_yaml_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        # what to look for
        categories:
          - cup
          - floor
          - {name: tray, is_thing: false}
          - name: ball
            synonyms: [sphere, orb]
            threshold: 0.25
          - {name: hand, negative: true, threshold: 1}
        """,
    )
    specs = parse_vocabulary(str(path))
    assert specs == (
        CategorySpec("cup"),
        CategorySpec("floor", is_thing=False),
        CategorySpec("tray", is_thing=False),
        CategorySpec("ball", ("sphere", "orb"), threshold=0.25),
        CategorySpec("hand", threshold=1.0, negative=True),
    )
    assert load_vocabulary_file(path) == specs
    assert len(Vocabulary.build(specs).categories) == 5


CUP_AND_WALL = (CategorySpec("cup"), CategorySpec("wall", is_thing=False))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.yaml", "- cup\n- wall\n"),
        ("words.yml", "{0: cup, 1: wall}"),
        ("data.yaml", "path: /data\nnc: 2\nnames:\n  0: cup\n  1: wall\n"),
        ("words.json", '["cup", "wall"]'),
        ("words.json", '{"0": "cup", "1": "wall"}'),
        ("words.json", '{"categories": ["cup", {"name": "wall", "is_thing": false}]}'),
        (
            "cats.json",
            '[{"id": 1, "name": "cup", "supercategory": "kitchen"}, {"id": 2, "name": "wall", "isthing": 0}]',
        ),
        (
            "coco.json",
            '{"images": [], "categories": [{"id": 1, "name": "cup", "isthing": 1}, {"id": 9, "name": "wall"}]}',
        ),
        ("classes.names", "cup\nwall\n"),
        ("words.txt", "- cup\n- wall\n"),
        ("words.txt", "# kitchen\n1. cup\n2. wall\n"),
        ("words.txt", "0\tcup\n1\twall\n"),
        ("words.txt", '"cup"\n"wall"\n'),
    ],
)
def test_lists_of_names_as_others_write_them(tmp_path: Path, name: str, text: str) -> None:
    assert parse_vocabulary(str(write(tmp_path, text, name))) == CUP_AND_WALL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cup]", r"words.json' is not valid JSON: .*line 1"),
        ("3", r"holds 3 \(int\); expected the key 'categories'"),
        ('[{"id": 1, "nam": "cup"}]', r"entry\[0\] has the unknown key 'nam' .*did you mean 'name'"),
        ('{"categories": [{"name": "cup", "id_": 1}]}', "unknown key 'id_'"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_json_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary_file(write(tmp_path, text, "words.json"))


def test_text_file(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfcup\r\n\r\n# stuff\r\n  wall\n", "words.TXT")
    assert load_vocabulary_file(path) == (CategorySpec("cup"), CategorySpec("wall", is_thing=False))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"holds None \(NoneType\); expected the key 'categories'"),
        ("- cup\n- [plate]", r"entry\[1\] is \['plate'\] \(list\); expected a name or a mapping"),
        ("{0: cup, 1: [plate]}", r"value\[1\] is \['plate'\]"),
        ("names: cup", "names holds 'cup'; expected the key 'categories'"),
        (
            'categories: ["screen door, screen"]',
            r"categories\[0\] 'screen door, screen' has a comma; expected one name",
        ),
        ('categories: [{name: cup, synonyms: ["mug; beaker"]}]', r"synonyms\[0\] 'mug; beaker' has a semicolon"),
        ("cup", "holds 'cup'; expected the key"),
        ("categories:", "categories is None"),
        ("categories: cup", "categories is 'cup'; expected a list"),
        ("categories: {cup: 1}", "categories is .*; expected a list"),
        ("categories: []", "has no categories; add at least one"),
        ("category: [cup]", "unknown key 'category' with value .*did you mean 'categories'?"),
        ("categories: [cup]\nversion: 3", r"unknown key 'version' with value 3 \(int\); expected categories"),
        ("categories: [cup]\n7: x", r"unknown key 7 \(int\)"),
        (
            "categories: [cup]\ncategories: [plate]",
            "line 2, column 1 is not valid YAML: key 'categories' appears twice",
        ),
        ("categories: [no]", r"categories\[0\] is False \(bool\); .*put quotes around it"),
        ("categories: [cup, 7]", r"categories\[1\] is 7 \(int\)"),
        ("categories: [cup, null]", r"categories\[1\] is None"),
        ("categories: [[cup]]", r"categories\[0\] is \['cup'\]"),
        ("categories: [2024-01-02]", r"categories\[0\] is datetime"),
        ("categories: [{synonyms: [a]}]", r"categories\[0\] has no 'name'"),
        ("categories: [{}]", r"categories\[0\] has no 'name'"),
        ("categories: [{name: on}]", r"categories\[0\]: name is True \(bool\); expected text; put quotes"),
        (
            "categories: [{name: cup, synonym: [a]}]",
            r"unknown key 'synonym' with value \['a'\].*did you mean 'synonyms'",
        ),
        ("categories: [{name: cup, treshold: 0.5}]", "'treshold' with value 0.5 .*did you mean 'threshold'"),
        ("categories: [{name: cup, Name: b}]", "unknown key 'Name'.*did you mean 'name'"),
        (
            "categories: [{name: cup, synonyms: mug}]",
            r'categories\[0\] \("cup"\): synonyms are \'mug\'; expected a list',
        ),
        ("categories: [{name: cup, synonyms: null}]", "synonyms are None"),
        ("categories: [{name: cup, synonyms: [yes]}]", r"synonyms\[0\] is True"),
        ("categories: [{name: cup, threshold: high}]", "threshold is 'high'; expected a number"),
        ("categories: [{name: cup, threshold: .nan}]", "threshold is nan"),
        ("categories: [{name: cup, threshold: null}]", "threshold is None"),
        ("categories: [{name: cup, is_thing: 1}]", r"is_thing is 1 \(int\); expected true or false"),
        ('categories: [{name: cup, negative: "false"}]', "negative is 'false'; expected true or false"),
        ('categories: ["cup\\u202e"]', r"categories\[0\] .* U\+202E"),
        ('categories: ["cup\\ud800"]', r"U\+D800|not valid YAML"),
        ("categories: [cup", "is not valid YAML"),
        ("categories: [\tcup", "is not valid YAML|has no"),
        ("categories: [!!python/object/apply:os.getcwd []]", "is not valid YAML: could not determine a constructor"),
        ("categories: [2024-13-45]", "is not valid YAML"),
        ("categories: [" + "9" * 10_000 + "]", "is not valid YAML"),
        ("categories: " + "[" * 20_000, "is not valid YAML"),
        ("? [a]\n: b", "is not valid YAML"),
        ("--- \ncategories: [a]\n--- \ncategories: [b]", "is not valid YAML"),
        ("categories: [&a [cup], *a]", r"categories\[0\] is \['cup'\]"),
        (b"categories: [\xff]", "is not UTF-8: byte 0xff at offset 13; save it as UTF-8"),
        (b"categories: [\x00]", "is not valid YAML"),
    ],
)
def test_yaml_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as caught:
        load_vocabulary_file(write(tmp_path, text))
    assert "words.yaml" in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_yaml_bombs_are_refused_at_once(tmp_path: Path) -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 30))
    started = time.perf_counter()
    with pytest.raises(
        VocabularyError, match=r"words.yaml'?, line 7, column \d+ is not valid YAML: there are more than 1000000 values"
    ):
        load_vocabulary_file(write(tmp_path, f"l0: &l0 [lol]\n{levels}categories: [*l29]"))
    with pytest.raises(
        VocabularyError, match="words.yaml'?, line 1, column 13 is not valid YAML: an alias stands inside"
    ):
        load_vocabulary_file(write(tmp_path, "categories: &c [*c]"))
    assert time.perf_counter() - started < 3.0


def test_a_thousand_words_load_quickly(tmp_path: Path) -> None:
    path = write(tmp_path, "categories:\n" + "".join(f"- word {index}\n" for index in range(1000)))
    started = time.perf_counter()
    assert len(load_vocabulary_file(path)) == 1000
    assert time.perf_counter() - started < 3.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n\n", "has no categories"),
        ("cup\nplate, bowl\n", "line 2 'plate, bowl' has a comma; expected one name"),
        ("cup\npl\x08ate\n", r"line 2 .* U\+0008"),
        ("x" * 200, "line 1 .* 200 characters"),
        ("# all\ncup; table", "line 2 'cup; table' has a semicolon"),
        ("1. cup\ntable", "line 1 '1. cup' starts with a number; expected the name alone"),
    ],
)
def test_text_file_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary_file(write(tmp_path, text, "words.txt"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="does not exist or is not a file; check the path"):
        load_vocabulary_file(tmp_path / "absent.yaml")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(VocabularyError, match="is not a file"):
        load_vocabulary_file(folder)
    with pytest.raises(VocabularyError, match=r"ends with '\.csv'; expected \.yaml, \.yml, \.json, \.txt, \.names"):
        load_vocabulary_file(write(tmp_path, "cup", "words.csv"))
    with pytest.raises(VocabularyError, match=f"larger than {MAX_VOCABULARY_BYTES} bytes"):
        load_vocabulary_file(write(tmp_path, b"#" * (MAX_VOCABULARY_BYTES + 1)))


def test_every_bundled_vocabulary_builds() -> None:
    paths = sorted(EXAMPLES.glob("*.yaml"))
    assert EXAMPLES / "tabletop.yaml" in paths
    for path in paths:
        vocabulary = Vocabulary.build(load_vocabulary_file(path))
        assert len(vocabulary.categories) > 1, path


def test_the_bundled_tabletop_vocabulary_is_the_simulators() -> None:
    specs = load_vocabulary_file(EXAMPLES / "tabletop.yaml")
    assert [(spec.name, spec.is_thing) for spec in specs] == [(spec.name, spec.is_thing) for spec in TABLETOP_SPECS]


def test_a_bundled_vocabulary_is_found_by_name_and_a_file_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "street").mkdir()  # no vocabulary
    for name in ("street", "street.yaml"):
        assert find_vocabulary(name) == EXAMPLES / "street.yaml"
        specs = load_vocabulary_file(EXAMPLES / "street.yaml")
        assert parse_vocabulary(f" {name} ") == initial_specs([""], name) == specs
        assert saving_path(name) is None
    assert parse_vocabulary("street,") == (CategorySpec("street", is_thing=False),)
    own = write(tmp_path, "categories: [lorry]", "street.yaml")
    assert find_vocabulary("street") == EXAMPLES / "street.yaml"
    assert find_vocabulary("street.yaml") == saving_path("street.yaml") == Path("street.yaml")
    assert find_vocabulary(str(own)) == own
    assert initial_specs([], "street.yaml") == (CategorySpec("lorry"),)


@pytest.mark.parametrize("source", ["robots", "robots.yaml", "a/street", "~nobody-here/words.yaml", "x" * 5000, "\0"])
def test_what_is_not_there_is_said_with_the_names_that_are(source):
    message = r"does not exist or is no file, nor has .*vocabularies one of that name .*street, tabletop"
    with pytest.raises(VocabularyError, match=message) as caught:
        find_vocabulary(source)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("source", ["steet.yaml", "street.yml", "indoor_robt", "Indoor Robot", "coco.json"])
def test_a_bundled_vocabulary_that_is_misspelt_is_named(source):
    with pytest.raises(
        VocabularyError, match=r"does not exist; did you mean '(street|indoor_robot|coco_133' or 'coco_stuff_171)'\?"
    ):
        find_vocabulary(source)


def test_names_in_place_of_a_file_are_said_to_be_names():
    with pytest.raises(
        VocabularyError, match="'cup, table' is a list of names; expected one file; .* parameter vocabulary"
    ):
        initial_specs([""], "cup, table")


def test_a_node_starts_with_what_was_saved_else_its_names_else_the_file(tmp_path):
    path = tmp_path / "words.yaml"
    assert saving_path(str(path)) == path and saving_path("words.txt") is saving_path("") is None
    assert initial_specs(["cup", " "], str(path)) == (CategorySpec("cup"),)
    write(tmp_path, "categories: [mine]")
    assert initial_specs(["cup"], str(path)) == (CategorySpec("cup"),)
    assert initial_specs([], str(path)) == (CategorySpec("mine"),)
    save_vocabulary_file(path, [CategorySpec("saved")])
    assert initial_specs(["cup"], str(path)) == (CategorySpec("saved"),)
    with pytest.raises(VocabularyError, match="set the parameter vocabulary or vocabulary_file"):
        initial_specs([""], "")


# Saving

MUG = (CategorySpec("mug", ("cup",), is_thing=True, threshold=0.25), CategorySpec("wall", is_thing=False))

names = st.text(min_size=1, max_size=30)


@given(st.lists(st.builds(CategorySpec, names, st.lists(names, max_size=2).map(tuple), st.booleans(), st.floats(0, 1))))
def test_whatever_is_accepted_comes_back(tmp_path_factory, specs):
    try:
        vocabulary = Vocabulary.build(specs)
    except VocabularyError:
        return
    accepted = [
        CategorySpec(entry.name, entry.synonyms, entry.is_thing, entry.threshold, entry.negative)
        for entry in vocabulary.categories
    ]
    path = tmp_path_factory.mktemp("vocabulary") / "words.yaml"
    save_vocabulary_file(path, accepted)
    assert list(load_vocabulary_file(path)) == accepted


def test_what_looks_like_yaml_stays_text(tmp_path):
    specs = tuple(CategorySpec(name) for name in ("true", "null", "1.5", "a - b", "a: b", "#1", "ß", "杯子", "🙂"))
    save_vocabulary_file(tmp_path / "deep" / "words.yaml", specs)
    assert load_vocabulary_file(tmp_path / "deep" / "words.yaml") == specs


def test_a_persons_file_is_kept_once(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("categories: [mine]  # a comment\n")
    assert not is_saved_file(path)
    save_vocabulary_file(path, MUG)
    save_vocabulary_file(path, MUG[:1])
    assert is_saved_file(path)
    assert load_vocabulary_file(path) == MUG[:1]
    assert (tmp_path / "words.orig.yaml").read_text() == "categories: [mine]  # a comment\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["words.orig.yaml", "words.yaml"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "words.yaml"
    save_vocabulary_file(path, MUG)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = files.os if failing == "fsync" else type(path)
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(VocabularyError, match=r"could not be saved to .*words.yaml: No space left on device; the old"):
        save_vocabulary_file(path, MUG[:1])
    monkeypatch.undo()
    assert load_vocabulary_file(path) == MUG
    assert [file.name for file in tmp_path.iterdir()] == ["words.yaml"]


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "words.yaml").mkdir()
    with pytest.raises(VocabularyError, match=r"words.yaml"):
        save_vocabulary_file(tmp_path / "words.yaml", MUG)
    assert [file.name for file in tmp_path.iterdir()] == ["words.yaml"]


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(VocabularyError, match=r"could not be saved to .*words.yaml: .*; the old file is as it was"):
        save_vocabulary_file(tmp_path / "folder" / "words.yaml", MUG)
    assert (tmp_path / "folder").read_text() == "a file"
