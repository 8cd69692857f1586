"""Rooms import in one direction only, and everything but `ros` imports where ROS is absent."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ovseg_ros"

ALLOWED = {
    "core": {"core"},
    "sim": {"core", "sim"},
    "offline": {"core", "sim", "offline"},
    "ros": {"core", "sim", "ros"},
}
# Two commands talk to the real node, where there is one; they import what that needs when they run.
EXCEPTIONS = {
    "ovseg_ros/offline/tools/bench.py imports ovseg_ros.ros.bench.in_process.NodeBench",
    "ovseg_ros/offline/tools/bench.py imports ovseg_ros.ros.bench.in_process.RoundTimes",
    "ovseg_ros/offline/tools/bench_delivery.py imports ovseg_ros.ros.bench.processes.BenchProcesses",
    "ovseg_ros/offline/cli/vocabulary.py imports ovseg_ros.ros.node.vocabulary_client.VocabularyClient",
    "ovseg_ros/offline/cli/vocabulary.py imports ovseg_ros.ros.node.vocabulary_client.connect",
}
STAGES = {"proposals", "classification", "joint"}
AROUND_MODELS = ("core/merge", "core/outputs.py", "core/tracking", "core/space", "core/metrics", "ros", "sim")
OF_MODELS = {*STAGES, "scoring", "backbones", "presets", "build", "model"}
SEAM = {"ovseg_ros.core.build.build_segmenter", "ovseg_ros.core.model.Prompt"}
"""All that those around them know of models."""
CONNECTING = ("urllib.request", "http.", "requests", "socket", "transformers.pipeline", "transformers.generation")
"""What asks others, a language model among them; `offline` alone does."""
FLOORS = {
    "offline": (
        ("data", "option", "words"),
        ("options",),
        ("describe_options", "export_options", "measure_options"),
        ("evaluate",),
        ("train",),
        ("tools",),
        ("cli",),
    ),
    "ros": (("node",), ("demo", "bench")),
}
"""Of each room, its own rooms: those of a floor import from lower floors only."""

IMPORT_WITHOUT_ROS = """
import importlib, importlib.abc, pkgutil, sys

class NoRos(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        if root in {"rclpy", "rosbag2_py", "ament_index_python", "launch", "launch_ros", "cv_bridge"} or (
            root.endswith("_msgs") or root.endswith("_interfaces") or name in {"ovseg_ros.msg", "ovseg_ros.srv"}
        ):
            raise ModuleNotFoundError(f"{name} is blocked for this test", name=name)
        return None

sys.meta_path.insert(0, NoRos())
room = importlib.import_module("ovseg_ros." + sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(room.__path__, room.__name__ + ".")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


def imports_of(path: Path) -> Iterator[str]:
    """Absolute dotted names that a module imports, wherever in it; `from a.b import c` gives a.b.c."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            prefix = ".".join(part for part in (base, node.module) if part)
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def modules_of(room: str) -> list[Path]:
    path = PACKAGE / room
    paths = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert paths, f"no modules in {PACKAGE / room}"
    return paths


@pytest.mark.parametrize("room", ["core", "offline", "sim"])
def test_imports_without_ros(room: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_ROS, room], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 1


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(room)
        for name in imports_of(path)
        if name.startswith("ovseg_ros.") and (other := name.split(".")[1]) in ALLOWED and other not in ALLOWED[room]
    ]
    assert not set(wrong) - EXCEPTIONS, "\n".join(wrong)


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_rooms_within_a_room_import_downwards(room: str) -> None:
    floor_of = {name: floor for floor, names in enumerate(FLOORS[room]) for name in names}
    assert set(floor_of) == {
        path.stem for path in (PACKAGE / room).iterdir() if path.stem not in ("__init__", "__pycache__")
    }
    wrong = []
    for path in modules_of(room):
        own = path.relative_to(PACKAGE / room).parts[0].removesuffix(".py")
        others = {n.split(".")[2] for n in imports_of(path) if n.startswith(f"ovseg_ros.{room}.")} - {own}
        wrong += [
            f"{path.relative_to(ROOT)} imports {name}"
            for name in others
            if own in floor_of and floor_of[name] >= floor_of[own]
        ]
    assert not wrong, "\n".join(wrong)


def test_only_the_ros_room_imports_ros() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room in ("core", "sim")
        for path in modules_of(room)
        for name in imports_of(path)
        if name.split(".")[0] == "rclpy" or name.split(".")[0].endswith("_msgs") or name.startswith("ovseg_ros.msg")
    ]
    assert not wrong, "\n".join(wrong)


def test_stage_folders_do_not_import_each_other() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for stage in {*STAGES, "scoring"}
        for path in (PACKAGE / "core" / stage).rglob("*.py")
        for name in imports_of(path)
        if any(name.startswith(f"ovseg_ros.core.{other}") for other in STAGES - {stage})
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["core", "sim", "ros"])
def test_only_the_offline_room_asks_others(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(room)
        for name in imports_of(path)
        if f"{name}.".startswith(CONNECTING) or "CausalLM" in name
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", AROUND_MODELS)
def test_what_is_around_models_knows_none_of_them(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(room)
        for name in imports_of(path)
        if name.startswith("ovseg_ros.core.") and name.split(".")[2] in OF_MODELS and name not in SEAM
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["scoring", "backbones"])
def test_what_stages_are_made_of_knows_no_stage(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(f"core/{room}")
        for name in imports_of(path)
        if name.startswith("ovseg_ros.core.") and name.split(".")[2] in {*STAGES, "presets", "build", "model"}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_is_only_a_docstring() -> None:
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.Expr) for node in body)
