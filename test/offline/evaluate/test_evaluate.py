"""`ovseg evaluate` on the tabletop, rendered or read: groups, held-out names, objectness, parts and pages."""

import json
from importlib.metadata import version

import pytest
import yaml

from ovseg_ros.core.engine.options import Engine, EngineOptions
from ovseg_ros.core.presets import preset_path
from ovseg_ros.core.weights.files import sha256_of
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, write_dataset
from ovseg_ros.offline.evaluate import plan, run
from ovseg_ros.offline.evaluate.partial import read_partial
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym


def figures(tmp_path, *options, code=0):
    path = tmp_path / "out" / "figures.json"
    path.unlink(missing_ok=True)
    assert main(["evaluate", *map(str, options), "--json", str(path)]) == code
    return json.loads(path.read_text())


def without_times(found):
    return {key: value for key, value in found.items() if key != "seconds_per_image"}


def test_the_truth_scores_100_in_every_group(painted, tmp_path):
    painted.use(painted.segmenter())
    found = figures(tmp_path, "--dataset", painted.write_folder(tmp_path / "data", 4))
    assert found["groups"] == ["all", "things", "stuff", "seen", "unseen"] and (found["split"], found["images"]) == (
        "test",
        4,
    )
    seen, unseen = (len(group & set(painted.names)) for group in (SEEN, UNSEEN))
    assert (seen, unseen) == (4, 2)
    for name, count in (("seen", seen), ("unseen", unseen), ("things", 6), ("all", 6)):
        row = found[name]
        assert (row["pq"], row["miou"], row["categories"], row["pq_ci95"]) == (100.0, 100.0, count, [100.0, 100.0])
    assert found["stuff"]["pq"] is None and found["stuff"]["miou"] is None and found["stuff"]["categories"] == 0
    assert found["mask_recall_50"] == found["segment_recall_50"] == 100.0
    for name in painted.names:
        row = found["per_category"][name]
        assert row["tp"] >= 1 and (row["seen"], row["unseen"]) == (name in SEEN, name in UNSEEN)


def test_an_unseen_object_named_as_a_seen_one_costs_both_groups(painted, tmp_path):
    index = [name in UNSEEN for name in painted.names].index(True)
    painted.use(painted.segmenter(mistakes={index: 1}))
    found = figures(tmp_path, "--dataset", painted.write_folder(tmp_path / "data", 4))
    assert found["unseen"]["pq"] == 50.0 and found["per_category"][painted.names[index]]["pq"] == 0.0
    assert found["names_ignored"]["pq"] == 100.0
    assert found["seen"]["rq"] < 100.0 and found["mask_recall_50"] == found["segment_recall_50"] == 100.0


def test_held_out_names_are_scored_against_the_same_truth(painted, tmp_path, capsys):
    unseen = [held_out_synonym(name) for name in painted.names if name in UNSEEN]
    painted.use(painted.segmenter(unknown=unseen))
    found = figures(tmp_path, "--dataset", painted.write_folder(tmp_path / "data", 4), "--synonyms")
    assert found["all"]["pq"] == 100.0
    renamed = found["synonyms"]
    assert (renamed["seen"]["pq"], renamed["unseen"]["pq"]) == (100.0, 0.0)
    assert (renamed["drop_seen"], renamed["drop_unseen"]) == (0.0, 100.0) and renamed["drop"] == pytest.approx(100 / 3)
    assert renamed["names"] == [held_out_synonym(spec.name) for spec in TABLETOP_SPECS]
    assert {"red block", "desk"} <= set(renamed["names"])
    assert found["synonyms_and_colors"]["drop"] == 0.0 and "crimson sphere" in found["synonyms_and_colors"]["names"]
    assert "PQ by synonyms and colors: all 100.0" in capsys.readouterr().out


