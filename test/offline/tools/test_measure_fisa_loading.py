"""The tool that measures FISA's loading runs, and its parts add up."""

import re
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from numbered_images import Striped

from ovseg_ros.offline.train import data

TOOL = Path(__file__).parents[3] / "tools" / "measure_fisa_loading.py"


def test_parts_and_needs_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class OnDisk(Striped):
        def paths_of(self, index: int) -> tuple[Path, Path]:
            return TOOL, TOOL

    arguments = [str(TOOL), "--data", str(tmp_path), "--size", "64", "--images", "2"]
    with (
        patch.object(data, "open_data", lambda config, run: OnDisk(2)),
        patch.object(sys, "argv", arguments),
        patch.object(torch, "set_num_threads"),  # as it is for the other tests
        pytest.raises(SystemExit, match="^0$"),
    ):
        runpy.run_path(str(TOOL), run_name="__main__")
    told = capsys.readouterr().out
    parts = dict(re.findall(r"^(.*?) +([\d.]+) core-ms a sample$", told, re.MULTILINE))
    loading = float(parts["loading, all that is not the device"])
    own = ("read image and annotation", "draw the view", "unpack masks", "image and segments of the view")
    assert loading > 0.8 * sum(float(parts[part]) for part in own) > 0
    rates = re.findall(r"^(\d) GPU\(s\).* (\d+) samples/s, ([\d.]+) cores", told, re.MULTILINE)
    assert [(gpus, rate) for gpus, rate, _ in rates] == [("1", "50"), ("8", "400")]
    assert float(rates[1][2]) == pytest.approx(0.4 * loading, abs=0.1)
