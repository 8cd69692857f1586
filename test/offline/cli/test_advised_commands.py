"""Every command that messages, documents and comments advise exists, with the options and arguments that they give."""

import argparse
import ast
import re
import shlex
import tokenize
from collections.abc import Iterator
from contextlib import redirect_stderr
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
import yaml

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.offline.cli.main import _make_parser
from ovseg_ros.ros.node.launch_topics import LaunchTopics

ROOT = Path(__file__).parents[3]
FOLDERS = ("ovseg_ros", "config", "docs", "examples", "launch", "tools", "scripts", "msg", "srv")
TEXTS = {".md", ".yaml", ".bash", ".txt", ".toml", ".xml", ".msg", ".srv", ".cmake"}
OVSEG = re.compile(r"(?<![\w/.~-])(?:\.venv/bin/|-m ovseg_ros\.offline\.cli|ros2 run ovseg_ros )?\bovseg +(?=[a-z`-])")
PARSER = _make_parser()
COMMANDS: dict[str, argparse.ArgumentParser] = next(
    action.choices for action in PARSER._actions if isinstance(action.choices, dict)
)
# Of pip, ROS, colcon, docker and torchrun, and the pattern of an option's name.
OPTIONS_OF_OTHERS = {"--no-deps", "--ros-args", "--params-file", "--log-level", "--packages-select", "--gpus", "--ipc"}
OPTIONS_OF_OTHERS |= {"--shm-size", "--nproc-per-node", "--its-name", "--repo-type"}
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|<.*>|\[.*|.*\]|\.\.\.|…")


def texts() -> Iterator[tuple[str, str]]:
    """(place, text) of documents and configuration, and of the strings and comments of programs."""
    files = [ROOT / "README.md", ROOT / "Makefile", ROOT / "setup.py"]
    files += sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    for path in files:
        place = str(path.relative_to(ROOT))
        if path.suffix == ".py":
            yield from ((f"{place}:{line}", text) for line, text in texts_of_program(path))
        elif path.suffix in TEXTS or path.name == "Makefile":
            yield place, path.read_text(encoding="utf-8")


def texts_of_program(path: Path) -> Iterator[tuple[int, str]]:
    def rendered(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        is_command = isinstance(node, ast.FormattedValue) and ast.unparse(node.value) == "ovseg_command()"
        return "ovseg" if is_command else "VALUE"

    tree = ast.parse(path.read_text(encoding="utf-8"))
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formatted for part in node.values}
    yield from ((node.lineno, "".join(map(rendered, node.values))) for node in formatted)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@cache
