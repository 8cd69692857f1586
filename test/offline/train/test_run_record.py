"""What a run folder keeps of its recipe and data, and what a run that goes on may change."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_training import EOMT_RECIPE, run

from ovseg_ros.core.errors import CheckpointError, ConfigError, DatasetError
from ovseg_ros.core.presets import preset_path
from ovseg_ros.core.version import VERSION
from ovseg_ros.offline.train.data import PanopticData, RenderedData, require_instances
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.fisa import FisaTraining
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.record import LoopSession, _data_digest, differences, plain, record_of
from ovseg_ros.offline.train.run import load_recipe

CLIP = {
    "kind": "clip",
    "preset": "tabletop",
    "captions": {"scenes": 1, "views": 1},
    "masks": {"scenes": 1, "views": 1},
    "loop": {"steps": 1, "batch_size": 1, "learning_rate": 1.0},
    "adaptation": {"steps": 1, "batch_size": 1, "learning_rate": 1.0},
}


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
    assert re.search(
        f"was begun with another recipe, data or weights: {message} Choose another --out", capsys.readouterr().err
    )


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


def test_of_a_data_set_without_an_index_the_names_count(tmp_path: Path) -> None:
    for number in range(2):
        for file in (f"train2017/{number}.jpg", f"stuffthingmaps/train2017/{number}.png"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    here = Run(tmp_path, tmp_path / "out", Engine("cpu"))
    both = _data_digest(PanopticData("coco_stuff_download"), here)
    assert both == "2 images, SHA-256 " + hashlib.sha256(b"0\n1").hexdigest()[:16]
    (tmp_path / "train2017/2.jpg").touch()
    assert _data_digest(PanopticData("coco_stuff_download"), here).startswith("3 images, SHA-256 ")
    with pytest.raises(DatasetError, match="stuffthingmaps_detectron2/train2017 is missing"):
        _data_digest(PanopticData("coco_stuff"), here)


def test_of_somebodys_own_data_set_what_its_file_says_counts(tmp_path: Path) -> None:
    for file in ("images/a.jpg", "masks/a.png"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    here, file = Run(None, tmp_path / "out", Engine("cpu")), tmp_path / "own.yaml"
    said = "{kind: semantic, train: {images: images, masks: masks}, classes: [CLASS], segments: none}"

    def digest(text: str) -> str:
        file.write_text(text)
        return _data_digest(PanopticData(str(file)), here)

    one = digest(said.replace("CLASS", "sky"))
    assert one.startswith("own.yaml, SHA-256 ") and "; 1 images, SHA-256 " in one
    assert digest(said.replace("CLASS", "sky, car")) != one
    assert digest("# elsewhere\n" + said.replace("CLASS", "sky").replace("kind", f"path: {tmp_path}, kind")) == one
    with pytest.raises(ConfigError, match="own.yaml has no panoptic ground truth; in .*own.yaml, write segments"):
        require_instances(PanopticData(str(file)))
    digest(said.replace("none", "stuff"))
    require_instances(PanopticData(str(file)))


def test_what_does_not_matter_may_change(
    eomt: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also --out, which the copy moves."""
    recipe = EOMT_RECIPE.replace("workers: 2", "workers: 1, on_error: stop").replace("log_every: 1", "log_every: 2")
    was = load_recipe(str(eomt / "run.yaml"))
    assert train_again(eomt, tmp_path, data, recipe, "--accumulate", "2") == 0
    assert not caplog.text and load_recipe(str(tmp_path / "copy" / "run.yaml")).stages == was.stages


