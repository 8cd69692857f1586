"""A saved vocabulary comes back as it was, and a failed save leaves what was there."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, load_vocabulary_file
from ovseg_ros.core.vocabulary import saving as vocabulary_file
from ovseg_ros.core.vocabulary.saving import is_saved_file, save_vocabulary_file

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
    specs = tuple(
        CategorySpec(name) for name in ("true", "null", "1.5", "- a", "a: b", "#1", "'", '"', "ß", "杯子", "🙂")
    )
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

    owner = vocabulary_file.os if failing == "fsync" else type(path)
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
