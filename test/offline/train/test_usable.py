"""What a run leaves beside its weights: presets and a vocabulary, and what is said where they cannot be used."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_training import EOMT_RECIPE, require_same_maps, run

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.manifest import usual_folder
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.presets import PresetFolder, load_preset, preset_name, preset_path
from ovseg_ros.core.resources import weights_dir
from ovseg_ros.core.sections import ClosedSetSection, EoMTSection
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, load_vocabulary_file, save_vocabulary_file
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.run import load_recipe
from ovseg_ros.offline.train.usable import leave_presets


def left(out: Path, recipe: str, results: dict[str, str]) -> dict[str, Any]:
    """The models of the presets that a recipe's run leaves at its start, by path."""
    leave_presets(load_recipe(recipe).stages, results, Run(None, out, Engine("cpu")), begun=False)
    found = {str(path.relative_to(out)): path for path in sorted(out.rglob("preset.yaml"))}
    return {name: yaml.safe_load(path.read_text())["model"] for name, path in found.items()}


def test_a_trained_eomt_is_a_closed_set_of_the_datas_categories(eomt: Path) -> None:
    model = load_preset(str(eomt)).model
    assert isinstance(model, ClosedSetSection) and isinstance(model.proposer, EoMTSection)
    assert model.input_size == (64, 96) and model.proposer.padding == (0, 0, 0)
    words = load_vocabulary_file(eomt / "vocabulary.yaml")
    categories = dataset_info("tabletop").categories()
    assert [spec.name for spec in words] == [category.name for category in categories]
    assert [spec.is_thing for spec in words] == [category.is_thing for category in categories]
    require_same_maps(eomt, "eomt", *(spec.name for spec in words))
    by_result = build_segmenter(str(eomt / "tiny_eomt.safetensors"), "cpu")
    assert by_result.prepare(Vocabulary.build(words)).remarks == ()
    assert preset_path(str(eomt / "eomt" / "last.pt")) == eomt / "eomt" / "preset.yaml"


