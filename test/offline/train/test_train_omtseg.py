"""`ovseg train` of an OMTSeg: from a public encoder, or from nothing, to a file that its preset loads."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import assert_validation_changes_nothing, require_same_maps, run, told

from ovseg_ros.core.backbones.beit3 import Beit3, Beit3Config
from ovseg_ros.core.build import build_omtseg_network, build_segmenter
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.presets import preset_folder
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.train.omtseg import build_untrained, omtseg_section
from ovseg_ros.offline.train.run import load_recipe
from ovseg_ros.sim.categories import WORDS

ENCODER = "width: 16, layers: 4, heads: 2, feed_forward_width: 24, words: 40, text_length: 520"
PRESET = f"""
description: tiny
model:
  kind: omtseg
  checkpoint: tiny_omtseg.safetensors
  encoder_weights: FOLDER/beit3_tiny.pth
  tokenizer: {{kind: word_list, words: [{", ".join(WORDS)}]}}
  architecture:
    encoder: {{image_size: [64, 96], {ENCODER}}}
    trained_words: 520
    adapter: {{prior_width: 4, heads: 2, points: 1}}
    decoder: {{width: 32, heads: 2, pixel_layers: 1, pixel_feed_forward_width: 16, queries: 6, layers: 1,
      feed_forward_width: 16}}
"""
RECIPE = """
stages:
  - kind: omtseg
    preset: PRESET
    data: {kind: panoptic, dataset: tabletop, split: train, workers: 2}
    augmentation: {kind: jitter, size: [60, 92], scale: [0.5, 2.0]}
    loop:
      {steps: 2, batch_size: 2, optimizer: lion, learning_rate: 1.0e-2, warmup_steps: 1,
       not_decayed: [embed_positions, name_mark], checkpoint_every: 5, log_every: 1, pictures_every: 2}
    loss: {points: 64}
    separators: 1
