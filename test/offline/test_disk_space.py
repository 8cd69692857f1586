"""The set-up says that a disk is too small before it downloads anything."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(tmp_path):
    """Runs the check where df finds so many GB in the folder for temporary files, and so many everywhere else."""

    def run(*, here: int, temporary: int, is_one_disk: bool) -> subprocess.CompletedProcess:
        commands, other = tmp_path / "bin", tmp_path / "temporary"
        commands.mkdir()
        other.mkdir()
        devices = f'[ "${{@: -1}}" = "{other}" ] && echo {int(not is_one_disk)} || echo 0'
        sizes = f'echo Avail; [ "${{@: -1}}" = "{other}" ] && echo " {temporary}GB" || echo " {here}GB"'
        for name, body in {"stat": devices, "df": sizes}.items():
            (commands / name).write_text(f"#!/bin/bash\n{body}\n")
            (commands / name).chmod(0o755)
        environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "TMPDIR": str(other)}
        script = ["bash", str(ROOT / "tools/disk_space.bash")]
        return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60)

    return run


def test_enough(check):
    done = check(here=13, temporary=13, is_one_disk=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_enough_on_two_disks(check):
    assert check(here=9, temporary=4, is_one_disk=False).returncode == 0


def test_one_disk_holds_both(check):
    done = check(here=12, temporary=12, is_one_disk=True)
    assert done.returncode == 1
    assert f"needs 13 GB of free disk in {ROOT}, which has 12 GB" in done.stderr
    assert "TMPDIR" in done.stderr


def test_little_room_for_the_environment(check):
    done = check(here=8, temporary=99, is_one_disk=False)
    assert done.returncode == 1
    assert f"needs 9 GB of free disk in {ROOT}, which has 8 GB" in done.stderr


def test_little_room_for_temporary_files(check, tmp_path):
    done = check(here=99, temporary=3, is_one_disk=False)
    assert done.returncode == 1
    assert f"needs 4 GB of free disk in {tmp_path / 'temporary'}, which has 3 GB" in done.stderr
    assert "TMPDIR" in done.stderr
