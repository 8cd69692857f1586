"""YAML as the package reads it: what plain loading takes without a word, or dies of, is a fault with its place."""

import re
from typing import Any

import yaml

_MOST_DIGITS = 19
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_NO_KEYS = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:binary")
_MOST_VALUES = 1_000_000
"""With aliases written out; a few lines of them can stand for more than fits into memory."""

_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""What YAML 1.1 takes for a number of base 8, such as 010, or 60, such as 1:30; nobody means it."""


class YamlFault(ValueError):
    """What is wrong in a YAML text, in one line; `place` is empty or such as ", line 2, column 1"."""

    def __init__(self, reason: str, mark: yaml.Mark | None = None) -> None:
        super().__init__(reason)
        self.place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""


def parse_yaml(text: str) -> Any:
    """The value of a YAML document; None if it is empty.

    Raises:
        YamlFault: it is not YAML, a key appears twice or is no scalar, an alias holds itself or too much, or a number
            is too large or of base 8 or 60.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        hint = "; indent with spaces, not tabs" if "'\\t'" in (error.problem or "") else ""
        raise YamlFault(f"{error.problem}{hint}", error.problem_mark) from error
    except yaml.reader.ReaderError as error:
        raise YamlFault(f"{error.reason}: character {error.character:#x} at position {error.position}") from error
    except RecursionError as error:
        raise YamlFault("it is nested too deep") from error
    except ValueError as error:  # an impossible date, a huge integer
        raise error if isinstance(error, YamlFault) else YamlFault(str(error)) from error


def _count_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Values in a node, itself included; `known` has those of the nodes that were counted, and 0 for those begun."""
    if id(node) in known:
        if not known[id(node)]:
            raise YamlFault("an alias stands inside what it is an alias of", node.start_mark)
        return known[id(node)]
    known[id(node)] = 0
    count, inner = 1, []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise YamlFault("a list or a mapping stands where a key is expected", key.start_mark)
            if key.tag in _NO_KEYS:
                raise YamlFault(f"the key {key.value[:100]} would be read as a date or bytes; quote it", key.start_mark)
            if key.value in seen:
                raise YamlFault(f"key '{key.value[:100]}' appears twice; keep one of them", key.start_mark)
            seen.add(key.value)
            inner.append(value)
    elif node.tag == _NUMBERS[0] and len(node.value) > _MOST_DIGITS:
        raise YamlFault(f"{node.value[:20]}... is too large a number", node.start_mark)
    elif node.tag in _NUMBERS and _OTHER_BASE.fullmatch(node.value):
        value = yaml.safe_load(node.value)
        raise YamlFault(
            f"{node.value} would be read as {value}, a number of base {60 if ':' in node.value else 8}; write the "
            f"number in decimal, or '{node.value}' in quotes for text",
            node.start_mark,
        )
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    for value in inner:
        count += _count_values(value, known)
        if count > _MOST_VALUES:
            raise YamlFault(f"there are more than {_MOST_VALUES} values, aliases written out", node.start_mark)
    known[id(node)] = count
    return count
