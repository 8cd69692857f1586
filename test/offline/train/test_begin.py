"""What an EoMT's training begins with: exact where classes are the same, row by row where they are not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import EOMT_RECIPE, run

from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.presets import preset_path
from ovseg_ros.core.proposals.eomt.checkpoints import load_eomt
from ovseg_ros.core.proposals.eomt.layouts import TUE_MPS
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.weights.files import sha256_of
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.train.begin import EoMTWeights, begin_with, read_eomt
from ovseg_ros.offline.train.run import load_recipe

CONFIG = EoMTConfig((64, 64), width=32, depth=2, heads=2, num_queries=3, num_classes=3, joint_blocks=1)
NAMES = ("cup", "floor-wood", "sky")
ALIKE = [(name,) for name in NAMES]


def make_eomt(config: EoMTConfig, seed: int = 0) -> EoMT:
    torch.manual_seed(seed)
    model = EoMT(config).eval()
    torch.nn.init.normal_(model.encoder.pos_embed)
    return model


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Of `make_eomt(CONFIG)`, as the authors write it, with a config.json."""
    model = make_eomt(CONFIG)
    names = TUE_MPS.keys(model.state_dict())
    state = {names[key][0]: value for key, value in model.state_dict().items()}
    save_file({**state, "network.attn_mask_probs": torch.zeros(1)}, tmp_path / "model.safetensors")
    settings = {"num_attention_heads": 2, "id2label": dict(enumerate(NAMES))}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path


@torch.no_grad()
def test_the_same_classes_say_the_same_at_step_0(public: Path) -> None:
    images = torch.randn(1, 3, 64, 64)
    model = make_eomt(CONFIG, seed=1)
    told = begin_with(model, read_eomt(str(public)), ALIKE)
    assert told == f"begins with {public}: 3 of 3 classes are kept: cup, floor-wood, sky; 0 are new"
    ours, source = model(images), make_eomt(CONFIG)(images)
    assert torch.equal(ours.mask_logits, source.mask_logits)
    assert torch.equal(ours.class_logits, source.class_logits)


def test_rows_of_classes_of_the_same_name_are_kept(public: Path) -> None:
    """By normalised names and synonyms; others, and no file but this one, have their own."""
    classes = [("clouds", "SKY"), ("pole",), ("floor_wood",), ("Cup ", "mug"), ("tree",)]
    source, model = make_eomt(CONFIG), make_eomt(replace(CONFIG, num_classes=5), seed=1)
    own = make_eomt(replace(CONFIG, num_classes=5), seed=1)
    told = begin_with(model, read_eomt(str(public)), classes)
    assert told.endswith(": 2 of 5 classes are kept: clouds, Cup ; 3 are new: pole, floor_wood, tree")
    for ours, old, new in (
        (model.class_head.weight, source.class_head.weight, own.class_head.weight),
        (model.class_head.bias, source.class_head.bias, own.class_head.bias),
    ):
        assert torch.equal(ours[[0, 3, 5]], old[[2, 0, 3]])  # the last is "no object"
        assert torch.equal(ours[[1, 2, 4]], new[[1, 2, 4]])
    assert torch.equal(model.queries.weight, source.queries.weight)


def test_positions_are_resampled_as_of_a_public_checkpoint(public: Path) -> None:
    model = make_eomt(replace(CONFIG, image_size=(96, 64)), seed=1)
    begin_with(model, read_eomt(str(public)), ALIKE)
    resized = load_eomt(str(public), image_size=(96, 64)).model
    torch.testing.assert_close(model.encoder.pos_embed, resized.encoder.pos_embed)


def test_another_stem_is_another_architecture() -> None:
    other = EoMT(replace(CONFIG, pretrained_stem="efficientnet_lite0", skips=True))
    with pytest.raises(CheckpointError, match=r"it has pretrained_stem None \(the recipe: .*\), skips False"):
        begin_with(other, EoMTWeights("other weights", {}, CONFIG, NAMES), ALIKE)


def test_another_architecture_is_refused_with_what_differs(public: Path) -> None:
    other = replace(CONFIG, width=48, heads=3, num_queries=5, depth=3, joint_blocks=2, layer_scale=None)
    with pytest.raises(
        CheckpointError,
        match=r"another EoMT than the recipe's: it has width 32 \(the recipe: 48\), depth 2 \(the recipe: 3\), heads 2 "
        r"\(the recipe: 3\), num_queries 3 \(the recipe: 5\), joint_blocks 1 \(the recipe: 2\), layer_scale 1.0 \(the "
        r"recipe: None\); set these of network.architecture",
    ):
        begin_with(EoMT(other), read_eomt(str(public)), ALIKE)
    with pytest.raises(ConfigError, match="is of kind prompt_guided, which is no EoMT; name a preset whose"):
        read_eomt("tabletop_pmp")
    with pytest.raises(ConfigError, match="is of kind omtseg, which is no EoMT"):
        read_eomt("tabletop_omtseg")