def test_proposals_that_the_preset_does_not_read_do_not_count_for_recall(painted, tmp_path):
    painted.use(painted.segmenter(unsure=(1, 2, 3)))
    folder = painted.write_folder(tmp_path / "data", 4)
    found = figures(tmp_path, "--dataset", folder)
    assert found["min_objectness"] == 0.25  # of the preset
    assert found["mask_recall_50"] < 60 and found["segment_recall_50"] == found["all"]["pq"] == 100.0
    assert found["names_ignored"]["pq"] == 100.0
    assert figures(tmp_path, "--dataset", folder, "--min-objectness", 0)["mask_recall_50"] == 100.0
    assert figures(tmp_path, "--dataset", folder, "--min-objectness", 0.9)["mask_recall_50"] == 0.0
    assert (
        figures(tmp_path, "--dataset", folder, "--min-objectness", 0.9, "--oracle", "masks")["mask_recall_50"] == 100.0
    )


@pytest.fixture
def tiny(monkeypatch, tmp_path, tiny_segmenter):
    """The command evaluates a tiny segmenter with random weights."""
    (tmp_path / "weights.bin").write_bytes(b"abc")
    monkeypatch.setattr(run, "build_segmenter", lambda *_: tiny_segmenter)
    monkeypatch.setattr(plan, "checkpoint_paths", lambda preset: (tmp_path / "weights.bin",))


def test_what_is_rendered_and_what_is_read_have_the_same_figures(tmp_path, tiny, capsys):
    out = [tmp_path / "rendered", tmp_path / "read"]
    rendered = figures(tmp_path, "--images", 2, "--seed", 5, "--split", "val", "--synonyms", "--predictions", out[0])
    assert (rendered["split"], rendered["images"], rendered["seed"]) == ("val", 2, 5)
    assert rendered["checkpoints"] == {"weights.bin": sha256_of(tmp_path / "weights.bin")}
    assert (rendered["engine"], rendered["precision"]) == ("eager", "float32")
    assert (rendered["root"], rendered["version"]) == ("", version("ovseg_ros"))
    assert rendered["device"] == "cpu" and rendered["seconds_per_image"]["p50"] > 0
    assert 0 <= rendered["mask_recall_50"] <= 100 and {"pq", "sq", "rq"} <= rendered["synonyms"]["unseen"].keys()
    table = capsys.readouterr().out
    assert "unseen" in table and "mask recall" in table and "seconds per image on cpu" in table
    write_dataset(DatasetConfig("val", count=3, seed=5), tmp_path / "data", workers=1)
    for options in (["--dataset", tmp_path / "data"], ["tabletop", "--root", tmp_path / "data"]):
        read = figures(tmp_path, *options, "--images", 2, "--synonyms", "--predictions", out[1])
        assert read.pop("root") == str(tmp_path / "data")
        assert without_times(read) == without_times({key: v for key, v in rendered.items() if key != "root"})
    indices = [json.loads((folder / "panoptic.json").read_text()) for folder in out]
    for key in ("images", "annotations", "info"):
        assert indices[0][key] == indices[1][key]
    assert [image["id"] for image in indices[0]["images"]] == [1, 2]
    for name in ("panoptic/000001.png", "semantic/000001.png", "instances.json"):
        assert (out[0] / name).read_bytes() == (out[1] / name).read_bytes()


def test_parts_by_other_engines_or_in_other_precisions_are_not_merged(painted, tmp_path, monkeypatch, capsys):
    segmenter, asked = painted.segmenter(), []

    def build(preset, device, options, tell):
        asked.append(options)
        segmenter.engine = Engine(options.engine, options.precision, "engine ...")
        return segmenter

    monkeypatch.setattr(run, "build_segmenter", build)
    options = ["--dataset", painted.write_folder(tmp_path / "data", 2), "--preset", "tabletop"]
    for number, precision in ((1, "float32"), (2, "float16")):
        part = ["--shard", f"{number}/2", "--partial", tmp_path / f"{number}", "--precision", precision]
        assert main(["evaluate", *map(str, (*options, *part))]) == 0
    assert asked == [EngineOptions("eager", "float32"), EngineOptions("eager", "float16")]
    assert main(["evaluate", "--merge", str(tmp_path / "1"), str(tmp_path / "2")]) == 2
    error = capsys.readouterr().err
    assert "precision is " in error
    assert "'float32'" in error
    assert "'float16'" in error


