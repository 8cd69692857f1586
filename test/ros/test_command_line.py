"""A node's command line that is wrong: one line with ROS's reason and the form that is expected, and exit code 1."""

import os
import subprocess
from pathlib import Path

import pytest
import rclpy
from ament_index_python.packages import get_package_prefix
from rclpy.node import Node
from ros_support import Processes

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.ros.demo import client, tabletop_camera
from ovseg_ros.ros.node.command_line import init_ros
from ovseg_ros.ros.node.parameter_spec import declare, unknown_parameters
from ovseg_ros.ros.node.parameters import PARAMETERS, later_parameters, validate

FILES = {
    "no_yaml.yaml": 'ovseg:\n  ros__parameters:\n    max_rate: [1, "a"\n',
    "no_root.yaml": "ovseg:\n  max_rate: 1.0\n",
    "flat.yaml": "max_rate: 1.0\n",
    "mixed.yaml": "/**:\n  ros__parameters:\n    cameras: [front, 1]\n",
    "nothing.yaml": "/**:\n  ros__parameters:\n    max_rate:\n",
}
REFUSED = {
    "-r image:=/cam/image_raw/": ["remap rule", "'-r image:=/cam/image_raw/'", "FROM:=TO", "not at the end"],
    "-r image=/x": ["'-r image=/x'", "FROM:=TO"],
    "-r __node:=my-seg": ["my-seg", "letters, digits and _"],
    "-r __ns:=robot-1": ["robot-1", "__ns:=/robot_1"],
    "--log-level verbose": ["verbose", "debug, info, warn, error or fatal"],
    "-p max_rate=10": ["'-p max_rate=10'", "NAME:=VALUE"],
    "-p vocabulary:=[cup": ["vocabulary:=[cup", "in YAML"],
    "-p roi:=[0,0,0.5,1]": ["roi:=[0,0,0.5,1]", "same type", "of one type"],
    "--params-file no_yaml.yaml": ["no_yaml.yaml", "at line_num 3", "ros__parameters"],
    "--params-file no_root.yaml": ["no_root.yaml", "at line 2", "ros__parameters"],
    "--params-file flat.yaml": ["flat.yaml", "at line 1", "ros__parameters"],
    "--params-file mixed.yaml": ["mixed.yaml", "'integer'", "of one type"],
    "--params-file nothing.yaml": ["nothing.yaml", "No value at line 3", "ros__parameters"],
    "--params-file nope.yaml": ["'nope.yaml' does not exist", "path of a YAML file"],
    "--params-file .": ["'.' is a folder"],
    "--params-file": ["No file path provided"],
    "--nonsense": ["unknown ROS arguments", "--nonsense", "--params-file"],
}
DEFAULTS = {"ovseg": PARAMETERS, "tabletop_camera": tabletop_camera.PARAMETERS, "demo": client.PARAMETERS}


@pytest.mark.parametrize("arguments", REFUSED)
def test_a_refused_argument_is_explained(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    with pytest.raises(ConfigError) as refusal:
        init_ros("ovseg", ["--ros-args", *arguments.split()])
    said = str(refusal.value)
    assert all(word in said for word in REFUSED[arguments]), said
    assert "\n" not in said and ".c:" not in said and "lexeme" not in said and "not set" not in said
    assert not rclpy.ok()


@pytest.mark.parametrize("argument", ["image=/x", "--log-level", "preset"])
def test_what_is_no_ros_argument_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown argument '{argument}'; expected .* after --ros-args"):
        init_ros("ovseg", [argument])


def test_help_needs_no_ros(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        init_ros("demo", ["--help"])
    assert end.value.code == 0 and "--ros-args" in capsys.readouterr().out
    assert not rclpy.ok()


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_value_is_explained_for_every_parameter(name: str) -> None:
    specs = DEFAULTS[name]
    context = rclpy.Context()
    empty = [argument for spec in specs for argument in ("-p", f"{spec.name}:=[]")]
    rclpy.init(args=["--ros-args", *empty], context=context)
    node = Node(name, context=context)
    node.add_on_set_parameters_callback(validate)
    for spec in specs:
        with pytest.raises(ConfigError) as refusal:
            declare(node, [spec])
        assert f"parameter {spec.name} is the empty list" in str(refusal.value), refusal.value
        assert f"expected {spec.expected}, or leave" in str(refusal.value)
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_values_that_cannot_be() -> None:
    wrong = {
        "max_rate:=10": ["'10' of type 'INTEGER'", "a number with a point, as in 1.0, from 0.0 to 1000.0"],
        "jpeg_quality:=500": ["jpeg_quality", "500", "100"],
        "vocabulary:=cup": ["'vocabulary' to 'cup'", 'a list of texts, as in ["one", "two"]'],
        "preset:=1": ["'preset' to '1'", "text, in quotes"],
        "autostart:=5": ["autostart", "'5'", "true or false"],
        "roi:=[1, 2]": ["roi is [1, 2]", "x, y, width and height"],
        "image_transport:=theora": ["'theora'", "both, raw, compressed"],
    }
    context = rclpy.Context()
    given = [argument for rule in wrong for argument in ("-p", rule)]
    rclpy.init(args=["--ros-args", *given], context=context)
    node = Node("ovseg", context=context)
    node.add_on_set_parameters_callback(validate)
    for rule, words in wrong.items():
        with pytest.raises(ConfigError) as refusal:
            declare(node, [spec for spec in PARAMETERS if spec.name == rule.partition(":=")[0]])
        assert all(word in str(refusal.value) for word in words), refusal.value
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_parameters_that_no_node_has_are_said_with_the_nearest() -> None:
    names = ["preest", "min_area", "min_aera", "front.roi", "left.roi", "xyz", "use_sim_time"]
    names += ["qos_overrides./image.subscription.reliability"]
    context = rclpy.Context()
    given = [argument for name in names for argument in ("-p", f"{name}:=true")]
    rclpy.init(args=["--ros-args", *given], context=context)
    node = Node("ovseg", context=context)
    declare(node, PARAMETERS)
    said = unknown_parameters(node, later_parameters(["front"]))
    assert said.startswith("no such parameters") and said.endswith(
        ": left.roi (did you mean front.roi?), min_aera (did you mean min_area?), preest (did you mean preset?), xyz"
    ), said
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_what_is_installed_can_be_executed() -> None:
    """`ros2 run` finds nothing else; with --symlink-install these are links to what CMake made."""
    installed = sorted((Path(get_package_prefix("ovseg_ros")) / "lib" / "ovseg_ros").iterdir())
    assert {path.name for path in installed} >= {"demo", "ovseg", "segment_node", "tabletop_camera"}
    assert [path.name for path in installed if not os.access(path, os.X_OK)] == []
    command = [installed[[path.name for path in installed].index("ovseg")], "--help"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("usage: ovseg")


def test_every_node_ends_with_one_and_the_reason(processes: Processes) -> None:
    started = [
        processes.start("segment_node", "image:=/cam/image_raw/"),
        processes.start("tabletop_camera", "__ns:=robot-1"),
        processes.start("demo", "image=/x"),
        processes.start("tabletop_camera", widht=640, split="nope"),
    ]
    for process in started:
        assert process.wait() == 1, process.output
        assert "Traceback" not in process.output
        assert process.output.count("[FATAL]") == process.output.count("cannot start: ") == 1, process.output
    assert "split" in process.output and "widht (did you mean width?)" in process.output
