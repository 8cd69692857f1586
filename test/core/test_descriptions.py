"""Descriptions files: what is read, what is refused and how, and that a changed file counts at once."""

import hashlib
import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from tiny_lmseg import write_tiny_lmseg

from ovseg_ros.core.build import build_classifier, load_clip
from ovseg_ros.core.classification.ensemble import EnsembleConfig
from ovseg_ros.core.classification.pooled import PooledClassifier
from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.descriptions import (
    ATTRIBUTES,
    Description,
    DescriptionFiles,
    Descriptions,
    DescriptionsConfig,
    parse_descriptions,
)
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import PresetFolder, description_paths, preset_path, two_stage
from ovseg_ros.core.sections import PooledSection
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

MUG = """\
format: 1
words:
  Red_Mug:
    sense: drinking vessel
    color: [white  or glazed, "80's red", café-brown]
    shape: [short cylinder with side handle]
    texture: [smooth ceramic, matte]
    by: a language model, unread
  "no": {texture: [rough]}
  plate: {sense: dish, color: [], shape: [], texture: [], by: "", reviewed: false}
"""


def of(words: str, form: str = "format: 1\nwords:\n  ") -> bytes:
    return (form + words).encode()


def files(folder: Path, *contents: str, **options: object) -> DescriptionFiles:
    paths = [folder / f"{index}.yaml" for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    config = from_mapping(DescriptionsConfig, {"files": [path.name for path in paths], **options}, "preset")
    return DescriptionFiles(config, paths)


def test_a_file_is_read_by_normalised_words() -> None:
    words = parse_descriptions(MUG.encode(), "mugs.yaml")
    assert list(words) == ["red mug", "no", "plate"]
    assert words["red mug"] == Description(
        sense="drinking vessel",
        color=("white or glazed", "80's red", "café-brown"),
        shape=("short cylinder with side handle",),
        texture=("smooth ceramic", "matte"),
        by="a language model, unread",
    )
    assert not words["no"].is_blank and words["plate"].is_blank


def test_short_lists_begin_again_in_sentences_made_by_hand(tmp_path: Path) -> None:
    current = files(tmp_path, MUG).current()
    assert current.sentences("red mug") == (
        "a photo of a red mug, white or glazed, short cylinder with side handle, smooth ceramic",
        "a photo of a red mug, 80's red, short cylinder with side handle, matte",
        "a photo of a red mug, café-brown, short cylinder with side handle, smooth ceramic",
    )
    assert current.sentences("RED_mug")[0].startswith("a photo of a RED mug, white")
    assert current.sentences("no") == ("a photo of a no, rough",)
    assert current.sentences("plate") == current.sentences("cup") == ()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (["color"], ["white or glazed", "80's red", "café-brown"]),
        (
            ["texture", "shape"],
            [f"short cylinder with side handle, {texture}" for texture in ("smooth ceramic", "matte")],
        ),
    ],
)
def test_attributes_that_nobody_asks_for_are_left_out(
    tmp_path: Path, attributes: list[str], expected: list[str]
) -> None:
    current = files(tmp_path, MUG, attributes=attributes).current()
    assert current.sentences("red mug") == tuple(f"a photo of a red mug, {rest}" for rest in expected)
    assert bool(current.sentences("no")) == ("texture" in attributes)


def test_the_first_file_that_describes_a_word_counts(tmp_path: Path) -> None:
    blank = "format: 1\nwords: {cup: {}, jar: {color: [green]}}"
    other = "format: 1\nwords: {CUP: {shape: [round]}, jar: {color: [brown], shape: [tall]}}"
    current = files(tmp_path, blank, other).current()
    assert current.sentences("cup") == ("a photo of a cup, round",)
    assert current.sentences("jar") == ("a photo of a jar, green",)
    words = Vocabulary.build([CategorySpec("cup", ("beaker",)), CategorySpec("jar")])
    digests = [hashlib.sha256(content.encode()).hexdigest()[:8] for content in (blank, other)]
    assert current.remark(words) == (
        "vocabulary 1: 2 of 3 names and synonyms are described, by "
        f"0.yaml (SHA-256 {digests[0]}), 1.yaml (SHA-256 {digests[1]})"
    )


