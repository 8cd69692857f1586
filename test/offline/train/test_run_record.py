"""What a run folder keeps of its recipe and data, and what a run that goes on may change."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_training import EOMT_RECIPE, run

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.version import VERSION
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.record import differences
from ovseg_ros.offline.train.run import load_recipe


def test_a_run_keeps_the_recipe_that_it_was_begun_with(eomt: Path, data: Path, tmp_path: Path) -> None:
    """All of it, readable, and a recipe in itself."""
    kept = load_recipe(str(eomt / "run.yaml"))
    (tmp_path / "recipe.yaml").write_text(EOMT_RECIPE)
    assert kept.stages == load_recipe(str(tmp_path / "recipe.yaml")).stages
    assert kept.record is not None and kept.record.version == VERSION and kept.record.command
    assert re.fullmatch(r"panoptic.json, SHA-256 [0-9a-f]{16}", kept.record.data["eomt"])
    content = yaml.safe_load((eomt / "run.yaml").read_text())
    assert content["stages"][0]["loop"]["betas"] == [0.9, 0.98]  # a default
    assert train_again(eomt, tmp_path, data, (eomt / "run.yaml").read_text()) == 0


def train_again(eomt: Path, folder: Path, data: Path, recipe: str, *arguments: str) -> int:
    """Go on in a copy of a finished training."""
    shutil.copytree(eomt, folder / "copy")
    return run(folder / "copy", recipe, data, "--resume", "require", *arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("split: train", "split: val"), r"stages\[0\].data.split was 'train', is 'val'\."),
        (("points: 64", "points: 64, class_weight: 20.0"), r"stages\[0\].loss.class_weight was 2.0, is 20.0\."),
        (("scale: [0.5, 2.0]", "scale: [0.5, 1.0]"), r"stages\[0\].augmentation.scale\[1\] was 2.0, is 1.0\."),
        (("annealing_ends: [3]", "annealing_ends: [4]"), r"stages\[0\].annealing_ends\[0\] was 3, is 4\."),
        (("width: 16", "width: 32"), r"stages\[0\].network.architecture.width was 16, is 32\."),
        (("1.0e-3", "2.0e-3"), r"stages\[0\].loop.learning_rate was 0.001, is 0.002\."),
    ],
)
def test_another_recipe_is_refused_with_the_values_that_differ(
    eomt: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: tuple[str, str],
    message: str,
) -> None:
    assert train_again(eomt, tmp_path, data, EOMT_RECIPE.replace(*changed)) == 2
    assert re.search(f"was begun with another recipe or data: {message} Choose another --out", capsys.readouterr().err)


def test_other_images_are_refused(eomt: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    index = json.loads((other / "panoptic.json").read_text())
    (other / "panoptic.json").write_text(
        json.dumps({**index, "images": index["images"][:2], "annotations": index["annotations"][:2]})
    )
    assert train_again(eomt, tmp_path, other, EOMT_RECIPE) == 2
    assert re.search(
        r"record.data.eomt was 'panoptic.json, SHA-256 \w+', is 'panoptic.json, SHA-256", capsys.readouterr().err
    )


def test_what_does_not_matter_may_change(
    eomt: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also --out, which the copy moves."""
    recipe = EOMT_RECIPE.replace("workers: 2", "workers: 1, on_error: stop").replace("log_every: 1", "log_every: 2")
    recorded = (eomt / "run.yaml").read_text()
    assert train_again(eomt, tmp_path, data, recipe, "--accumulate", "2") == 0
    assert not caplog.text and (tmp_path / "copy" / "run.yaml").read_text() == recorded  # written once


def test_another_version_and_an_older_folder_are_said(
    eomt: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_again(eomt, tmp_path, data, EOMT_RECIPE) == 0
    copy = tmp_path / "copy"
    path = copy / "run.yaml"
    path.write_text(path.read_text().replace(f"version: {VERSION}", "version: 0.0.7"))
    assert run(copy, EOMT_RECIPE, data) == 0
    assert f"was begun by version 0.0.7 of ovseg_ros, this is {VERSION}" in caplog.text
    path.write_text("stages: {}")
    assert run(copy, EOMT_RECIPE, data) == 2
    assert "run.yaml does not say what the run was begun with" in capsys.readouterr().err
    path.unlink()
    assert run(copy, EOMT_RECIPE.replace("1.0e-3", "2.0e-3"), data) == 2
    assert "has no run.yaml" in caplog.text and "learning_rate was 0.001, now 0.002" in capsys.readouterr().err


def test_a_result_never_leaves_the_folder_of_the_run(data: Path, tmp_path: Path) -> None:
    """Where a network names its file by a path, that is where it is used from."""
    mine, out = tmp_path / "mine.safetensors", tmp_path / "out"
    mine.write_bytes(b"years of work")
    out.mkdir()
    for name in (str(mine), "../mine.safetensors"):
        assert run(out, EOMT_RECIPE.replace("tiny_eomt.safetensors", name), data, "--steps", "1") == 0
        assert mine.read_bytes() == b"years of work" and (out / "mine.safetensors").stat().st_size > 1000
        shutil.rmtree(out)
        out.mkdir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("''", "of the stage eomt is called ''; expected the name of a file such as eomt.safetensors"),
        ("eomt", "is called 'eomt'; expected"),
        ("run.yaml", "is called 'run.yaml'; expected"),
        ("folder/", "is called 'folder/'; expected"),
        ("proposals/.safetensors", "is called 'proposals/.safetensors'; expected"),
        ('"a\\0.safetensors"', "expected the name of a file"),
        ("x" * 290 + ".safetensors", "has a name of 302 bytes"),
        ("folder.safetensors", "folder.safetensors is a folder; expected a file"),
        ("/elsewhere/mine.safetensors", "mine.safetensors is there already, and not of a run in "),
    ],
)
def test_a_result_that_cannot_be_is_refused_before_the_first_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "mine.safetensors").write_bytes(b"years of work")
    assert run(tmp_path, EOMT_RECIPE.replace("tiny_eomt.safetensors", name), data) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.safetensors", "mine.safetensors", "recipe.yaml"]


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    run_here = Run(None, tmp_path, Engine("cpu"))
    with pytest.raises(ConfigError, match=r"stages eomt and clip are both called a.safetensors"):
        run_here.check_results({"eomt": "a.safetensors", "clip": "there/a.safetensors"}, begun=False)


def test_the_version_is_the_packages() -> None:
    root = Path(__file__).parents[3]
    assert f'version="{VERSION}"' in (root / "setup.py").read_text()
    assert f"<version>{VERSION}</version>" in (root / "package.xml").read_text()


def test_differences_are_told_where_they_are() -> None:
    was = {
        "stages": [{"loop": {"steps": 3, "seed": 1}, "encoder": None}],
        "mixed_precision": "fp16",
        "preset": "a.yaml",
    }
    now = {"stages": [{"loop": {"steps": 4, "seed": 2}, "encoder": {"prefix": "e."}}], "mixed_precision": "no"}
    assert list(differences(was, {**was, **now})) == [
        "stages[0].loop.seed was 1, is 2",
        "stages[0].encoder was None, is {'prefix': 'e.'}",
    ]
    assert list(differences({"stages": [1]}, {"stages": [1, 2]})) == ["stages was [1], is [1, 2]"]