def test_rendered_scenes_are_evaluated_in_parts_with_a_report(tmp_path, tiny):
    options = ["--images", 3, "--oracle", "classes", "--vocabulary", ", ".join(f"odd thing {i}" for i in range(100))]
    whole = figures(tmp_path, *options, "--report", tmp_path / "whole")
    assert whole["oracle"] == "classes" and "seconds_per_image" not in whole
    parts = [str(tmp_path / f"{number}.jsonl") for number in (1, 2)]
    for number in (1, 2):
        part = ["--shard", f"{number}/2", "--partial", tmp_path / "{shard}.jsonl"]
        assert main(["evaluate", *map(str, (*options, *part))]) == 0
    assert figures(tmp_path, "--merge", *parts, "--report", tmp_path / "merged") == whole
    pages = [(tmp_path / name / "report.html").read_text().splitlines() for name in ("merged", "whole")]
    merged, whole = ([line for line in page if ">command<" not in line and ">date<" not in line] for page in pages)
    assert merged == whole and len(whole) == len(pages[0]) - 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--split", "valley"], "unknown split 'valley'"),
        (["--seed", "3", "--dataset", "{folder}"], "seed 3 is asked for, but the data has none"),
        (["--split", "val", "--dataset", "{folder}"], "holds the split 'test'; expected 'val'"),
        (["--min-objectness", "0", "--data", "ade20k_semantic", "--root", "{ade}"], "has no instances and so no mask"),
        (["--synonyms", "--data", "ade20k_semantic", "--root", "{ade}"], "ade20k_semantic has no held-out names"),
    ],
)
def test_what_the_data_does_not_have_is_refused(painted, tmp_path, options, reason, capsys):
    folder, ade = painted.write_folder(tmp_path / "data", 1), tmp_path / "ade"
    (ade / "annotations").mkdir(parents=True)
    (ade / "images").mkdir()
    (folder / "images").rename(ade / "images" / "validation")
    (folder / "panoptic").rename(ade / "annotations" / "validation")
    (ade / "images" / "validation" / "000000.png").rename(ade / "images" / "validation" / "000000.jpg")
    assert main(["evaluate", *(option.format(folder=folder, ade=ade) for option in options)]) == 2
    assert reason in capsys.readouterr().err


def test_the_descriptions_that_a_preset_asks_for_are_told_and_keep_parts_apart(tmp_path, tiny, capsys):
    path = preset_path("tabletop")
    content = yaml.safe_load(path.read_text())
    content["model"]["descriptions"] = {"files": ["mine.yaml"]}
    preset, described = tmp_path / "mine_preset.yaml", tmp_path / "mine.yaml"
    preset.write_text(yaml.safe_dump(content))
    found, parts = [], []
    for number, color in enumerate(("red", "blue"), start=1):
        described.write_text(f"format: 1\nwords: {{cup: {{color: [{color}]}}}}\n")
        part = tmp_path / f"{number}.jsonl"
        options = ["--preset", preset, "--images", 2, "--shard", f"{number}/2", "--partial", part]
        assert main(["evaluate", *map(str, options)]) == 0
        found.append({"mine.yaml": sha256_of(described)})
        parts.append(str(part))
        assert read_partial(part)[0].descriptions == found[-1]
    assert main(["evaluate", "--merge", *parts]) == 2
    assert "belong to different evaluations: descriptions is {'mine.yaml': " in capsys.readouterr().err
    assert figures(tmp_path, "--preset", preset, "--images", 1)["descriptions"] == found[-1]
    assert figures(tmp_path, "--images", 1)["descriptions"] == {}
    described.unlink()
    assert main(["evaluate", "--preset", str(preset), "--images", "1"]) == 2
    assert "there is no descriptions file 'mine.yaml'" in capsys.readouterr().err
