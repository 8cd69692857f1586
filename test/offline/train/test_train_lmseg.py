"""`ovseg train` of an LMSeg: from a recipe and a data set to a file that its presets load."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_lmseg import SAM, write_tiny_lmseg, write_tiny_semantic
from tiny_training import assert_validation_changes_nothing, require_same_maps, run, told

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.joint.semantic import SemanticModel
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.train.lmseg import build_untrained
from ovseg_ros.offline.train.run import load_recipe

RECIPE = """
stages:
  - kind: lmseg
    preset: PRESET
    data: {kind: panoptic, dataset: coco_stuff, split: train, workers: 2}
    augmentation:
      {kind: short_side, size: [64, 64], sides: [48], flip: 0.5, padding: [128, 128, 128], colors: {}}
    max_words: 9
    synonyms: 0.5
    loop:
      {steps: 2, batch_size: 2, learning_rate: 1.0e-2, schedule: cosine, warmup_steps: 0, weight_decay: 1.0e-4,
       multipliers: [{prefix: visual., factor: 0.5}, {prefix: text., factor: 0.5}, {prefix: sam., factor: 0.5}],
       checkpoint_every: 1, log_every: 1, pictures_every: 2}
"""
TABLETOP = (
    RECIPE.replace("dataset: coco_stuff", "dataset: tabletop")
    .replace(
        "multipliers: [{prefix: visual., factor: 0.5}, {prefix: text., factor: 0.5}, {prefix: sam., factor: 0.5}],", ""
    )
    .replace("max_words: 9", "max_words: 9\n    others: likeliest\n    ignored_is_negative: true")
)
WORDS = Vocabulary.build([CategorySpec("tree"), CategorySpec("sky")])


@pytest.fixture(scope="module")
def coco_stuff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of two halves; one half of the last has no category."""
    root = tmp_path_factory.mktemp("coco")
    images, labels = root / "train2017", root / "stuffthingmaps_detectron2/train2017"
    for number, folder in enumerate((images, labels)):
        folder.mkdir(parents=True)
        for image in range(3):
            pixels = np.full((48, 64), 60 * image + number, np.uint8)
            pixels[:, 32:] = (0, 20, 255)[image]
            shown = Image.fromarray(pixels)
            shown.save(folder / f"{image}.png") if number else shown.convert("RGB").save(folder / f"{image}.jpg")
    return root


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """Of a scorer that nobody has trained, on encoders that lie beside it."""
    folder = tmp_path / "presets"
    folder.mkdir()
    write_tiny_semantic(folder)
    path = write_tiny_lmseg(folder)
    (folder / "tiny_lmseg.safetensors").unlink()
    return path


