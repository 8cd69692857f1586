"""Shards, merging and resuming: any way of dividing the work gives the same figures to the last digit."""

import json
import re

import numpy as np
import pytest

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.presets import preset_path
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.evaluate import plan
from ovseg_ros.offline.evaluate.figures import figures_of
from ovseg_ros.offline.evaluate.measure import Evaluator
from ovseg_ros.offline.evaluate.partial import merge_partials, read_partial
from ovseg_ros.offline.evaluate.plan import Shard

IMAGES = 9


@pytest.fixture
def folder(painted, tmp_path):
    """Masks are a little off and two names are confused, so that figures have many digits."""
    painted.use(painted.segmenter(mistakes={1: 2}, shift=2, unsure=(4,), unknown={"green block", "blue block"}))
    return painted.write_folder(tmp_path / "data", IMAGES, crowd={3, 4}, void={5})


def evaluate(folder, *options):
    how = ["--split", "test", "--synonyms", "--min-objectness", "0.5"]
    return main(["evaluate", "--data", "tabletop", "--root", str(folder), *how, *map(str, options)])


def figures(path):
    """The file's content but for the times, which no two runs share."""
    content = json.loads(path.read_text())
    assert set(content.pop("seconds_per_image")) == {"p50", "p95"}
    return json.dumps(content)