def test_own_results_and_states_are_taken(tmp_path: Path) -> None:
    """Without a preset beside them their classes have no names; their architecture has to be the recipe's."""
    source = make_eomt(CONFIG)
    save_state_half(source.state_dict(), tmp_path / "result.safetensors")
    torch.save({"model": source.state_dict(), "optimizer": {}, "step": 3}, tmp_path / "last.pt")
    for name, exact in (("result.safetensors", 1e-3), ("last.pt", 0.0)):
        model = make_eomt(CONFIG, seed=1)
        told = begin_with(model, read_eomt(str(tmp_path / name)), ALIKE)
        assert told.endswith("0 of 3 classes are kept; 3 are new, as its own have no names: cup, floor-wood, sky")
        torch.testing.assert_close(model.queries.weight, source.queries.weight, atol=exact, rtol=exact)
        torch.testing.assert_close(model.class_head.bias[-1], source.class_head.bias[-1], atol=exact, rtol=exact)
        with pytest.raises(CheckpointError, match=r"does not fit network.architecture: .*queries.weight \(file"):
            begin_with(EoMT(replace(CONFIG, num_queries=5)), read_eomt(str(tmp_path / name)), ALIKE)
    broken = source.state_dict()
    broken["queries.weight"][1] = float("nan")
    torch.save({"model": broken}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="NaN or infinite, such as queries.weight"):
        begin_with(make_eomt(CONFIG), read_eomt(str(tmp_path / "last.pt")), ALIKE)


def test_a_preset_says_what_its_weights_are(tmp_path: Path) -> None:
    """By its name, or where it lies beside a result; the words of its classes, too."""
    weights = read_eomt("tabletop")
    assert weights.config is not None and weights.config.skips and not weights.classes
    save_state_half(weights.state, tmp_path / "result.safetensors")
    classes = "classes: [{name: object, synonyms: [Thing]}, stuff]\n    pads:"
    preset = preset_path("tabletop").read_text().replace("pads:", classes)
    preset = preset.replace("tabletop_eomt.safetensors", "./result.safetensors")
    (tmp_path / "preset.yaml").write_text(preset)
    for source in (tmp_path / "result.safetensors", tmp_path, tmp_path / "preset.yaml"):
        found = read_eomt(str(source))
        assert (found.config, found.classes) == (weights.config, [("object", "Thing"), ("stuff",)])
    model = EoMT(weights.config)
    assert "2 of 2 classes are kept: thing, stuff; 0 are new" in begin_with(model, found, [("thing",), ("stuff",)])
    torch.testing.assert_close(
        model.class_head.weight, weights.state["class_head.weight"].float(), atol=1e-3, rtol=1e-3
    )


def test_a_run_begins_with_another_and_remembers_it(
    eomt: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a recipe that says nothing of the number of classes; another file is refused when it goes on."""
    source = tmp_path / "from" / "source.pt"
    source.parent.mkdir()
    shutil.copy(eomt / "eomt" / "last.pt", source)
    begun = f"kind: eomt\n    begins_with: {source}\n"
    recipe = EOMT_RECIPE.replace("num_classes: 100, ", "").replace("kind: eomt\n", begun)
    assert run(tmp_path, recipe, data, "--steps", "3") == 0
    assert "0 of 100 classes are kept; 100 are new, as its own have no names: " in capsys.readouterr().out
    for own in (eomt, eomt / "eomt" / "last.pt", eomt / "tiny_eomt.safetensors"):
        assert read_eomt(str(own)).classes[0][0] == "red cube"
    record = load_recipe(str(tmp_path / "run.yaml")).record
    assert record is not None and record.weights is not None
    assert record.weights["eomt"] == (f"source.pt, SHA-256 {sha256_of(source)[:16]}",)
    assert load_file(tmp_path / "tiny_eomt.safetensors")["class_head.bias"].shape == (101,)
    assert run(tmp_path, recipe, data, "--steps", "4") == 0
    assert "begins with" not in capsys.readouterr().out
    shutil.copy(eomt / "tiny_eomt.safetensors", source.with_suffix(".safetensors"))
    assert run(tmp_path, recipe.replace(".pt", ".safetensors"), data) == 2
    assert "stages[0].begins_with was" in capsys.readouterr().err
    torch.save({"model": load_file(eomt / "tiny_eomt.safetensors")}, source)
    assert run(tmp_path, recipe, data) == 2
    assert "record.weights.eomt[0] was 'source.pt, SHA-256" in capsys.readouterr().err
    both = recipe.replace("kind: eomt\n", "kind: eomt\n    encoder_weights: a/b\n", 1)
    assert run(tmp_path, both, data) == 2
    assert "leave either begins_with or encoder_weights out" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_no_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="begins_with: there is no stret in runs; correct the path"):
        read_eomt("runs/stret")
