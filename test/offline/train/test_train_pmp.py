"""`ovseg train` of a prompt-guided mask generator: from the generator's weights to a file that its preset loads."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_training import EOMT, assert_validation_changes_nothing, require_same_maps, run, told, write_clip

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.padded import PromptGuidedProposer
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.train.pmp import build_network
from ovseg_ros.offline.train.run import load_recipe

PRESET = f"""
description: tiny
model:
  kind: two_stage
  input_size: [64, 96]
  proposer:
    kind: prompt_guided
    checkpoint: tiny_pmp.safetensors
    prompt: {{width: 8, heads: 2}}
    generator: {{kind: eomt, checkpoint: tiny_eomt.safetensors, architecture: {EOMT}}}
  clip: {{kind: open_clip, architecture: FOLDER/clip.json, checkpoint: FOLDER/clip.safetensors}}
  classifier: {{kind: word_ensemble, clip: {{kind: pooled}}}}
  templates: ["{{}}"]
"""

RECIPE = """
stages:
  - kind: pmp
    preset: PRESET
    data: {kind: panoptic, dataset: tabletop, split: train, workers: 2}
    augmentation: {kind: jitter, size: [64, 96], scale: [0.5, 2.0]}
    loop:
      {steps: 2, batch_size: 2, learning_rate: 1.0e-2, warmup_steps: 1, encoder: {warmup_steps: 1},
       checkpoint_every: 5, log_every: 1, pictures_every: 2}
    loss: {points: 64}
