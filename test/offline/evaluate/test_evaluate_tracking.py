"""Identity over time, measured: with ground-truth masks at any rate, and the command as a whole."""

import json
from pathlib import Path

import pytest

from ovseg_ros.offline.cli.main import main

pytest.importorskip("ovseg_ros.sim.simulator", reason="the simulated takes need mujoco")


@pytest.mark.parametrize("rate", ["2", "6"])
def test_objects_keep_their_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: str) -> None:
    path = tmp_path / "tracking.json"
    take = ["--sequences", "2", "--seconds", "6", "--rate", rate, "--seed", "300", "--json", str(path)]
    assert main(["evaluate-tracking", *take]) == 0
    report = json.loads(path.read_text())
    assert report["preset"] is None and "predicted_masks" not in report
    figures = report["ground_truth_masks"]
    assert figures["true_observations"] == figures["predicted_observations"] > 20
    assert figures["idf1"] >= 90 and figures["recall"] == 100
    assert figures["identity_switches"] <= 2
    assert "IDF1" in capsys.readouterr().out


def test_takes_without_a_frame_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate-tracking", "--seconds", "0.5", "--rate", "1"]) == 2
    assert "0.5 s at 1 frames/s hold no frame; give more of either" in capsys.readouterr().err