def shards(folder, tmp_path, count):
    paths = [tmp_path / f"{count}-{number}.jsonl" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        assert evaluate(folder, "--shard", f"{number}/{count}", "--partial", path) == 0
    return paths


def test_merged_shards_equal_the_whole_to_the_last_digit(folder, tmp_path):
    assert evaluate(folder, "--json", tmp_path / "whole.json", "--report", tmp_path / "whole") == 0
    whole = figures(tmp_path / "whole.json")
    found = json.loads(whole)
    assert all(len(str(value)) > 10 for value in (found["miou"], found["all"]["pq"], found["ap"]["ap"]))
    assert found["synonyms"]["unseen"]["pq"] < found["unseen"]["pq"] and found["min_objectness"] == 0.5
    for count in (1, 2, 4):
        paths = shards(folder, tmp_path, count)
        for order in (paths, paths[::-1]):
            report = ["--report", str(tmp_path / "merged"), "--root", str(folder)] if count == 4 else []
            assert main(["evaluate", "--merge", *map(str, order), "--json", str(tmp_path / "m.json"), *report]) == 0
            assert figures(tmp_path / "m.json") == whole
    pages = [(tmp_path / name / "report.html").read_text().splitlines() for name in ("merged", "whole")]
    merged, whole = ([line for line in page if ">command<" not in line and ">date<" not in line] for page in pages)
    assert merged == whole and len(whole) == len(pages[0]) - 2


def test_records_in_any_order_and_through_a_file_give_the_same_figures(folder, tmp_path):
    [path] = shards(folder, tmp_path, 1)
    plan, records = merge_partials([path])
    expected = json.dumps(figures_of(plan, records))
    for seed in range(5):
        shuffled = [records[i] for i in np.random.default_rng(seed).permutation(len(records))]
        assert json.dumps(figures_of(plan, shuffled)) == expected


def test_a_killed_run_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    path = tmp_path / "part.jsonl"
    measured = []
    honest = Evaluator.measure

    def killed(self, truth, keep=None):
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(truth.name)
        return honest(self, truth, keep)

    monkeypatch.setattr(Evaluator, "measure", killed)
    assert evaluate(folder, "--partial", path) == 130
    content = path.read_bytes()
    path.write_bytes(content + content.splitlines()[-1][:50])  # as if the kill came in the middle of a line
    measured.clear()
    monkeypatch.setattr(
        Evaluator, "measure", lambda self, truth, keep=None: measured.append(truth.name) or honest(self, truth)
    )
    assert evaluate(folder, "--partial", path, "--json", tmp_path / "resumed.json") == 0
    assert len(measured) == IMAGES - 4
    assert evaluate(folder, "--json", tmp_path / "whole.json") == 0
    assert figures(tmp_path / "resumed.json") == figures(tmp_path / "whole.json")
    assert evaluate(folder, "--partial", path, "--json", tmp_path / "resumed.json") == 0  # nothing left to do
    assert figures(tmp_path / "resumed.json") == figures(tmp_path / "whole.json")


def test_a_repaired_image_is_evaluated_when_the_run_goes_on(folder, tmp_path):
    path, broken = tmp_path / "part.jsonl", folder / "images" / "000001.png"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    assert evaluate(folder, "--partial", path) == 1
    assert read_partial(path)[2]["000001"].fault
    broken.write_bytes(content)
    assert evaluate(folder, "--partial", path, "--json", tmp_path / "repaired.json") == 0
    assert evaluate(folder, "--json", tmp_path / "whole.json") == 0
    assert figures(tmp_path / "repaired.json") == figures(tmp_path / "whole.json")


def test_parts_that_do_not_fit_together_are_refused(folder, tmp_path, capsys):
    first, second = shards(folder, tmp_path, 2)
    with pytest.raises(DatasetError, match="5 of the evaluation's 9 images"):
        merge_partials([first])
    with pytest.raises(DatasetError, match="000000 is in"):
        merge_partials([first, second, first])
    other = tmp_path / "other.jsonl"
    assert evaluate(folder, "--shard", "2/2", "--partial", other, "--oracle", "classes") == 0
    with pytest.raises(DatasetError, match="oracle is '' and 'classes'"):
        merge_partials([first, other])
    assert evaluate(folder, "--shard", "1/2", "--partial", other) == 2
    assert "another evaluation" in capsys.readouterr().err
    assert evaluate(folder, "--shard", "1/2", "--partial", second) == 2
    assert "shard is 2/2 and 1/2" in capsys.readouterr().err


def test_another_preset_and_other_words_are_told_by_their_names(folder, tmp_path, capsys, monkeypatch):
    mine = tmp_path / "mine.yaml"
    mine.write_bytes(preset_path("tabletop").read_bytes())
    monkeypatch.setattr(plan, "checkpoint_paths", lambda preset: ())
    part = ["--partial", tmp_path / "part.jsonl"]
    assert evaluate(folder, "--preset", mine, *part) == 0
    mine.write_text(mine.read_text().replace("object_threshold: 0.5", "object_threshold: 0.4"))
    assert evaluate(folder, "--preset", mine, *part) == 2
    told = capsys.readouterr().err
    digest = r"with the SHA-256 \w{12}"
    assert re.search(rf"preset is \S+ {digest} and \S+ {digest};", told)  # long paths are shortened
    words = ", ".join(f"odd thing {i}" for i in range(100))
    assert evaluate(folder, "--vocabulary", words, *part) == 2
    assert "vocabulary is '' with the SHA-256" in capsys.readouterr().err


def test_a_part_of_an_earlier_version_goes_on_and_is_merged_without_what_it_lacks(folder, tmp_path):
    first, second = shards(folder, tmp_path, 2)
    head, *records = (json.loads(line) for line in first.read_text().splitlines())
    for record in records:
        del record["unnamed"]
    kept = [head | {"format": "ovseg evaluation 2"}, *records[:2]]  # stopped before the third
    first.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert evaluate(folder, "--shard", "1/2", "--partial", first) == 0
    assert evaluate(folder, "--json", tmp_path / "whole.json") == 0
    assert main(["evaluate", "--merge", str(first), str(second), "--json", str(tmp_path / "merged.json")]) == 0
    whole, merged = (json.loads(figures(tmp_path / name)) for name in ("whole.json", "merged.json"))
    assert whole.pop("names_ignored")["pq"] > 0 and merged == whole


def test_a_file_that_is_no_part_is_not_replaced(folder, tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("a line without an end")
    assert evaluate(folder, "--partial", path) == 2
    assert "notes.txt is no part of an evaluation, and would be lost; choose another" in capsys.readouterr().err
    assert path.read_text() == "a line without an end"
    path.write_text('{"plan": {"pre')  # killed while the first line was written
    assert evaluate(folder, "--partial", path) == 0


@pytest.mark.parametrize("content", ["", "{}\n", "no JSON\n", '{"format": "ovseg evaluation 1"}\n', "[1]\n"])
def test_other_files_are_no_parts(tmp_path, content):
    (tmp_path / "part").write_text(content)
    with pytest.raises(DatasetError, match="part"):
        read_partial(tmp_path / "part")


def test_a_damaged_line_is_named(folder, tmp_path):
    [path] = shards(folder, tmp_path, 1)
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace('"quality"', '"qualms"')
    path.write_text("".join(lines))
    with pytest.raises(DatasetError, match="line 4"):
        read_partial(path)


def test_shards_cover_every_image_once():
    for count in (1, 2, 3, 7, 12):
        parts = [Shard(number, count).of(10) for number in range(1, count + 1)]
        assert sorted(i for part in parts for i in part) == list(range(10))


def test_the_report_needs_the_files_that_the_parts_were_made_with(folder, tmp_path, monkeypatch, capsys):
    paths = shards(folder, tmp_path, 2)
    (tmp_path / "weights").write_bytes(b"other")
    monkeypatch.setattr(plan, "checkpoint_paths", lambda preset: (tmp_path / "weights",))
    report = ["--report", str(tmp_path / "report"), "--root", str(folder)]
    assert main(["evaluate", "--merge", *map(str, paths), *report]) == 2
    assert "checkpoints is {} and {'weights'" in capsys.readouterr().err


def test_ranks_of_torchrun_are_shards(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    assert evaluate(folder, "--shard", "rank", "--partial", tmp_path / "{shard}.jsonl") == 2
    assert "torchrun" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert evaluate(folder, "--shard", "rank", "--partial", tmp_path / "{shard}.jsonl") == 0
    assert len(merge_partials([tmp_path / "1.jsonl", tmp_path / "2.jsonl"])[1]) == IMAGES


def test_what_clip_reads_of_guided_masks_is_known() -> None:
    """A word ensemble's own settings do not say; how CLIP names does."""
    assert plan._objectness_read("tabletop_pmp") == plan._objectness_read("tabletop") == 0.25


def test_somebodys_own_data_set_is_known_by_what_its_file_says() -> None:
    here = plan.Plan("tabletop", "here/own.yaml", data_sha256="a" * 64)
    assert here.difference(plan.Plan("tabletop", "there/own.yaml", data_sha256="a" * 64)) == ""
    other = here.difference(plan.Plan("tabletop", "here/own.yaml", data_sha256="b" * 64))
    assert (
        other == f"data is 'here/own.yaml' with the SHA-256 {'a' * 12} and 'here/own.yaml' with the SHA-256 {'b' * 12}"
    )
    assert "data is 'coco_panoptic' and 'ade20k_panoptic'" in plan.Plan("tabletop", "coco_panoptic").difference(
        plan.Plan("tabletop", "ade20k_panoptic")
    )