def test_stages_of_one_preset_name_each_others_results(tmp_path: Path) -> None:
    results = {"eomt": "tabletop_eomt.safetensors", "clip": "tabletop_clip.safetensors"}
    models = left(tmp_path, "tabletop", results)
    names = {name: (m["proposer"]["checkpoint"], m["clip"]["checkpoint"]) for name, m in models.items()}
    above = "../tabletop_eomt.safetensors", "../tabletop_clip.safetensors"
    assert names == {
        "preset.yaml": ("./tabletop_eomt.safetensors", "./tabletop_clip.safetensors"),
        "eomt/preset.yaml": ("./last.pt", above[1]),
        "clip/preset.yaml": (above[0], "./last.pt"),
        "clip_adaptation/preset.yaml": (above[0], "./last.pt"),
    }
    with pytest.raises(ConfigError, match="has written nothing yet"):
        load_preset(str(tmp_path))
    (tmp_path / "eomt" / "last.pt").write_bytes(b"")
    assert preset_path(str(tmp_path)) == tmp_path / "eomt" / "preset.yaml"
    with pytest.raises(CheckpointError, match="eomt.safetensors does not exist; .* or wait for the stage"):
        build_segmenter(str(tmp_path / "clip" / "preset.yaml"), "cpu")
    (tmp_path / "clip" / "last.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"but several states; name one: .*clip/last.pt, .*eomt/last.pt"):
        load_preset(str(tmp_path))
    (tmp_path / results["eomt"]).write_bytes(b"")
    assert preset_path(str(tmp_path)) == tmp_path / "clip" / "preset.yaml", "the one that is complete"
    (tmp_path / results["clip"]).write_bytes(b"")
    assert preset_path(str(tmp_path)) == tmp_path / "preset.yaml"
    for source in (tmp_path / "eomt" / "last.pt", tmp_path / results["eomt"], tmp_path / results["clip"]):
        model = load_preset(str(source)).model
        files = PresetFolder(preset_path(str(source)).parent)
        assert files.own(model.proposer.checkpoint).is_file() and files.own(model.clip.checkpoint).is_file()


def test_every_state_of_a_run_can_be_used_and_has_a_name_of_its_own(eomt: Path, tmp_path: Path) -> None:
    out = tmp_path / "tabletop"
    shutil.copytree(eomt, out)
    for name, scale in (("previous", 0.5), ("best", 2.0)):
        state = torch.load(out / "eomt" / "last.pt", weights_only=False)
        state["model"]["class_head.weight"] *= scale
        torch.save(state, out / "eomt" / f"{name}.pt")
    sources = [out, *(out / "eomt" / f"{name}.pt" for name in ("last", "previous", "best"))]
    heads = [build_segmenter(str(source), "cpu").model.proposer.network.class_head.weight for source in sources]
    for head, scale in zip(heads[2:], (0.5, 2.0), strict=True):
        torch.testing.assert_close(head, heads[1] * scale)
    names = [preset_name(str(source)) for source in sources]
    assert names == ["run_tabletop", *(f"run_tabletop_eomt{state}" for state in ("", "_previous", "_best"))]
    assert [preset_name(str(path)) for path in (out / "preset.yaml", out / "eomt")] == names[:2]
    assert usual_folder(str(out)) != usual_folder("tabletop"), "their exports"


def test_a_run_by_an_older_version_gets_presets_when_it_goes_on(eomt: Path, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(eomt, out)
    written = [Path("preset.yaml"), Path("eomt/preset.yaml"), Path("vocabulary.yaml")]
    before = [(out / path).read_text() for path in written]
    save_vocabulary_file(out / "vocabulary.yaml", [CategorySpec("red cube")])
    assert run(out, EOMT_RECIPE, data) == 0, "a node may have kept other words there"
    for path in written:
        (out / path).unlink()
    assert run(out, EOMT_RECIPE, data) == 0
    assert [(out / path).read_text() for path in written] == before


def test_bundled_weights_stay_found_and_those_of_the_run_are_no_others(tmp_path: Path) -> None:
    models = left(tmp_path, "tabletop_fisa", {"fisa": "tabletop_fisa.safetensors"})
    files = PresetFolder(tmp_path)
    masks, names = models["preset.yaml"]["proposer"], models["preset.yaml"]["classifier"]
    assert files.own(masks["checkpoint"]) == weights_dir() / "tabletop_eomt.safetensors"
    assert not files.own(names["checkpoint"]).exists(), "not the bundled result, before the run's own is there"


def test_files_of_others_are_not_written_over(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "preset.yaml").write_text("description: mine\n")
    assert run(tmp_path, EOMT_RECIPE, data) == 2
    assert "preset.yaml is there already, and not of a training" in capsys.readouterr().err
    assert (tmp_path / "preset.yaml").read_text() == "description: mine\n"
    assert not (tmp_path / "eomt").exists()


def test_what_cannot_be_used_is_said(eomt: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        load_preset(str(tmp_path))
    (tmp_path / "eomt").mkdir()
    state = tmp_path / "eomt" / "last.pt"
    state.write_bytes(b"torn")
    for source in (tmp_path, tmp_path / "eomt"):
        with pytest.raises(ConfigError, match=r"older version, without preset.yaml; go on with it"):
            load_preset(str(source))
    with pytest.raises(ConfigError, match=r"has no preset.yaml beside it"):
        load_preset(str(state))
    with pytest.raises(ConfigError, match=r"last.pt does not exist"):
        load_preset(str(eomt / "last.pt"))
    with pytest.raises(ConfigError, match=r"does not say what other.safetensors is; it names ./tiny_eomt.safetensors"):
        (eomt / "other.safetensors").write_bytes(b"")
        load_preset(str(eomt / "other.safetensors"))
    (tmp_path / "eomt" / "preset.yaml").write_text((eomt / "eomt" / "preset.yaml").read_text())
    with pytest.raises(CheckpointError, match=r"last.pt is damaged, or no training's state \(4 bytes\)"):
        build_segmenter(str(state), "cpu")
    torch.save({"model": {"a": torch.zeros(1)}}, state)
    with pytest.raises(CheckpointError, match=r"last.pt is not the state of a training"):
        build_segmenter(str(state), "cpu")
    torch.save({"model": {"a": torch.zeros(1)}, "step": 1}, state)
    with pytest.raises(CheckpointError, match=r"does not fit the architecture of the preset: .* missing"):
        build_segmenter(str(state), "cpu")
