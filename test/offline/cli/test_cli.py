"""The command line itself: quick help, lazy imports, exit codes, odd values, options without effect."""

import errno
import os
import subprocess
import sys
from dataclasses import fields
from typing import get_type_hints

import pytest

from ovseg_ros.offline import options
from ovseg_ros.offline.cli import main as cli
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.measure_options import engines, picture
from ovseg_ros.offline.option import path, some_text
from ovseg_ros.offline.tools import doctor

# fmt: off
COMMANDS = (
    "describe",
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
        ["evaluate-space", "--split", "nosuch"],
        ["ablate", "tabletop", "--out", "x", "--split", "tset"],
        ["dataset", "tabletop", "--split", "test", "--count", "1", "--out", "x", "--size", "4000x3000"],
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
        (ModuleNotFoundError("No module named 'ovseg_ros.msg'", name="ovseg_ros.msg"), 2, "build it with colcon"),
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


def _options():
    """Command, name as the command line has it, and description of every option."""
    for command, cls in cli._COMMANDS.items():
        hints = get_type_hints(cls, include_extras=True)
        for field in fields(cls):
            [option] = hints[field.name].__metadata__
            if not option.by_place:
                yield command, f"--{field.name.replace('_', '-')}", option


def _refused(command, capsys, *arguments):
    """What argparse says of a wrong value, in its last line."""
    with pytest.raises(SystemExit) as end:
        main([command, *arguments])
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


NUMBERS = [(c, n, o) for c, n, o in _options() if o.type not in (None, some_text, path, engines, picture)]


@pytest.mark.parametrize(("command", "name", "option"), NUMBERS, ids=[f"{c}{n}" for c, n, _ in NUMBERS])
def test_numbers_out_of_their_range_are_answered_with_it(command, name, option, capsys):
    for value in ("-1", "nan", "inf", "1e30", "9" * 5000, "many", ""):
        told = _refused(command, capsys, f"{name}={value}")
        assert f"argument {name}: {value[:40]!r} is not a" in told
        assert any(expected in told for expected in (" from ", " such as ", " above 0 and at most "))
    if name not in ("--seed", "--first-seed", "--noise", "--min-objectness", "--convolutions"):
        assert "'0' is not a" in _refused(command, capsys, f"{name}=0")


def test_engines_are_named_with_or_without_a_precision(capsys):
    for value in ("", "fast", "eager,", "eager:half"):
        told = _refused("bench", capsys, f"--engine={value}")
        assert "is not an engine; expected auto, eager, compile" in told
    assert engines("onnx, eager:float32") == ("onnx", "eager:float32")


def test_the_command_s_time_out_has_a_range(capsys):
    for value in ("0", "-1", "nan", "abc", "1e9"):
        told = _refused("vocabulary", capsys, "show", f"--timeout={value}")
        assert f"{value!r} is not a number above 0 and at most 86400" in told


def test_no_option_takes_an_empty_text(capsys):
    for command, name, action in _options():
        if action.type is not None:
            told = _refused(command, capsys, f"{name}=")
            assert f"argument {name}: " in told and ("it is empty" in told or "is not a" in told)


def test_the_splits_are_the_simulator_s():
    scene = pytest.importorskip("ovseg_ros.sim.scene")
    assert tuple(scene.SPLITS) == options.SPLITS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["segment", "{picture}", "--vocabulary", "cup", "--out", "x", "--topic", "/a"],
            "--topic would change nothing",
        ),
        (["segment", "{picture}", "--vocabulary", "cup", "--out", "x", "--no-overlay", "--mask-rle"], "leave them out"),
        (
            ["segment", "{picture}", "--vocabulary", "cup", "--out", "x", "--engine", "eager", "--engine-folder", "y"],
            "--engine-folder would change nothing: the engine eager runs nothing that was exported",
        ),
        (["evaluate", "--engine-folder", "y"], "--engine-folder would change nothing: the engine eager"),
        (["evaluate", "--merge", "x", "--engine", "compile"], "--engine would change nothing: the files of --merge"),
        (["evaluate-tracking", "--device", "cpu"], "--device would change nothing: without --preset nothing is"),
        (["bench", "--rate", "20"], "--rate would change nothing: it is of --delivered; leave it out"),
        (["bench", "--delivered", "--preset", "tabletop", "--soak", "1"], "--preset and --soak would change nothing"),
        (["bench", "--soak", "1", "--frames", "9"], "--frames would change nothing: --soak watches one camera"),
        (["ablate", "tabletop", "--out", "x", "--systems", "seve", "--ranks", "4"], "--ranks would change nothing"),
        (["ablate", "tabletop", "--out", "x", "--systems", "seve_lora", "--convolutions", "2"], "--convolutions would"),
        (["ablate", "pmp", "--out", "x", "--ranks", "4", "--convolutions", "2"], "they are of FISA's parts, which"),
        (["ablate", "omtseg", "--out", "x", "--ranks", "4"], "they are of FISA's parts, which"),
        (["ablate", "pmp", "--out", "x", "--device", "cuda"], "this ablation computes on the CPU"),
        (["ablate", "tabletop", "--out", "x", "--device", "cpu"], "this ablation computes on the CPU"),
    ],
)
def test_options_without_effect_are_refused(arguments, message, tmp_path, capsys):
    picture = tmp_path / "photo.png"
    picture.touch()
    assert main([argument.format(picture=picture) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("device", ["gpu", "mps", "meta", "cpu:x", "cuda:-1", "cuda:1000", "CUDA", "0", "cuda:"])
def test_unknown_devices_are_named(device, capsys):
    arguments = ["evaluate-tracking", "--preset", "tabletop", "--device", device, "--sequences", "1"]
    assert main(arguments) == 2
    assert f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(capsys):
    assert main(["evaluate-tracking", "--preset", "tabletop", "--device", "cuda:99"]) == 2
    assert "device 'cuda:99' is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOENT, "No such file or directory; correct the path, and try again"),
        (errno.EACCES, "Permission denied; make it readable (or, for results, writable), or choose another"),
        (errno.ENOSPC, "No space left on device; make room, and try again"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, number, told):
    def fail(options):
        raise OSError(number, os.strerror(number), "/a/file")

    monkeypatch.setattr(doctor, "doctor", fail)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == f"ovseg: error: /a/file: {told}\n"


PRINTING = """
import sys, time
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.measure_options import engines, picture
from ovseg_ros.offline.tools import doctor
def speak(options):
    print("ready", flush=True)
    sys.stdin.read(1)
    try:
        for _ in range(5000):
            print("\\u6905\\u5b50 \\xe9" * 10)
        if sys.argv[1] == "wait":
            time.sleep(60)
    finally:
        print("cleaned", file=sys.stderr)
    return 0
doctor.doctor = speak
sys.exit(main(["doctor"]))
"""


def start_printing(how):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    run = subprocess.Popen(
        [sys.executable, "-c", PRINTING, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert run.stdout.readline() == "ready\n"
    return run


def test_words_of_any_script_are_printed_in_any_encoding():
    output, error = start_printing("end").communicate("x", timeout=60)
    assert output.startswith(r"\u6905\u5b50 \xe9") and error == "cleaned\n"


def test_a_reader_that_has_gone_is_no_fault():
    run = start_printing("end")
    run.stdout.close()
    run.stdin.write("x")
    run.stdin.close()
    assert run.stderr.read() == "cleaned\n"
    assert run.wait(timeout=60) == 141


def test_sigterm_lets_a_command_clean_up():
    run = start_printing("wait")
    run.stdin.write("x")
    run.stdin.flush()
    run.stdout.readline()
    run.terminate()
    _, error = run.communicate(timeout=60)
    assert error == "cleaned\n" and run.returncode == 143


WRITING = [
    ["segment", "a.png", "--vocabulary", "cup", "--out", "OUT"],
    ["evaluate", "--json", "OUT"],
    ["evaluate", "--report", "OUT"],
    ["evaluate", "tabletop", "--predictions", "OUT"],
    ["evaluate", "--shard", "1/2", "--partial", "OUT"],
    ["evaluate", "--merge", "part.jsonl", "--json", "OUT"],
    ["evaluate-space", "--json", "OUT"],
    ["evaluate-tracking", "--json", "OUT"],
    ["bench", "--json", "OUT"],
    ["dataset", "tabletop", "--split", "test", "--count", "2", "--out", "OUT"],
    ["check-dataset", "tabletop", "--json", "OUT"],
    ["train", "tabletop", "--out", "OUT"],
    ["ablate", "tabletop", "--out", "OUT"],
    ["ablate", "pmp", "--out", "OUT"],
    ["ablate", "omtseg", "--out", "OUT"],
    ["count", "fisa_b", "--json", "OUT"],
    ["download", "fisa_b", "--cache", "OUT"],
]


@pytest.mark.parametrize("arguments", WRITING, ids=lambda arguments: " ".join(arguments[:3]))
def test_outputs_that_cannot_be_written_are_refused_at_once(arguments, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    option = arguments[arguments.index("OUT") - 1]
    for place, reason in (("file/out", "expected a folder"), ("a" * 300, "300 bytes"), ("/proc/out", "choose another")):
        out = str(tmp_path / place)
        assert main([out if argument == "OUT" else argument for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"ovseg: error: {option} ") and reason in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