def test_a_changed_file_counts_at_once_and_an_unchanged_one_is_not_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counted(content: bytes, where: str) -> dict[str, Description]:
        parsed.append(Path(where).name)
        return parse_descriptions(content, where)

    monkeypatch.setattr("ovseg_ros.core.descriptions.parse_descriptions", counted)
    described = files(tmp_path, MUG, "format: 1\nwords: {cup: {color: [red]}}")
    before = described.current()
    assert described.current().files == before.files and parsed == ["0.yaml", "1.yaml"]
    changed = tmp_path / "1.yaml"
    at = changed.stat()
    changed.write_text("format: 1\nwords: {cup: {color: [tan]}}", encoding="utf-8")
    os.utime(changed, ns=(at.st_atime_ns, at.st_mtime_ns))  # of the same size and time: the content alone counts
    after = described.current()
    assert after.sentences("cup") == ("a photo of a cup, tan",) and parsed == ["0.yaml", "1.yaml", "1.yaml"]
    assert before.sentences("cup") == ("a photo of a cup, red",) and before.files != after.files


def test_a_file_that_vanished_or_broke_is_said_and_counts_again_once_it_is_repaired(tmp_path: Path) -> None:
    described = files(tmp_path, MUG)
    described.current()
    path = tmp_path / "0.yaml"
    path.unlink()
    with pytest.raises(ConfigError, match=f"cannot read the descriptions {path}: No such file or directory; restore"):
        described.current()
    path.write_text("words: {}", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{path}: missing format"):
        described.current()
    path.write_text(MUG, encoding="utf-8")
    assert described.current().sentences("no")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "f.yaml is empty; expected names and values, such as 'format: 1, words:"),
        (b"- cup", "f.yaml holds \"['cup']\"; expected names and values"),
        (b"a: caf\xe9", "f.yaml is not UTF-8: byte 0xe9 at 6; save it as UTF-8"),
        (b"a: [", "f.yaml, line 1, column 5 is not valid YAML"),
        (b"format: 1\nwords: {a: {}, a: {}}", "key 'a' appears twice; keep one of them"),
        (b"words: {}", "f.yaml: missing format"),
        (b"format: 1", "f.yaml: missing words"),
        (b"format: 2\nwords: {}", "f.yaml: format is 2; this version reads format 1; correct it or update ovseg"),
        (b"format: one\nwords: {}", "f.yaml.format: expected a whole number, got 'one'"),
        (b"format: 1\nword: {}", "f.yaml: unknown key 'word'; did you mean 'words'?"),
        (b"format: 1\nwords: {}\ncolor: []", "f.yaml: unknown key 'color'; it belongs under words"),
        (b"format: 1\nwords: [cup]", "f.yaml.words: "),
        (of("cup: [red]"), "f.yaml.words.cup: expected a mapping, got ['red']"),
        (of("cup:"), "f.yaml.words.cup: expected a mapping, got None"),
        (of("cup: {colour: [red]}"), "f.yaml.words.cup: unknown key 'colour'; did you mean 'color'?"),
        (of("cup: {color: red}"), "f.yaml.words.cup.color: expected a list, got 'red'"),
        (of("cup: {color: [no]}"), "f.yaml.words.cup.color[0]: expected text, got False"),
        (of("cup: {reviewed: 1}"), "f.yaml.words.cup.reviewed: expected true or false, got 1"),
        (of("cup: {2020-01-01: 1}"), "the key 2020-01-01 would be read as a date or bytes; quote it"),
        (of("7: {}"), "f.yaml.words: the word 7 (int) is not text; put quotes around it"),
        (of("no: {}"), "f.yaml.words: the word False (bool) is not text; put quotes around it"),
        (of("'cup, mug': {}"), "f.yaml.words: the word 'cup, mug' has a comma"),
        (of("'': {}"), "f.yaml.words: the word '' is empty"),
        (of('{"Cup": {}, "cUp": {}}'), "f.yaml.words: 'Cup' and 'cUp' are the same word; keep one of them"),
        (of("{red cup: {}, red_cup: {}}"), "f.yaml.words: 'red cup' and 'red_cup' are the same word"),
        (of("cup: {color: [a, b, c, d, e]}"), "words.cup: color has 5 phrases; expected at most 4; remove some"),
        (of("cup: {shape: [a b c d e f g h i]}"), "shape[0] 'a b c d e f g h i' has 9 words; expected at most 8"),
        (of("cup: {sense: a b c d e f g h i}"), "words.cup: sense 'a b c d e f g h i' has 9 words"),
        (of("cup: {color: [red, '']}"), "words.cup: color[1] '' is empty; expected letters or digits; write some"),
        (of('cup: {color: ["- \'"]}'), 'color[0] "- \'" is empty'),
        (
            of("cup: {color: ['red, or blue']}"),
            "has the character ',' (U+002C) at position 3; expected letters, digits",
        ),
        (of("cup: {color: ['red, or blue']}"), "hyphens and apostrophes; make it two phrases of the list"),
        (of("cup: {color: [red.]}"), "has the character '.' (U+002E) at position 3"),
        (of("cup: {color: ['{}']}"), "has the character '{' (U+007B) at position 0"),
        (of('cup: {color: ["a\\tb"]}'), "has the character '\\t' (U+0009) at position 1"),
        (of('cup: {color: ["a\\nb"]}'), "has the character '\\n' (U+000A) at position 1"),
        (of('cup: {color: ["a\\u200bb"]}'), "has the character '\\u200b' (U+200B) at position 1"),
        (of('cup: {color: ["a\\u202eb"]}'), "(U+202E) at position 1"),
        (of('cup: {color: ["a\\u00a0b"]}'), "(U+00A0) at position 1"),
        (of('cup: {color: ["a\\u3164"]}'), "(U+3164) at position 1"),
        (of('cup: {color: ["a\\ufe0f"]}'), "(U+FE0F) at position 1"),
        (of('cup: {color: ["\\u2615"]}'), "(U+2615) at position 0"),
        (of(f"cup: {{color: [{'a' * 101}]}}"), "has 101 characters; expected at most 100; shorten it"),
        (of('cup: {by: "a\\nb"}'), "words.cup: by is 'a\\nb'; expected at most 200 printable characters on one line"),
        (of(f"cup: {{by: {'a' * 201}}}"), "expected at most 200 printable characters"),
        (of("{" + ", ".join(f"a{i:x}: {{}}" for i in range(65536)) + "}"), "expected at most 65535 words, got 65536"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse_descriptions(content, "f.yaml")
    assert str(caught.value).startswith("f.yaml") and "\n" not in str(caught.value)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    described = files(tmp_path, "#" * (1 << 20) + "\n")
    with pytest.raises(ConfigError, match=r"0\.yaml are larger than 1048576 bytes; expected less; split the file"):
        described.current()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"files": []}, "p.files: expected 1 or more values, got 0"),
        ({"files": [""]}, "p.files[0]: "),
        ({"files": "mugs"}, "p.files: expected a list, got 'mugs'"),
        ({"files": ["a", "a"]}, "p: files has 'a' twice; leave one out"),
        ({"files": ["a"], "attributes": ["colour"]}, "p.attributes[0]: unknown value 'colour'; did you mean 'color'?"),
        ({"files": ["a"], "attributes": []}, "p.attributes: expected 1 or more values, got 0"),
        ({"files": ["a"], "attributes": ["color", "color"]}, "p: attributes has 'color' twice; leave one out"),
        ({"files": ["a"], "with_templates": 1}, "p.with_templates: expected true or false, got 1"),
        ({"files": ["a"], "file": 1}, "p: unknown key 'file'; did you mean 'files'?"),
    ],
)
def test_what_a_preset_asks_for_is_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_mapping(DescriptionsConfig, values, "p")