"""
POSITIONS = {f"encoder.encoder.embed_positions.{half}.weight" for half in "AB"}


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """A preset beside its encoder, whose file is as the published ones are: in half precision, with another grid."""
    torch.manual_seed(1)
    values = {key: int(value) for key, value in re.findall(r"(\w+): (\d+)", ENCODER)}
    published = Beit3(Beit3Config((48, 48), **values)).state_dict()
    state = {f"beit3.{key}": value.half() for key, value in published.items()}
    torch.save({"model": state | {"mlm_head.weight": torch.zeros(2, 2)}}, tmp_path / "beit3_tiny.pth")
    path = tmp_path / "tiny.yaml"
    path.write_text(PRESET.replace("FOLDER", str(tmp_path)))
    return path


def test_a_recipe_trains_what_a_preset_adds_to_a_public_encoder(
    preset: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPE.replace("PRESET", str(preset))
    assert run(tmp_path, recipe, data) == 0
    assert_validation_changes_nothing(tmp_path, "omtseg", recipe, data)
    lines = told(tmp_path / "omtseg")
    assert [line["step"] for line in lines] == [1, 2] and all(line["word"] > 0 for line in lines)

    # The file holds what was trained; with the encoder's own it makes the network again, and nothing is missing.
    trained = load_file(tmp_path / "tiny_omtseg.safetensors")
    network = build_omtseg_network(omtseg_section(str(preset)), preset_folder(str(preset)))
    assert set(trained) == set(network.trained_state(encoder_is_public=True))
    assert {name for name in trained if name.startswith("encoder.")} == POSITIONS
    require_same_maps(tmp_path, "omtseg", "cup", "ball")
    began = build_untrained(str(preset), 0)[0].state_dict()
    for name, value in network.state_dict().items():
        if name in trained:
            assert torch.equal(value.half(), trained[name]), name
        else:
            assert torch.equal(value, began[name]), name
    for name in (*POSITIONS, "name_mark"):
        assert not torch.equal(trained[name], began[name].half()), name
    kept = torch.load(tmp_path / "omtseg/last.pt", weights_only=True)
    assert set(kept["model"]) == set(trained) and all(
        set(one) == {"exp_avg"} for one in kept["optimizer"]["state"].values()
    )
    segmenter = build_segmenter(str(preset), "cpu")
    image = torch.zeros(64, 96, 3, dtype=torch.uint8).numpy()
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("red cup")]))
    assert segmenter.segment(image, prompt).segment_ids.shape == (64, 96)

    # What it began with is recorded, not its own result; and it goes on with nothing else.
    record = load_recipe(str(tmp_path / "run.yaml")).record
    assert record is not None and record.weights is not None
    assert [entry.split(",")[0] for entry in record.weights["omtseg"]] == ["beit3_tiny.pth"]
    assert record.models["omtseg"]["kind"] == "omtseg"
    assert run(tmp_path, recipe, data, "--resume", "require", "--steps", "3") == 0
    assert [line["step"] for line in told(tmp_path / "omtseg")] == [1, 2, 3]
    capsys.readouterr()
    assert run(tmp_path, recipe.replace("separators: 1", "separators: 2"), data, "--steps", "4") == 2
    assert "stages[0].separators was 1, is 2" in capsys.readouterr().err
    assert run(tmp_path, recipe.replace("lion", "adamw"), data, "--steps", "4") == 2
    assert "stages[0].loop.optimizer was 'lion', is 'adamw'" in capsys.readouterr().err
    state = torch.load(tmp_path / "beit3_tiny.pth", weights_only=True)["model"]
    state["beit3.text_embed.weight"] += 1
    torch.save({"model": state}, tmp_path / "beit3_tiny.pth")
    assert run(tmp_path, recipe, data, "--steps", "4") == 2
    assert re.search(r"record.weights.omtseg\[0\] was 'beit3_tiny.pth, SHA-256 [0-9a-f]{16}'", capsys.readouterr().err)

    # A file in which something is missing is refused.
    save_file(
        {name: value for name, value in trained.items() if name != "name_mark"}, tmp_path / "tiny_omtseg.safetensors"
    )
    with pytest.raises(CheckpointError, match="name_mark"):
        build_omtseg_network(omtseg_section(str(preset)), preset_folder(str(preset)))


def test_from_scratch_the_file_holds_the_encoder_too(preset: Path, data: Path, tmp_path: Path) -> None:
    preset.write_text(re.sub("  encoder_weights: .*\n", "", preset.read_text()))
    (tmp_path / "beit3_tiny.pth").unlink()
    assert run(tmp_path, RECIPE.replace("PRESET", str(preset)), data, "--steps", "1") == 0
    network = build_omtseg_network(omtseg_section(str(preset)), preset_folder(str(preset)))
    assert set(load_file(tmp_path / "tiny_omtseg.safetensors")) == set(network.state_dict())
    record = load_recipe(str(tmp_path / "run.yaml")).record
    assert record is not None and record.weights == {"omtseg": ()}


def test_initial_weights_depend_on_the_seed_and_not_on_an_earlier_training(preset: Path) -> None:
    (preset.parent / "tiny_omtseg.safetensors").write_bytes(b"not read")
    states = [build_untrained(str(preset), seed)[0].state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["words.weight"], states[2]["words.weight"])
    assert torch.equal(states[0]["encoder.text_embed.weight"], states[2]["encoder.text_embed.weight"])
    assert torch.equal(states[0]["name_mark"], states[0]["encoder.text_embed.weight"][:1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("size: [60, 92]", "size: [60, 90]"), r"views of size \(60, 90\) must be multiples of 4 pixels"),
        (
            ("separators: 1", "separators: 17"),
            "separators: .*less than or equal to 16",
        ),
        (("separators: 1", "seperators: 1"), "unknown key 'seperators'; did you mean 'separators'"),
        (("separators: 1", "separators: 0"), "separators: .*greater than or equal to 1"),
        (("embed_positions", "positions_of_nothing"), "not_decayed: no trained .* 'positions_of_nothing' in it; they"),
        (("optimizer: lion", "optimizer: loin"), "unknown optimizer 'loin'; did you mean 'lion'"),
        (
            ("kind: panoptic, dataset: tabletop, split: train", "kind: rendered, scenes: 1, views: 1, split: captions"),
            "must be of split train, got captions, which shows unseen categories that no mask may teach",
        ),
        (("preset: PRESET", "preset: tabletop"), "the preset tabletop is of kind two_stage, not omtseg; name"),
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


def test_a_preset_without_a_name_for_the_result_is_refused(
    preset: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset.write_text(re.sub("  checkpoint: .*\n", "", preset.read_text()))
    assert run(tmp_path, RECIPE.replace("PRESET", str(preset)), data) == 2
    assert "names no model.checkpoint; name there what to write" in capsys.readouterr().err
    assert not (tmp_path / "omtseg").exists() and not (tmp_path / "run.yaml").exists()