def test_every_start_of_a_run_is_kept(
    eomt: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/a/b/__main__.py", "train", "my recipe.yaml", "--steps", "5"])
    assert train_again(eomt, tmp_path, data, EOMT_RECIPE, "--steps", "5", "--accumulate", "2") == 0
    path = tmp_path / "copy" / "run.yaml"
    kept = load_recipe(str(path))
    assert kept.record is not None
    first, second = kept.record.sessions
    assert first.loops == {"eomt": LoopSession(begun_at=0, steps=4, parts=1)}
    assert second.loops == {"eomt": LoopSession(begun_at=4, steps=5, parts=2)}
    assert (second.version, second.device, second.precision, second.processes) == (VERSION, "cpu", "no", 1)
    assert second.command.endswith("ovseg train 'my recipe.yaml' --steps 5") and second.command != first.command
    assert kept.record.command == first.command
    loop = kept.stages[0].loop  # type: ignore[union-attr]
    assert (loop.steps, loop.gradient_accumulation) == (5, 1)
    recorded = path.read_bytes()
    assert run(tmp_path / "copy", EOMT_RECIPE, data) == 2  # 4 steps
    assert "eomt: 5 steps are done already, more than the 4 that are asked; ask for 5" in capsys.readouterr().err
    assert path.read_bytes() == recorded


def test_other_frozen_weights_are_refused(tmp_path: Path) -> None:
    """Under the same name, in the same place or not; what an earlier stage of the run writes is not frozen."""
    text = preset_path("tabletop_fisa").read_text()
    preset, frozen = tmp_path / "mine.yaml", tmp_path / "tabletop_clip.safetensors"
    preset.write_text(text)
    loop = LoopConfig(steps=1, batch_size=1, learning_rate=1e-3)
    stage = FisaTraining(str(preset), RenderedData(scenes=1, views=1), loop)
    here = Run(None, tmp_path / "out", Engine("cpu"))

    def weights(content: bytes) -> Any:
        frozen.write_bytes(content)
        return plain(record_of((stage,), here, results={"fisa": "f.safetensors"}, done={}))["weights"]

    was, now = weights(b"one"), weights(b"two")
    assert [name.partition(",")[0] for name in was["fisa"]] == ["tabletop_eomt.safetensors", frozen.name]
    [told] = differences({"weights": was}, {"weights": now})
    name, digest = re.escape(frozen.name), "SHA-256 [0-9a-f]{16}"
    assert re.fullmatch(rf"weights.fisa\[1\] was '{name}, {digest}', is '{name}, {digest}'", told)
    here = Run(None, tmp_path, Engine("cpu"))
    both = record_of((stage,), here, results={"fisa": "f.safetensors", "clip": frozen.name}, done={})
    assert both.weights is not None and len(both.weights["fisa"]) == 1
    frozen.unlink()
    preset.write_text(text.replace("tabletop_clip", "./there/tabletop_clip"))
    with pytest.raises(CheckpointError, match=r"the checkpoint .*there/tabletop_clip.safetensors does not exist"):
        record_of((stage,), here, results={}, done={})


def test_another_version_and_an_older_folder_are_said(
    eomt: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_again(eomt, tmp_path, data, EOMT_RECIPE) == 0
    copy = tmp_path / "copy"
    path = copy / "run.yaml"
    path.write_text(path.read_text().replace(f"version: {VERSION}", "version: 0.0.7"))
    assert run(copy, EOMT_RECIPE, data) == 0
    assert f"was begun by version 0.0.7 of ovseg_ros, this is {VERSION}" in caplog.text
    content = yaml.safe_load(path.read_text())
    older = {key: value for key, value in content["record"].items() if key not in ("weights", "sessions")}
    path.write_text(yaml.safe_dump({**content, "record": older}))
    assert run(copy, EOMT_RECIPE, data) == 0
    told = load_recipe(str(path)).record
    assert told is not None and told.weights == {"eomt": ()} and len(told.sessions) == 1
    for text, message in (
        (
            "stages: {}",
            "run in .*copy is damaged: run.yaml.stages: expected a list, got {}; restore run.yaml",
        ),
        ("", "is damaged: .*copy/run.yaml is empty; expected .* such as 'stages: ...'; restore"),
        ("a: b: c", "is damaged: .*run.yaml, line 1, column 5 is not valid YAML"),
        (EOMT_RECIPE, "run.yaml is no run's record, as it has no `record`, but a recipe, .*; give it another name, or"),
        (
            yaml.safe_dump({**content, "stages": content["stages"] + [CLIP]}),
            r"begun with another recipe, data or weights: stages: 2 \(eomt, clip\), now 1 \(eomt\)\. Choose",
        ),
    ):
        path.write_text(text)
        assert run(copy, EOMT_RECIPE, data) == 2
        error = capsys.readouterr().err
        assert re.search(message, error) and path.read_text() == text, error
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
