"""Strict YAML: unknown keys and kinds, wrong types and missing values are named."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from ovseg_ros.core.config import STRICT, from_mapping, load_yaml
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


def test_files_that_are_missing_or_no_mapping_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "absent.yaml")
    for content, message in (("[1, 2]", "got list"), ("a: [", "not valid YAML"), ("", "got NoneType")):
        file = tmp_path / "bad.yaml"
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_yaml(file)


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
