"""Strict YAML: unknown keys, wrong types and missing values are named."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ovseg_ros.core.config import from_mapping, load_yaml
from ovseg_ros.core.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    layers: int | None = 3

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must be 0 or more, got {self.rate}")


@dataclass(frozen=True)
class Outer:
    name: str
    size: tuple[int, int]
    enabled: bool = True
    inner: Inner = field(default_factory=Inner)
    several: tuple[Inner, ...] = ()


def test_a_nested_mapping_becomes_dataclasses() -> None:
    made = from_mapping(
        Outer,
        {"name": "a", "size": [1, 2], "inner": {"rate": 1, "layers": None}, "several": [{"rate": 2.0}, {}]},
        "file",
    )
    assert made == Outer("a", (1, 2), True, Inner(1.0, None), (Inner(2.0), Inner()))
    assert isinstance(made.inner.rate, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "size": [1, 2], "iner": {}}, "file: unknown key 'iner'; did you mean 'inner'?"),
        ({"name": "a", "size": [1, 2], "zzz": 1}, "valid keys: name, size, enabled, inner, several"),
        ({"name": "a"}, "file: missing size"),
        ({"name": 3, "size": [1, 2]}, "file.name: expected str, got 3"),
        ({"name": "a", "size": [1, 2, 3]}, "file.size: expected 2 values, got 3"),
        ({"name": "a", "size": 1}, "file.size: expected a list, got 1"),
        ({"name": "a", "size": [1, "x"]}, r"file.size\[1\]: expected int, got 'x'"),
        ({"name": "a", "size": [1, True]}, r"file.size\[1\]: expected int, got True"),
        ({"name": "a", "size": [1, 2], "enabled": 1}, "file.enabled: expected bool, got 1"),
        ({"name": "a", "size": [1, 2], "inner": 4}, "file.inner: expected a mapping, got 4"),
        ({"name": "a", "size": [1, 2], "inner": {"rate": -1}}, "file.inner: rate must be 0 or more, got -1"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        from_mapping(Outer, values, "file")


def test_files_that_are_missing_or_no_mapping_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "absent.yaml")
    for content, message in (("[1, 2]", "got list"), ("a: [", "not valid YAML"), ("", "got NoneType")):
        file = tmp_path / "bad.yaml"
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_yaml(file)
