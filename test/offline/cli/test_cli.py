"""The command line itself: quick help, lazy imports, exit codes."""

import subprocess
import sys

import pytest

from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import doctor

# fmt: off
COMMANDS = (
    "segment", "evaluate", "evaluate-space", "evaluate-tracking", "bench", "dataset", "check-dataset", "train",
    "vocabulary", "download", "doctor", "ablate", "count",
)
# fmt: on


def test_help_names_every_command_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom ovseg_ros.offline.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'cv2', 'mujoco', 'rclpy'} & sys.modules.keys()\nassert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert all(command in run.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["segment", "a.png"],
        ["dataset", "tabletop", "--split", "test", "--count", "0", "--out", "x"],
        ["bench", "--size", "640"],
        ["bench", "--size", "0x480"],
        ["evaluate", "--images", "many"],
        ["evaluate", "--min-objectness", "25"],
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: ovseg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (ModuleNotFoundError("No module named 'mujoco'", name="mujoco.rollout"), 2, "'mujoco'"),
    ],
)
def test_ctrl_c_and_a_missing_package_end_without_a_traceback(monkeypatch, capsys, raised, code, message):
    def fail(options):
        raise raised

    monkeypatch.setattr(doctor, "doctor", fail)
    assert main(["doctor"]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_error_of_this_package_itself_is_not_hidden(monkeypatch):
    def fail(options):
        raise ModuleNotFoundError("No module named 'ovseg_ros.nothing'", name="ovseg_ros.nothing")

    monkeypatch.setattr(doctor, "doctor", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])


WRITING = [
    ["segment", "a.png", "--vocabulary", "cup", "--out", "OUT"],
    ["evaluate", "--json", "OUT"],
    ["evaluate", "--report", "OUT"],
    ["evaluate", "--shard", "1/2", "--partial", "OUT"],
    ["evaluate", "--merge", "part.jsonl", "--json", "OUT"],
    ["evaluate-space", "--json", "OUT"],
    ["evaluate-tracking", "--json", "OUT"],
    ["bench", "--json", "OUT"],
    ["dataset", "tabletop", "--split", "test", "--count", "2", "--out", "OUT"],
    ["check-dataset", "tabletop", "--json", "OUT"],
    ["train", "tabletop", "--out", "OUT"],
    ["ablate", "tabletop", "--out", "OUT"],
    ["count", "fisa_b", "--json", "OUT"],
    ["download", "fisa_b", "--cache", "OUT"],
]


@pytest.mark.parametrize("arguments", WRITING, ids=lambda arguments: " ".join(arguments[:3]))
def test_outputs_that_cannot_be_written_are_refused_at_once(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    option = arguments[arguments.index("OUT") - 1]
    for place, reason in (("file/out", "expected a folder"), ("a" * 300, "300 bytes"), ("/proc/out", "or choose")):
        out = str(tmp_path / place)
        assert main([out if argument == "OUT" else argument for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"ovseg: error: {option} ") and reason in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_that_fails_later_is_one_line_too(monkeypatch, tmp_path, capsys):
    def fail(options):
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr("ovseg_ros.offline.tools.count.count", fail)
    assert main(["count", "fisa_b"]) == 2
    assert capsys.readouterr().err.startswith("ovseg: error: /some/where Permission denied; ")