"""


@pytest.fixture
def preset(eomt: Path, tmp_path: Path) -> Path:
    """A preset beside its CLIP and the trained generator."""
    write_clip(tmp_path)
    (tmp_path / "tiny_eomt.safetensors").write_bytes((eomt / "tiny_eomt.safetensors").read_bytes())
    path = tmp_path / "tiny.yaml"
    path.write_text(PRESET.replace("FOLDER", str(tmp_path)))
    return path


def test_a_recipe_trains_a_preset_that_loads(
    preset: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, generator = RECIPE.replace("PRESET", str(preset)), tmp_path / "tiny_eomt.safetensors"
    assert run(tmp_path, recipe, data) == 0
    assert_validation_changes_nothing(tmp_path, "pmp", recipe, data)
    lines = told(tmp_path / "pmp")
    assert [line["step"] for line in lines] == [1, 2] and all(line["class"] > 0 for line in lines)

    # The file holds the whole network, and the preset takes it.
    trained, began = load_file(tmp_path / "tiny_pmp.safetensors"), load_file(generator)
    assert {name for name in trained if not name.startswith("guidance.")} == set(began)
    assert "guidance.prompts.0.out.weight" in trained and "guidance.word_head.no_object" in trained
    assert torch.equal(trained["class_head.weight"], began["class_head.weight"])  # which is not in use any more
    assert not torch.equal(trained["queries.weight"], began["queries.weight"])
    require_same_maps(tmp_path, "pmp", "cup", "floor")
    segmenter = build_segmenter(str(preset), "cpu")
    loaded = segmenter.model.proposer.network.guidance.word_head.no_object  # type: ignore[union-attr]
    assert torch.equal(loaded.half(), trained["guidance.word_head.no_object"])
    image = torch.zeros(64, 96, 3, dtype=torch.uint8).numpy()
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("cup")]))
    assert segmenter.segment(image, prompt).segment_ids.shape == (64, 96)

    # What it began with is recorded, and it goes on with nothing else.
    record = load_recipe(str(tmp_path / "run.yaml")).record
    assert record is not None and record.weights is not None
    digest = r"SHA-256 [0-9a-f]{16}"
    began_with = record.weights["pmp"]
    assert len(began_with) == 2
    assert re.fullmatch(rf"tiny_eomt.safetensors, {digest}", began_with[0])
    assert re.fullmatch(rf"clip.safetensors, {digest}", began_with[1])
    assert record.models["pmp"]["proposer"]["prompt"] == {"width": 8, "heads": 2, "residual": True}
    assert run(tmp_path, recipe, data, "--resume", "require", "--steps", "3") == 0
    assert [line["step"] for line in told(tmp_path / "pmp")] == [1, 2, 3]
    save_file(began | {"queries.weight": began["queries.weight"] + 1}, generator)
    capsys.readouterr()
    assert run(tmp_path, recipe, data, "--steps", "4") == 2
    assert re.search(rf"record.weights.pmp\[0\] was 'tiny_eomt.safetensors, {digest}', is", capsys.readouterr().err)


def test_initial_weights_are_the_generators_and_depend_on_the_seed_else(preset: Path) -> None:
    """Not on what was built before, nor on a checkpoint of an earlier training."""
    (preset.parent / "tiny_pmp.safetensors").write_bytes(b"not read")
    networks = [build_network(str(preset), torch.device("cpu"), seed)[0] for seed in (3, 3, 4)]
    states = [network.state_dict() for network in networks]
    key = "guidance.prompts.0.key.weight"
    assert torch.equal(states[0][key], states[1][key]) and not torch.equal(states[0][key], states[2][key])
    assert isinstance(networks[0], EoMT) and not states[0]["guidance.prompts.0.out.weight"].any()
    began = load_file(preset.parent / "tiny_eomt.safetensors")
    assert all(torch.equal(states[0][name], value.float()) for name, value in began.items())


def test_a_pretrained_stem_keeps_its_norms_for_a_training_alone(preset: Path) -> None:
    changes = "width: 16, pretrained_stem: efficientnet_lite0, skips: true"
    preset.write_text(preset.read_text().replace("width: 16", changes, 1))
    made = EoMT(EoMTConfig(**{**yaml.safe_load(EOMT), **yaml.safe_load(f"{{{changes}}}"), "image_size": (64, 96)}))
    save_state_half(made.state_dict(), preset.parent / "tiny_eomt.safetensors")
    trained, _ = build_network(str(preset), torch.device("cpu"), 0)
    save_state_half(trained.state_dict(), preset.parent / "tiny_pmp.safetensors")
    model = build_segmenter(str(preset), "cpu").model
    assert isinstance(model, TwoStage) and isinstance(model.proposer, PromptGuidedProposer)
    both = trained, model.proposer.network
    assert [any(isinstance(m, torch.nn.BatchNorm2d) for m in one.modules()) for one in both] == [True, False]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("size: [64, 96]", "size: [64, 90]"), r"views of size \(64, 90\) must be multiples of 16 pixels"),
        (
            ("    loss:", "    questions: {groups: 0.5}\n    loss:"),
            "questions.groups needs data of kind rendered; of a data set write groups: 0",
        ),
        (("    loss:", "    questions: {wohle: 0.5}\n    loss:"), "unknown key 'wohle'; did you mean 'whole'"),
        (
            ("    loss:", "    questions: {whole: 1.5}\n    loss:"),
            "whole: it should be less than or equal to 1, got",
        ),
        (
            ("kind: panoptic, dataset: tabletop, split: train", "kind: rendered, scenes: 1, views: 1, split: captions"),
            "must be of split train, got captions, which shows unseen categories that no mask may teach",
        ),
        (("dataset: tabletop", "dataset: ade20k_semantic"), "ade20k_semantic has no panoptic ground truth; choose one"),
        (
            ("preset: PRESET", "preset: tabletop"),
            "the preset tabletop is of kind eomt, not prompt_guided; name",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(
    preset: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: tuple[str, str],
    message: str,
) -> None:
    assert changed[0] in RECIPE
    assert run(tmp_path, RECIPE.replace(*changed).replace("PRESET", str(preset)), data) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("ovseg: error: ") and error.count("\n") == 1, error
    assert not (tmp_path / "pmp").exists()


def test_presets_and_data_that_cannot_be_are_refused_before_anything_is_spent(
    preset: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, recipe = preset.read_text(), RECIPE.replace("PRESET", str(preset))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def refused(message: str, recipe: str = recipe, place: Path = data) -> None:
        assert run(tmp_path, recipe, place) == 2
        error = capsys.readouterr().err
        assert re.search(message, error) and error.count("\n") == 1, error
        assert not (tmp_path / "pmp").exists() and not (tmp_path / "run.yaml").exists()

    preset.write_text(text.replace("checkpoint: tiny_pmp.safetensors", "checkpoint: null"))
    refused("names no proposer.checkpoint; name there what to write")
    preset.write_text(text.replace("tiny_eomt.safetensors", "gone.safetensors"))
    refused("checkpoint .*gone.safetensors does not exist")
    public = "{kind: mask2former, checkpoint: facebook/mask2former-swin-base-coco-panoptic}"
    preset.write_text(re.sub("generator: .*", f"generator: {public}", text))
    refused("facebook/mask2former-swin-base-coco-panoptic")
    weights = "{repo: facebook/mask2former-swin-base-coco-panoptic, file: a.bin, bytes: 1, licence: MIT}"
    preset.write_text(f"{preset.read_text()}weights:\n  - {weights}\n")
    refused("a.bin of facebook/mask2former-.* is not on this machine; .* fetch it with: .*ovseg download .*tiny.yaml")


def test_a_training_may_begin_with_the_trained_network(preset: Path, data: Path, tmp_path: Path) -> None:
    network, _ = build_network(str(preset), torch.device("cpu"), 0)
    with torch.no_grad():
        network.guidance.prompts[0].out.weight.fill_(0.25)  # type: ignore[union-attr]
    save_file({key: value.half() for key, value in network.state_dict().items()}, tmp_path / "tiny_pmp.safetensors")
    again, _ = build_network(str(preset), torch.device("cpu"), 1, "trained")
    assert again.state_dict()["guidance.prompts.0.out.weight"].unique().tolist() == [0.25]
    torch.save({"model": network.state_dict(), "optimizer": {}}, tmp_path / "last.pt")
    same, _ = build_network(str(preset), torch.device("cpu"), 1, str(tmp_path / "last.pt"))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in same.state_dict().items())
    recipe = RECIPE.replace("PRESET", f"{preset}\n    begins_with: trained")
    out = tmp_path / "out"
    out.mkdir()
    assert run(out, recipe, data) == 0
    record = load_recipe(str(out / "run.yaml")).record
    assert record is not None and record.weights is not None
    names = [entry.split(",")[0] for entry in record.weights["pmp"]]
    assert names == ["tiny_eomt.safetensors", "tiny_pmp.safetensors", "clip.safetensors"]
    assert load_file(out / "tiny_pmp.safetensors")["guidance.prompts.0.out.weight"].float().mean() > 0.1