def test_a_recipe_trains_what_both_presets_load(
    coco_stuff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    presets, out = tmp_path / "presets", tmp_path / "out"
    presets.mkdir()
    write_tiny_semantic(presets, sam=SAM)
    preset = write_tiny_lmseg(presets, sam=SAM)
    (presets / "tiny_lmseg.safetensors").unlink()
    recipe = RECIPE.replace("PRESET", str(preset))
    out.mkdir()
    assert run(out, recipe, coco_stuff) == 0
    assert_validation_changes_nothing(out, "lmseg", recipe, coco_stuff)
    lines = told(out / "lmseg")
    assert [line["step"] for line in lines] == [1, 2] and all(0 < line["bce"] == line["total"] for line in lines)
    began, _ = build_untrained(str(preset), torch.device("cpu"), 0)
    trained = load_file(out / "tiny_lmseg.safetensors")
    assert set(trained) == set(began.trained_state_dict()) and {value.dtype for value in trained.values()} == {
        torch.half
    }
    for name in ("visual.transformer.resblocks.0.attn.query.weight", "text.transformer.resblocks.1.attn.value.weight"):
        assert not torch.equal(trained[name], began.state_dict()[name].half())
    assert any(name.startswith("sam.") for name in trained)

    require_same_maps(out, "lmseg", "tree", "sky")
    (presets / "tiny_lmseg.safetensors").write_bytes((out / "tiny_lmseg.safetensors").read_bytes())
    image = np.zeros((64, 96, 3), np.uint8)
    for name, kind in (("tiny_lmseg", TwoStage), ("tiny_semantic", SemanticModel)):
        segmenter = build_segmenter(str(presets / f"{name}.yaml"), "cpu")
        model = segmenter.model
        assert isinstance(model, kind)
        scorer = model.scorer if isinstance(model, SemanticModel) else model.classifier.scorer  # type: ignore[union-attr]
        for key, value in scorer.state_dict().items():  # frozen ones as they were
            expected = trained[key].float() if key in trained else began.state_dict()[key]
            assert torch.equal(value, expected), key
        assert segmenter.segment(image, segmenter.prepare(WORDS)).segment_ids.shape == (64, 96)

    # What it reads is recorded, not its own result; and it goes on with nothing else.
    record = load_recipe(str(out / "run.yaml")).record
    assert record is not None and record.weights is not None
    read = ["clip.safetensors", "sam.safetensors"]
    assert [entry.split(",")[0] for entry in record.weights["lmseg"]] == read
    kept = torch.load(out / "lmseg/last.pt", weights_only=True)["model"]
    assert {name for name, _ in began.named_parameters()} & set(kept) == set(trained)
    assert run(out, recipe, coco_stuff, "--resume", "require", "--steps", "3") == 0
    assert [line["step"] for line in told(out / "lmseg")] == [1, 2, 3]
    capsys.readouterr()
    assert run(out, recipe.replace("max_words: 9", "max_words: 8"), coco_stuff, "--steps", "4") == 2
    assert "stages[0].max_words was 9, is 8" in capsys.readouterr().err


def test_of_things_with_instances_it_learns_their_categories(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And goes on only with the descriptions that it began with."""
    described = tmp_path / "some.yaml"
    described.write_text("format: 1\nwords: {red ball: {color: [red, dark red]}}\n")
    preset = write_tiny_lmseg(tmp_path, descriptions={"files": ["some.yaml"]})
    (tmp_path / "tiny_lmseg.safetensors").unlink()
    recipe, out = TABLETOP.replace("PRESET", str(preset)), tmp_path / "out"
    out.mkdir()
    assert run(out, recipe, data, "--steps", "1") == 0
    assert [line["step"] for line in told(out / "lmseg")] == [1]
    assert any(name.startswith("text.") for name in load_file(out / "tiny_lmseg.safetensors"))
    described.write_text("format: 1\nwords: {red ball: {color: [red]}}\n")
    assert run(out, recipe, data) == 2
    assert re.search(r"record.weights.lmseg\[2\] was 'some.yaml, SHA-256 [0-9a-f]{16}', is", capsys.readouterr().err)


def test_initial_weights_depend_on_the_seed_alone(preset: Path) -> None:
    (preset.parent / "tiny_lmseg.safetensors").write_bytes(b"not read")
    states = [build_untrained(str(preset), torch.device("cpu"), seed)[0].state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["embed.weight"], states[2]["embed.weight"])
    same = [name for name in states[0] if name.startswith(("visual.", "text.", "sam."))]
    assert all(torch.equal(states[0][name], states[2][name]) for name in same)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("max_words: 9", "max_words: 0"), "max_words: .*greater than or equal to 1"),
        (("max_words: 9", "max_word: 9"), "unknown key 'max_word'; did you mean 'max_words'"),
        (("synonyms: 0.5", "others: likely"), "unknown others 'likely'; did you mean 'likeliest'"),
        (("augmentation:\n      {", "x: {"), "unknown key 'x'"),
        ((re.search(r"    augmentation:\n.*\n", RECIPE).group(), ""), "data of kind panoptic needs an augmentation"),  # type: ignore[union-attr]
        (("prefix: sam.", "prefix: second."), "no trained parameter's name begins with 'second.'"),
        (("preset: PRESET", "preset: tabletop"), "the preset tabletop scores no pixels, it is of classifier of kind"),
        (("preset: PRESET", "preset: omtseg_l"), "the preset omtseg_l scores no pixels, it is of kind omtseg; name"),
        (("dataset: coco_stuff", "dataset: coco_stuf"), "there is no data set 'coco_stuf' .did you mean 'coco_stuff"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(
    preset: Path,
    coco_stuff: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: tuple[str, str],
    message: str,
) -> None:
    assert changed[0] in RECIPE
    assert run(tmp_path, RECIPE.replace(*changed).replace("PRESET", str(preset)), coco_stuff) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("ovseg: error: ") and error.count("\n") == 1, error
    assert not (tmp_path / "lmseg/last.pt").exists()


def test_a_preset_without_a_name_for_the_result_is_refused(
    preset: Path, coco_stuff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset.write_text(re.sub(" *checkpoint: tiny_lmseg.safetensors\n", "", preset.read_text()))
    assert run(tmp_path, RECIPE.replace("PRESET", str(preset)), coco_stuff) == 2
    assert "names no checkpoint of its scorer; name there what to write" in capsys.readouterr().err
    assert not (tmp_path / "run.yaml").exists()


def test_weights_to_begin_with_that_are_not_there_are_named(
    coco_stuff: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is computed, and though the result of an earlier training lies beside the preset."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "presets").mkdir()
    preset = write_tiny_semantic(tmp_path / "presets", sam=None)
    public = "spaces/hamacojr/CAT-Seg-weights"
    text = preset.read_text().replace(
        "checkpoint: tiny_lmseg.safetensors",
        f"""checkpoint: tiny_lmseg.safetensors
    warm_start: {public}/model_base.pth""",
    )
    assert "warm_start" in text
    preset.write_text(text + f"weights: [{{repo: {public}, file: model_base.pth, bytes: 819132441, licence: none}}]\n")
    assert run(tmp_path, RECIPE.replace("PRESET", str(preset)), coco_stuff) == 2
    error = capsys.readouterr().err
    assert f"model_base.pth of {public} is not on this machine" in error
    assert f"download {preset} (0.8 GB)" in error and not (tmp_path / "lmseg").exists()
    assert build_segmenter(str(preset), "cpu").model is not None  # which a trained scorer does not need


def test_a_file_in_which_something_is_missing_is_refused(preset: Path, tmp_path: Path) -> None:
    began, _ = build_untrained(str(preset), torch.device("cpu"), 0)
    state = {name: value.contiguous() for name, value in began.trained_state_dict().items()}
    del state["fusion.share_logit"]
    save_file(state, preset.parent / "tiny_lmseg.safetensors")
    with pytest.raises(CheckpointError, match="fusion.share_logit"):
        build_segmenter(str(preset), "cpu")