def spans() -> list[tuple[str, str, bool]]:
    """(place, text, whether it is a command line): what stands in backticks, and lines without that."""
    found: list[tuple[str, str, bool]] = []
    for place, text in texts():
        text = re.sub(r" *\\+\n\s*", " ", text)
        quoted = re.findall(r"(?<!`)`([^`]+)`(?!`)", text.replace("```", ""))
        found += ((place, " ".join(span.split()), True) for span in quoted)
        for line in re.sub(r"(?<!`)`[^`]+`(?!`)", "", text).splitlines():
            stripped = re.sub(r"^\W*(?:[A-Z_]+=\S+ )*(?:torchrun .*-m ovseg_ros\.offline\.cli )?", "", line)
            command = stripped.startswith(("ovseg ", "ros2 ", "make ", "python "))
            found.append((place, stripped.split("  #")[0] if command else line, command and place.endswith(".md")))
    return found


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Those of a command, and of its own commands, as `ovseg vocabulary` has them."""
    options = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action.choices, dict):
            options = options.union(*map(options_of, action.choices.values()))
    return options


def fault_of_ovseg(rest: str, whole: bool) -> str:
    """What is wrong with the words after `ovseg`; empty if nothing."""
    name = re.match(r"-*[a-z-]*", rest)[0]  # type: ignore[index]
    if name in ("--help", "-h"):
        return ""
    if name not in COMMANDS:
        return f"there is no command {name!r}"
    told = re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)
    if unknown := [option for option in told if option not in options_of(COMMANDS[name])]:
        return f"{name} has no {', '.join(unknown)}"
    words = shlex.split(rest.partition(" | ")[0], comments=True) if whole else []
    if not words or any(PLACEHOLDER.fullmatch(word) for word in words):
        return ""
    with redirect_stderr(StringIO()) as said:
        try:
            PARSER.parse_args(words)
        except SystemExit:
            return "" if "arguments are required" in said.getvalue() else said.getvalue().splitlines()[-1]
    return ""


def test_commands_of_ovseg() -> None:
    faults, found = [], 0
    for place, span, whole in spans():
        for match in OVSEG.finditer(span):
            rest = span[match.end() :]
            name = re.match(r"[a-z-]*", rest)[0]  # type: ignore[index]
            if not whole and name not in COMMANDS and not span[: match.start()].endswith(": "):
                continue  # a sentence about the node or the package
            found += 1
            if fault := fault_of_ovseg(rest, whole and match.start() == 0):
                faults.append(f"{place}: ovseg {rest}: {fault}")
    assert found > 100
    assert not faults, "\n".join(faults)


def test_options_that_messages_name() -> None:
    known = {option for parser in COMMANDS.values() for option in options_of(parser)} | OPTIONS_OF_OTHERS
    unknown = [
        f"{place}: {option}"
        for place, text in texts()
        if place.startswith(("ovseg_ros/core", "ovseg_ros/offline", "ovseg_ros/ros/node"))
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
        if option not in known
    ]
    assert not unknown, "\n".join(unknown)


def test_documents_that_messages_name() -> None:
    missing = [
        f"{place}: {name}"
        for place, text in texts()
        for name in re.findall(r"\bdocs/\w+\.md", text)
        if not (ROOT / name).is_file()
    ]
    assert not missing, "\n".join(missing)


def test_commands_of_ros() -> None:
    executables = {path.stem for path in (ROOT / "scripts").glob("*.in")}
    faults, found = [], 0
    for place, span, _ in spans():
        for name in re.findall(r"ros2 run ovseg_ros (\w+)", span):
            found += 1
            if name not in executables:
                faults.append(f"{place}: {span}: no executable {name}")
        for launched, rest in re.findall(r"ros2 launch ovseg_ros (\S+?\.launch\.py)([^`]*)", span):
            found += 1
            if not (ROOT / "launch" / launched).is_file():
                faults.append(f"{place}: {span}: no file {launched}")
                continue
            given = dict(word.split(":=", 1) for word in shlex.split(rest, comments=True) if ":=" in word)
            if unknown := given.keys() - arguments_of(launched):
                faults.append(f"{place}: {span}: no arguments {unknown}")
            topics = {name: given.get(name, name) for name in ("image", "depth", "camera_info")}
            if any(PLACEHOLDER.fullmatch(value) for value in given.values()):
                continue
            topics |= {name: given.get(name, "") for name in ("compressed_image", "cameras")}
            LaunchTopics.of_arguments(**topics)
        for service, kind, request in re.findall(
            r"ros2 service call /ovseg/(\w+) ovseg_ros/srv/(\w+) *(?:\"(.*)\")?", span
        ):
            found += 1
            wanted = (ROOT / "srv" / f"{kind}.srv").read_text(encoding="utf-8").partition("---")[0]
            fields = set(re.findall(r"^\S+ (\w+)$", wanted, re.MULTILINE))
            if unknown := yaml.safe_load(request or "{}").keys() - fields:
                faults.append(f"{place}: {span}: {kind} has no {unknown}")
            if f"~/{service}" not in (ROOT / "ovseg_ros/ros/node/segment_node.py").read_text(encoding="utf-8"):
                faults.append(f"{place}: {span}: no service {service}")
    assert found > 10
    assert not faults, "\n".join(faults)


def arguments_of(launch_file: str) -> set[str]:
    """Names of the arguments that a launch file declares; `launch` itself need not be there."""
    tree = ast.parse((ROOT / "launch" / launch_file).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ARGUMENTS":
            assert isinstance(node.value, ast.Dict)
            names |= {ast.literal_eval(key) for key in node.value.keys if key is not None}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "DeclareLaunchArgument":
            names |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    return names


def test_targets_of_make_and_tools() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    faults, found = [], 0
    for place, span, whole in spans():
        if (target := re.match(r"make ([a-z-]+)", span)) and whole:
            found += 1
            if target[1] not in targets:
                faults.append(f"{place}: {span}: no target {target[1]}")
        for tool, rest in re.findall(r"\btools/(\w+\.(?:py|bash))((?: [^`]*)?)", span):
            found += 1
            file = ROOT / "tools" / tool
            options = re.findall(r"--[a-z-]+", rest)
            if not file.is_file() or any(option not in file.read_text(encoding="utf-8") for option in options):
                faults.append(f"{place}: {span}: no such tool, or it has not these options")
        for module in re.findall(r"(?:python3?|torchrun .*) -m (ovseg_ros[\w.]*)", span):
            found += 1
            if find_spec(module) is None:
                faults.append(f"{place}: {span}: no module {module}")
    assert found > 10
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("on_path", "started_as", "command"),
    [
        ({"ovseg"}, "/ws/install/lib/ovseg_ros/segment_node", "ovseg"),
        ({"ros2"}, "/ws/install/lib/ovseg_ros/segment_node", "ros2 run ovseg_ros ovseg"),
        ({"ros2"}, "/ws/install/lib/ovseg_ros/ovseg", "ros2 run ovseg_ros ovseg"),
        ((), "/my ws/install/lib/ovseg_ros/segment_node", "'/my ws/install/lib/ovseg_ros/ovseg'"),
        ((), ".venv/bin/ovseg", ".venv/bin/ovseg"),
        ((), "/site-packages/ovseg_ros/offline/cli/__main__.py", "/usr/bin/python3 -m ovseg_ros.offline.cli"),
        ((), "my_program.py", "ovseg"),
    ],
)
def test_messages_advise_the_command_as_their_reader_has_it(
    on_path: set[str], started_as: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in on_path else None)
    monkeypatch.setattr("sys.argv", [started_as])
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    assert ovseg_command() == command
