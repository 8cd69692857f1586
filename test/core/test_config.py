"""Strict YAML: unknown keys and kinds, wrong types and missing values are named."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, Name, find_config, from_mapping, load_yaml
from ovseg_ros.core.errors import ConfigError


@dataclass(frozen=True, slots=True, config=STRICT)
class Inner:
    rate: float = 0.5
    layers: int | None = 3
    share: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must be 0 or more, got {self.rate}")


@dataclass(frozen=True, slots=True, config=STRICT)
class Square:
    side: int
    kind: Literal["square"] = "square"


@dataclass(frozen=True, slots=True, config=STRICT)
class Disc:
    radius: float
    kind: Literal["disc"] = "disc"


@dataclass(frozen=True, slots=True, config=STRICT)
class Outer:
    name: str
    size: tuple[int, int]
    enabled: bool = True
    inner: Inner = Field(default_factory=Inner)
    several: tuple[Inner, ...] = ()
    shape: Annotated[Square | Disc, Field(discriminator="kind")] | None = None


GOOD = {"name": "a", "size": [1, 2]}


def test_a_nested_mapping_becomes_dataclasses() -> None:
    made = from_mapping(
        Outer,
        {
            **GOOD,
            "inner": {"rate": 1, "layers": None},
            "several": [{"rate": 2.0}, {}],
            "shape": {"kind": "disc", "radius": 1},
        },
        "file",
    )
    assert made == Outer("a", (1, 2), True, Inner(1.0, None), (Inner(2.0), Inner()), Disc(1.0))
    assert isinstance(made.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**GOOD, "iner": {}}, "file: unknown key 'iner'; did you mean 'inner'?"),
        ({**GOOD, "zzz": 1}, "expected one of name, size, enabled, inner, several, shape"),
        ({"name": "a"}, "file: missing size"),
        ({"name": "a", "sise": [1, 2]}, "file: unknown key 'sise'; did you mean 'size'?"),
        ({**GOOD, "name": 3}, "file.name: expected text, got 3"),
        ({**GOOD, "size": [1, 2, 3]}, "file.size: expected 2 values, got 3: [1, 2, 3]"),
        ({**GOOD, "size": [1]}, "file.size[1]: missing, [1] has too few values"),
        ({**GOOD, "size": 1}, "file.size: expected a list, got 1"),
        ({**GOOD, "size": [1, "x"]}, "file.size[1]: expected a whole number, got 'x'"),
        ({**GOOD, "size": [1, True]}, "file.size[1]: expected a whole number, got True"),
        ({**GOOD, "size": [1, 2.5]}, "file.size[1]: expected a whole number, got 2.5"),
        ({**GOOD, "enabled": 1}, "file.enabled: expected true or false, got 1"),
        ({**GOOD, "inner": 4}, "file.inner: expected a mapping, got 4"),
        ({**GOOD, "inner": {"rate": -1}}, "file.inner: rate must be 0 or more, got -1"),
        ({**GOOD, "inner": {"rate": "3e-4x"}}, "file.inner.rate: expected a number, got '3e-4x'"),
        ({**GOOD, "size": [1, "3e4"]}, "file.size[1]: expected a whole number, got '3e4'"),
        ({**GOOD, "inner": {"rate": float("nan")}}, "file.inner.rate: expected a finite number, got nan"),
        ({**GOOD, "inner": {"rate": float("inf")}}, "file.inner.rate: expected a finite number, got inf"),
        ({**GOOD, "inner": {"share": 2}}, "file.inner.share: it should be less than or equal to 1, got 2"),
        ({**GOOD, "several": [{}, {"rat": 1}]}, "file.several[1]: unknown key 'rat'; did you mean 'rate'?"),
        ({**GOOD, "shape": {"kind": "disk", "radius": 1}}, "file.shape: unknown kind 'disk'; did you mean 'disc'?"),
        ({**GOOD, "shape": {"radius": 1}}, "file.shape: missing kind; one of square, disc"),
        ({**GOOD, "shape": {"kind": "disc", "radiu": 1}}, "file.shape: unknown key 'radiu'; did you mean 'radius'?"),
        ({**GOOD, "shape": 5}, "file.shape: expected a mapping, got 5"),
        ({**GOOD, "zz": 1, "yy": 2}, "file: unknown key 'zz'"),
        ({**GOOD, "zz": 1, "yy": 2}, "; file: unknown key 'yy'"),
        ({**GOOD, "zz": 1, "yy": 2, "xx": 3, "ww": 4}, "; and 2 more"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_mapping(Outer, values, "file")


@dataclass(frozen=True, slots=True, config=STRICT)
class Tagged:
    name: Name
    others: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True, config=STRICT)
class Labels:
    labels: Annotated[tuple[Name | Tagged, ...], Field(min_length=1)] | Name | None = None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"nam": "sky"}], "file.labels[0]: unknown key 'nam'; did you mean 'name'?"),
        (["a", {"others": ["b"]}], "file.labels[1]: missing name"),
        ([{"name": "a", "others": "b"}], "file.labels[0].others: expected a list, got 'b'"),
        (["a", 1], "file.labels[1]: expected text or a mapping, got 1"),
        (["a", " "], "file.labels[1]: expected text that is not blank, got ' '"),
        ([], "file.labels: expected 1 or more values, got 0"),
        (5, "file.labels: expected a list or text, got 5"),
    ],
)
def test_where_several_forms_may_stand_the_one_that_was_meant_is_explained(labels: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        from_mapping(Labels, {"labels": labels}, "file")


@dataclass(frozen=True, slots=True, config=STRICT)
class File:
    title: str
    outer: Outer | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": [1, 2]}, "file: unknown key 'size'; it belongs under outer"),
        ({"rate": 1.0}, "file: unknown key 'rate'; it belongs under outer.inner or outer.several"),
        ({"outer": {**GOOD, "title": "a"}}, "file.outer: unknown key 'title'; it belongs at the top of the file"),
        ({"outer": {**GOOD, "radius": 1}}, "file.outer: unknown key 'radius'; it belongs under outer.shape"),
    ],
)
def test_a_key_that_stands_elsewhere_is_told_where_it_belongs(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_mapping(File, {"title": "a", **values}, "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "holds '[1, 2]'; expected names and values"),
        ("words", "holds 'words'; expected names and values"),
        ("", "is empty; expected names and values"),
        ("# nothing\n", "is empty"),
        ("a: [", ", line 1, column 5 is not valid YAML"),
        ("a: 1\nb: {c: 1, c: 2}", ", line 2, column 11 is not valid YAML: key 'c' appears twice; keep one of them"),
        ("a: &a [*a]", ", line 1, column 4 is not valid YAML: an alias stands inside what it is an alias of"),
        ("a:\n\tb: 1", "indent with spaces, not tabs"),
        ("a: \0", "is not valid YAML: special characters are not allowed: character 0x0 at position 3"),
        ("2020-01-01: 1", "the key 2020-01-01 would be read as a date or bytes; quote it"),
        ("[a]: 1", "a list or a mapping stands where a key is expected"),
        ("a: 2024-13-45", "is not valid YAML: month must be in 1..12"),
        ("a: 10000000000000000000000", "10000000000000000000... is too large a number"),
        (b"a: caf\xe9", "is not UTF-8: byte 0xe9 at 6; save it as UTF-8"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_refused_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_yaml(file)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)


def test_merged_mappings_and_marks_of_utf_8_are_yaml(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: &e {<<: *a}\nf: {<<: *e, b: 4}\n")
    found = load_yaml(file)
    assert found["d"] == {"b": 1, "c": 3} and found["f"] == {"b": 4, "c": 2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one", None),
        ("one.yaml", None),
        ("{folder}/own.yml", None),
        ("Ome", "there is no preset 'Ome' (did you mean 'one'?); choose one of one, two, or give the path of a .yaml"),
        ("five", "there is no preset 'five'; choose one of one, two, or give the path of a .yaml file"),
        ("./one.yaml", "there is no preset './one.yaml': this path does not exist from /"),
        ("presets/five.yml", "there is no preset 'presets/five.yml': this path does not exist from /"),
        ("/presets/five.yml", "there is no preset '/presets/five.yml': this path does not exist; correct it"),
        ("", "there is no preset ''; choose one of one, two"),
        ("{folder}", "is a folder, no preset; choose one of one, two"),
        ("{folder}/a.yaml", "a.yaml' is a folder, no preset; choose"),
        ("{folder}/own.txt", "own.txt' is a file of another kind, no preset; choose"),
        ("~nosuchuser/a.yaml", "cannot be read: Could not determine home directory"),
        ("a" * 5000, "cannot be read: File name too long; correct its name or path"),
    ],
)
def test_configurations_are_found_by_name_or_path(tmp_path: Path, name: str, message: str | None) -> None:
    bundled, own = tmp_path / "bundled", tmp_path / "own"
    for folder, names in ((bundled, ("one.yaml", "two.yaml")), (own, ("own.yml", "own.txt"))):
        folder.mkdir()
        for file in names:
            (folder / file).touch()
    (own / "a.yaml").mkdir()
    name = name.replace("{folder}", str(own))
    if message is None:
        assert find_config("preset", name, bundled).is_file()
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        find_config("preset", name, bundled)


def test_a_long_list_of_names_is_not_told(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"model_{number}.yaml").touch()
    with pytest.raises(
        ConfigError, match=r"\(did you mean 'model_1\d?'\?\); there are 20, from model_0 to model_9, or"
    ):
        find_config("preset", "modell_1", tmp_path)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "absent.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f"cannot read {path}: {reason}.*; expected a YAML file"):
            load_yaml(path)


def test_a_number_with_an_exponent_is_one() -> None:
    """YAML 1.1 takes 3e-4, without a point, for text."""
    values = {
        **GOOD,
        "inner": {"rate": "3e-4"},
        "several": [{}, {"rate": "+2E3"}],
        "shape": {"kind": "disc", "radius": "1.e2"},
    }
    config = from_mapping(Outer, values, "file")
    assert (config.inner.rate, config.several[1].rate, config.shape.radius) == (3e-4, 2000.0, 100.0)
    assert from_mapping(Outer, {**GOOD, "name": "3e-4"}, "file").name == "3e-4"
