"""The set-up says that a disk is too small before it downloads anything."""

import importlib.util
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/disk_space.py"
Usage = namedtuple("Usage", "free")


@pytest.fixture
def module(monkeypatch):
    spec = importlib.util.spec_from_file_location("disk_space", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("PIP_NO_CACHE_DIR", "PIP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return module


@pytest.fixture
def free(monkeypatch):
    def set_free(gb):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(gb * 1000**3))

    return set_free


def on_one_disk(module, tmp_path):
    return [need._replace(folder=tmp_path) for need in module.needs(tmp_path)]


def test_a_first_set_up_needs_the_environment_temporary_files_and_the_cache(module, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    environment, temporary, cache = module.needs(tmp_path)
    assert (environment.folder, environment.gb) == (tmp_path, 9)
    assert temporary.gb == 4 and temporary.folder.is_dir()
    assert (cache.folder, cache.gb) == (tmp_path / "caches/pip", 4)
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert module.needs(tmp_path)[2].folder == tmp_path / "elsewhere"
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    assert len(module.needs(tmp_path)) == 2


def test_enough_is_enough(module, tmp_path, free):
    free(17)
    assert module.complaint(on_one_disk(module, tmp_path)) is None


def test_what_else_helps_is_said_where_it_would_be_enough(module, tmp_path, free):
    free(16.9)
    said = module.complaint(on_one_disk(module, tmp_path))
    assert "needs 17 GB of free disk" in said and "there are 16.9 GB" in said and str(tmp_path) in said
    assert "TMPDIR=FOLDER" in said and "PIP_NO_CACHE_DIR=1" in said
    free(8.9)
    said = module.complaint(on_one_disk(module, tmp_path))
    assert "there are 8.9 GB. Free some. Then" in said and "TMPDIR" not in said


def test_a_folder_that_is_not_there_yet_counts_for_the_disk_above_it(module, tmp_path, free):
    free(3)
    said = module.complaint([module.Need("pip's cache", tmp_path / "not/yet", 4)])
    assert f"4 for pip's cache in {tmp_path}/not/yet" in said


@pytest.mark.parametrize("folder", ["/not/there", "", "-x", "relative folder"])
def test_a_folder_for_temporary_files_that_python_would_not_take_stops_nothing(folder):
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env={"TMPDIR": folder}, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "of free disk" in done.stderr  # of this machine


def test_no_folder_for_temporary_files_at_all(module, monkeypatch, capsys):
    def full():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(module.tempfile, "gettempdir", full)
    with pytest.raises(SystemExit, match="make setup: pip needs a folder for temporary files .*/tmp.* set TMPDIR"):
        module.main()
