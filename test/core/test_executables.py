"""Ctrl-C and SIGTERM while a program imports, which takes seconds: the programs are those that CMake installs."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
SLOW = """
import os, time, traceback
try:
    print("importing", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("KMP_BLOCKTIME"), flush=True)
    time.sleep(60)
except BaseException:  # as the C code of some libraries
    traceback.print_exc()
    raise ImportError("failed to import")
"""
FAKES = ("diagnostic_msgs", "rclpy", "torch", "numpy")
"""Modules that each program imports one of at first."""
CASES = {
    "segment_node": ((), (0, 0), ""),
    "tabletop_camera": ((), (0, 0), ""),
    "demo": ((), (1, 1), "demo: interrupted\n"),
    "ovseg": (("bench",), (130, 143), "ovseg: stopped\n"),
}
"""Of each executable: arguments, its exit codes by SIGINT and SIGTERM, and what it says to the first."""


def without_choice() -> dict[str, str]:
    """The environment of a user who has not chosen how helpers of PyTorch's threads wait."""
    return {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")}


def configure(folder: Path, python: Path) -> Path:
    """The executables as CMake makes them for an interpreter."""
    if shutil.which("cmake") is None:
        pytest.skip("making the executables needs cmake")
    command = ["cmake", f"-DPython3_EXECUTABLE={python}", "-P", str(SCRIPTS / "configure.cmake")]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "scripts"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Executables of an interpreter whose path no kernel would take: a space, both quotes, and more than 127 bytes."""
    folder = tmp_path_factory.mktemp("programs")
    odd = folder / 'it\'s a "folder" with spaces' / ("long" * 40)
    odd.mkdir(parents=True)
    (odd / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (odd / "python3").chmod(0o755)
    return configure(folder, odd / "python3")


@pytest.fixture(scope="module")
def importing(programs: Path) -> Iterator[dict[tuple[str, int], subprocess.Popen[str]]]:
    """Every program twice, in the midst of an import: for SIGINT and for SIGTERM."""
    for name in FAKES:
        (programs / "fakes" / name).mkdir(parents=True)
        (programs / "fakes" / name / "__init__.py").write_text(SLOW)
    environment = without_choice() | {"PYTHONPATH": os.pathsep.join([str(programs / "fakes"), str(ROOT)])}
    started = {
        (name, number): subprocess.Popen(
            [programs / name, *CASES[name][0]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in CASES
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", CASES)
def test_a_signal_in_the_midst_of_an_import_ends_quietly(
    importing: dict[tuple[str, int], subprocess.Popen[str]], name: str, number: signal.Signals
) -> None:
    process = importing[name, number]
    assert process.stdout is not None
    # Those that run beside others let their helpers sleep; the command line has the machine to itself.
    policy = "None None" if name == "ovseg" else "PASSIVE 0"
    assert process.stdout.readline() == f"importing {policy}\n", process.communicate()[1]
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    _, codes, said = CASES[name]
    assert process.returncode == codes[number == signal.SIGTERM], error
    assert error == (said if number == signal.SIGINT or codes[0] == codes[1] else "")


def test_the_templates_can_be_executed() -> None:
    """CMake copies their mode, and a build with --symlink-install installs links to the copies."""
    templates = sorted(SCRIPTS.glob("*.in"))
    assert {path.stem for path in templates} == set(CASES)
    assert [path.name for path in templates if not os.access(path, os.X_OK)] == []


def test_any_path_of_the_interpreter(programs: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([programs / "ovseg", "--help"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: ovseg"), done.stderr
    # And as a Python file, for debuggers and tests.
    command = [sys.executable, programs / "ovseg", "a", "b c"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "invalid choice: 'a'" in done.stderr


def test_a_running_command_stops_as_before() -> None:
    code = (
        "import sys, time\n"
        "from ovseg_ros.offline.cli import __main__, main\n"
        "def work(): print('working', flush=True); time.sleep(60)\n"
        "main.main = work\n"
        "sys.exit(__main__.main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        assert (process.communicate(timeout=60)[1], process.returncode) == ("ovseg: stopped\n", 130)


@pytest.mark.parametrize(
    ("chosen", "policy"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"KMP_BLOCKTIME": "200"}, None)],
    ids=["nothing chosen", "spinning chosen", "another OpenMP's"],
)
def test_helpers_sleep_unless_the_user_wants_them_to_spin(chosen: dict[str, str], policy: str | None) -> None:
    code = (
        "import os\n"
        "from ovseg_ros.core.helper_threads import let_helpers_sleep\n"
        "let_helpers_sleep()\n"
        "print(os.environ.get('OMP_WAIT_POLICY'))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=without_choice() | chosen, capture_output=True, text=True, check=True)
    assert done.stdout == f"{policy}\n"


def test_pytorch_hears_that_helpers_sleep() -> None:
    """What OpenMP read when PyTorch was imported, by its own word."""
    code = "from ovseg_ros.core.helper_threads import let_helpers_sleep\nlet_helpers_sleep()\nimport torch"
    environment = without_choice() | {"OMP_DISPLAY_ENV": "VERBOSE"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr, done.stderr
