"""The vocabularies in config/vocabularies: complete, in the data sets' order, free of clashes."""

from functools import cache
from pathlib import Path

import pytest

from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, load_vocabulary_file, normalize_name, parse_vocabulary

FILES = sorted(path.name for path in (config_dir() / "vocabularies").iterdir())

COUNTS = {  # things, stuff; as published where the data set tells them apart
    "coco_133.yaml": (80, 53),
    "coco_stuff_171.yaml": (80, 91),
    "ade20k_150.yaml": (100, 50),
    "cityscapes.yaml": (8, 11),
    "mapillary_vistas.yaml": (37, 28),
    "lvis_1203.yaml": (1203, 0),
    "tabletop.yaml": (96, 4),
}
TOTALS = {"ade20k_847.yaml": 847, "pascal_context_59.yaml": 59, "pascal_context_459.yaml": 459}

# `stuff_classes` of the EoMT authors' configurations for ADE20K panoptic.
ADE20K_STUFF = [
    *[0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77],
    *[79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145],
]

# Labels of PASCAL Context in full (1 to 459) that its 59 categories stand for, by the common preparation script.
# fmt: off
PASCAL_59_OF_459 = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on


@cache
def specs_of(name: str) -> tuple[CategorySpec, ...]:
    return load_vocabulary_file(config_dir() / "vocabularies" / name)


def names_of(name: str) -> list[str]:
    return [spec.name for spec in specs_of(name)]


@pytest.mark.parametrize("name", FILES)
def test_every_file_builds_a_vocabulary_by_default(name: str) -> None:
    vocabulary = Vocabulary.build(specs_of(name))
    # Nothing was dropped or reordered: the ids are the positions in the file.
    assert [category.id for category in vocabulary.categories] == list(range(len(specs_of(name))))
    phrases = [normalize_name(p) for spec in specs_of(name) for p in (spec.name, *spec.synonyms)]
    assert len(phrases) == len(set(phrases))
    assert all(phrase.strip() and "_" not in phrase and ";" not in phrase and "," not in phrase for phrase in phrases)


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_where_its_names_are_from(name: str) -> None:
    assert (config_dir() / "vocabularies" / name).read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(("name", "counts"), COUNTS.items())
def test_things_and_stuff(name: str, counts: tuple[int, int]) -> None:
    things = sum(spec.is_thing for spec in specs_of(name))
    assert (things, len(specs_of(name)) - things) == counts


def test_stuff_is_where_the_published_checkpoints_have_it() -> None:
    stuff = {
        name: [index for index, spec in enumerate(specs_of(name)) if not spec.is_thing]
        for name in ("coco_133.yaml", "ade20k_150.yaml")
    }
    assert stuff == {"coco_133.yaml": list(range(80, 133)), "ade20k_150.yaml": ADE20K_STUFF}


@pytest.mark.parametrize(("name", "total"), TOTALS.items())
def test_totals_of_semantic_sets(name: str, total: int) -> None:
    assert len(specs_of(name)) == total


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coco_133.yaml", {0: "person", 11: "stop sign", 79: "toothbrush", 80: "banner", 131: "wall-other-merged"}),
        ("coco_stuff_171.yaml", {0: "person", 79: "toothbrush", 80: "banner", 145: "sky-other", 170: "wood"}),
        ("ade20k_150.yaml", {0: "wall", 6: "road", 8: "window", 12: "person", 130: "screen", 149: "flag"}),
        (
            "ade20k_847.yaml",
            {0: "wall", 4: "road", 13: "windowpane", 188: "pot", 200: "tapestry", 846: "adding machine"},
        ),
        ("cityscapes.yaml", {0: "road", 10: "sky", 11: "person", 12: "rider", 16: "train", 18: "bicycle"}),
        ("mapillary_vistas.yaml", {0: "Bird", 8: "Crosswalk - Plain", 27: "Sky", 55: "Car", 64: "Ego Vehicle"}),
        ("lvis_1203.yaml", {0: "aerosol can", 135: "bow (weapon)", 138: "bowl", 792: "person", 1202: "zucchini"}),
        ("pascal_context_59.yaml", {0: "aeroplane", 49: "diningtable", 58: "wood"}),
        ("pascal_context_459.yaml", {0: "accordion", 430: "unknown", 458: "wool"}),
    ],
)
def test_known_positions(name: str, expected: dict[int, str]) -> None:
    names = names_of(name)
    assert {index: names[index] for index in expected} == expected


def test_the_two_lists_of_pascal_context_agree() -> None:
    full = names_of("pascal_context_459.yaml")
    of_full = [full[label - 1] for label in PASCAL_59_OF_459]
    differing = [(a, b) for a, b in zip(names_of("pascal_context_59.yaml"), of_full, strict=True) if a != b]
    assert differing == [("diningtable", "table")]


def test_a_command_line_finds_them_by_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_vocabulary("cityscapes.yaml") == specs_of("cityscapes.yaml")
    assert [spec.name for spec in parse_vocabulary("street, cityscapes")] == ["street", "cityscapes"]
    # A file of one's own comes first.
    (tmp_path / "cityscapes.yaml").write_text("categories: [lorry]")
    assert [spec.name for spec in parse_vocabulary("cityscapes.yaml")] == ["lorry"]


def test_coco_stuff_is_known_by_plain_english_too() -> None:
    for file, wall in (("coco_133.yaml", "wall-other-merged"), ("coco_stuff_171.yaml", "wall-other")):
        synonyms = {spec.name: spec.synonyms for spec in specs_of(file)}
        assert "wall" in synonyms[wall]
        assert "brick wall" in synonyms["wall-brick"]
        assert all(synonyms[name] for name in synonyms if "-" in name)


def test_the_things_of_coco_are_the_same_in_both_lists() -> None:
    assert specs_of("coco_stuff_171.yaml")[:80] == specs_of("coco_133.yaml")[:80]


@pytest.mark.parametrize("name", ["indoor_robot.yaml", "warehouse.yaml", "street.yaml"])
def test_starters_have_things_and_stuff_and_an_8_bit_label_image(name: str) -> None:
    flags = {spec.is_thing for spec in specs_of(name)}
    assert flags == {True, False}
    assert 50 <= len(specs_of(name)) <= 255
