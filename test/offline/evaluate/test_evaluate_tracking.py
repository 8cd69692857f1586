"""Identity over time, measured: with ground-truth masks at any rate, and the command as a whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ovseg_ros.offline.cli.main import main

pytest.importorskip("ovseg_ros.sim.simulator", reason="the simulated takes need mujoco")

from ovseg_ros.offline.evaluate import tracking


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


def test_votes_steady_the_names_that_change_in_every_frame(tmp_path, monkeypatch, capsys) -> None:
    """True masks; the named category is right in two frames of three."""
    calls = []

    class Wavering:
        def prepare(self, vocabulary):
            return vocabulary.categories

        def segment(self, image, categories):
            calls.append(image)
            result, wrong = truths.pop(0), len(calls) % 3 == 0
            by_name = {category.name: category for category in categories}
            segments = [
                replace(
                    segment,
                    category_id=categories[0].id if wrong and segment.is_thing else by_name[segment.label].id,
                    score=0.9,
                )
                for segment in result.segments
            ]
            return replace(result, segments=tuple(segments))

    truths = []
    of_frame = tracking.truth_result
    monkeypatch.setattr(tracking, "truth_result", lambda frame: truths.append(of_frame(frame)) or truths[-1])
    monkeypatch.setattr(tracking, "build_segmenter", lambda *_: Wavering())
    path = tmp_path / "tracking.json"
    take = ["--sequences", "2", "--seconds", "3", "--rate", "5", "--seed", "300", "--json", str(path)]
    assert main(["evaluate-tracking", "--preset", "wavering", "--name-votes", "5", *take]) == 0
    alone, voted = (json.loads(path.read_text())["names"][votes] for votes in ("0", "5"))
    assert alone["name_changes"] > 20 and voted["name_changes"] <= 2
    assert alone["pq"] < 90 < voted["pq"]
    assert f"names by 5 votes: {voted['name_changes']} changes" in capsys.readouterr().out


def test_takes_without_a_frame_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate-tracking", "--seconds", "0.5", "--rate", "1"]) == 2
    assert "0.5 s at 1 frames/s hold no frame; give more of either" in capsys.readouterr().err
