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


def test_a_checkout_that_is_not_built_says_how_to_build_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ovseg_ros.ros.node.vocabulary_client", None)
    assert main(["vocabulary", "show"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ovseg: error: ") and error.count("\n") == 1
    assert "build the package with colcon, source install/setup.bash" in error


def test_an_empty_vocabulary_is_not_the_data_sets_own(capsys):
    for words in ("", "  "):
        assert main(["evaluate", "--vocabulary", words, "--images", "1"]) == 2
        assert "--vocabulary is empty; give words, or leave it out" in capsys.readouterr().err