def test_a_preset_asks_for_files_beside_it_or_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MUG, encoding="utf-8")
    folder = PresetFolder(tmp_path)
    config = DescriptionsConfig(("mine.yaml",))
    assert config.attributes == ATTRIBUTES and not config.with_templates
    assert folder.descriptions(config) == (tmp_path / "mine.yaml",) and folder.descriptions(None) == ()
    with pytest.raises(ConfigError, match="there is no descriptions file 'nowhere'"):
        folder.descriptions(DescriptionsConfig(("nowhere",)))


def test_sentences_take_words_as_they_are_compared() -> None:
    current = Descriptions({"straße": Description(color=("grey",))}, ATTRIBUTES, False, ())
    assert current.sentences("Straße") == ()  # casefolded: strasse
    current = Descriptions(parse_descriptions(of("Straße: {color: [grey]}"), "f"), ATTRIBUTES, False, ())
    assert current.sentences("STRASSE") == ("a photo of a STRASSE, grey",)


def test_a_preset_of_any_kind_of_names_reads_its_words_by_descriptions(tmp_path: Path) -> None:
    path, preset = tmp_path / "mine.yaml", tmp_path / "preset.yaml"
    path.write_text(MUG, encoding="utf-8")
    content = yaml.safe_load(preset_path("tabletop").read_text())
    content["model"]["descriptions"] = {"files": ["mine.yaml"], "attributes": ["color"]}
    preset.write_text(yaml.safe_dump(content))
    section, folder = two_stage(str(preset)), PresetFolder(tmp_path)
    assert description_paths(str(preset)) == (path,) and description_paths("tabletop") == ()
    clip = load_clip(section.clip, section.templates, folder, torch.device("cpu"), section.descriptions)
    words = Vocabulary.build([CategorySpec("red mug"), CategorySpec("table")])
    text = clip.text_encoder.encode(words)
    assert text.descriptions is not None
    told = [f"a photo of a red mug, {color}" for color in ("white or glazed", "80's red", "café-brown")]
    assert text.descriptions.sentences("red mug") == tuple(told)
    plain = load_clip(section.clip, ["{}"], folder, torch.device("cpu")).text_encoder
    mean = torch.nn.functional.normalize(plain.vectors(told).mean(dim=0), dim=0)
    torch.testing.assert_close(text.vectors[0], mean)
    templates = load_clip(section.clip, section.templates, folder, torch.device("cpu")).text_encoder
    torch.testing.assert_close(text.vectors[1], templates.vectors(["table"])[0])


def test_background_words_of_a_training_free_preset_follow_a_changed_description(tmp_path: Path) -> None:
    write_tiny_lmseg(tmp_path, sam=None)
    section, folder = two_stage(str(tmp_path / "tiny_lmseg.yaml")), PresetFolder(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text("format: 1\nwords: {wall: {color: [white]}}", encoding="utf-8")
    clip = load_clip(section.clip, ["{}"], folder, torch.device("cpu"), DescriptionsConfig(("mine.yaml",)))
    free = PooledSection(ensemble=EnsembleConfig(background=("wall",)))
    classifier = build_classifier(free, clip, folder, ["cup"])
    assert isinstance(classifier, PooledClassifier)
    text = clip.text_encoder.encode(Vocabulary.build([CategorySpec("table")]))
    table, wall = classifier.prepare(text).vectors
    path.write_text("format: 1\nwords: {wall: {color: [red]}}", encoding="utf-8")
    same, repainted = classifier.prepare(text).vectors
    assert torch.equal(same, table) and not torch.allclose(repainted, wall, atol=1e-4)
