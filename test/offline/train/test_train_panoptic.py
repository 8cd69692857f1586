"""`ovseg train` on a data set in COCO panoptic layout: EoMT, then FISA on its proposals; kills, bad input."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import (
    EOMT,
    EOMT_RECIPE,
    NETWORK,
    assert_validation_changes_nothing,
    require_same_maps,
    run,
    told,
    write_clip,
)

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.cli.main import main

PRESET = f"""
description: tiny
model:
  kind: two_stage
  input_size: [64, 96]
  proposer: {{kind: eomt, checkpoint: tiny_eomt.safetensors, architecture: {EOMT}}}
  clip: {{kind: open_clip, architecture: clip.json, checkpoint: clip.safetensors}}
  classifier:
    kind: fisa
    checkpoint: tiny_fisa.safetensors
    architecture: {{input_size: 64, seve_width: 16, seve_heads: 2, max_masks: 4, adapter_width: 4}}
  templates: ["{{}}"]
"""

FISA_RECIPE = """
stages:
  - kind: fisa
    preset: PRESET
    data: {kind: panoptic, dataset: tabletop, split: train, workers: 2}
    augmentation: {kind: jitter, size: [64, 64], scale: [0.8, 1.5]}
    loop:
      {steps: 3, batch_size: 2, learning_rate: 1.0e-2, warmup_steps: 1, log_every: 1, pictures_every: 2,
       multipliers: [{prefix: stream.queries., factor: 0.1}]}
    loss: {min_iou: 0.0}
"""


def test_eomt_trains_and_shows_pictures(eomt: Path) -> None:
    assert [line["step"] for line in told(eomt / "eomt")] == [1, 2, 3, 4]
    assert all(line["total"] > 0 for line in told(eomt / "eomt"))
    board = EventAccumulator(str(eomt / "eomt" / "tensorboard")).Reload()
    shown = board.Images("segments")
    assert [(image.step, image.width, image.height) for image in shown] == [(2, 288, 128), (4, 288, 128)]
    first, last = (
        cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR) for image in shown
    )
    assert (first[:, :192] == last[:, :192]).all()  # the same images and truth, whole
    assert (first[:, :96].max(axis=2) > 0).mean() > 0.9
    assert load_file(eomt / "tiny_eomt.safetensors")["class_head.bias"].shape == (101,)


def test_fisa_trains_on_the_proposals_of_that_eomt(
    eomt: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path)
    (tmp_path / "tiny_eomt.safetensors").write_bytes((eomt / "tiny_eomt.safetensors").read_bytes())
    preset = tmp_path / "tiny.yaml"
    preset.write_text(PRESET.replace("clip.json", f"{tmp_path}/clip.json").replace("clip.saf", f"{tmp_path}/clip.saf"))
    recipe = FISA_RECIPE.replace("PRESET", str(preset))

    assert run(tmp_path, recipe, data) == 0
    lines = told(tmp_path / "fisa")
    assert [line["step"] for line in lines] == [1, 2, 3] and all(line["class"] > 0 for line in lines)
    assert len(list((tmp_path / "proposals").rglob("*.npz"))) == 3  # each image once, in three steps of two
    kept = torch.load(tmp_path / "fisa" / "last.pt", weights_only=True)["model"]
    assert {name.split(".")[0] for name in kept} == {"stream", "adapter"}  # neither CLIP nor the generator
    assert build_segmenter(str(preset), "cpu")  # reads what was written
    require_same_maps(tmp_path, "fisa", "cup", "floor")
    events = EventAccumulator(str(tmp_path / "fisa" / "tensorboard")).Reload()
    assert [(image.step, image.width, image.height) for image in events.Images("names")] == [(2, 128, 128)]

    assert_validation_changes_nothing(tmp_path, "fisa", recipe, data)

    # The same again from the cache alone gives the same, and other steps go on from there.
    for name in ("last.pt", "log.jsonl"):
        (tmp_path / "fisa" / name).unlink()
    assert run(tmp_path, recipe, data, "--resume", "never") == 0
    assert told(tmp_path / "fisa") == lines
    assert run(tmp_path, recipe, data, "--resume", "require", "--steps", "4") == 0
    assert [line["step"] for line in told(tmp_path / "fisa")] == [1, 2, 3, 4]

    # A preset may be called otherwise, but not say something else.
    (tmp_path / "other.yaml").write_text(preset.read_text())
    assert run(tmp_path, recipe.replace("tiny.yaml", "other.yaml"), data, "--steps", "4") == 0
    preset.write_text(preset.read_text().replace("max_masks: 4", "max_masks: 3"))
    assert run(tmp_path, recipe, data) == 2
    assert "record.models.fisa.classifier.architecture.max_masks was 4, is 3." in capsys.readouterr().err


def test_masks_are_compared_everywhere_by_default(data: Path, tmp_path: Path) -> None:
    assert run(tmp_path, EOMT_RECIPE.replace("points: 64", "points: 0").replace("1.0e-3", "1e-3"), data) == 0
    assert told(tmp_path / "eomt")[-1]["dice"] > 0


def test_views_are_not_rendered_into_a_data_sets_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a recipe with stages on both."""
    places = []

    def rendered(folder: Path, split: str, *, scenes: int, views: int, wide: int) -> None:
        places.append(folder)
        raise DatasetError("asked for")

    monkeypatch.setattr("ovseg_ros.offline.train.data.load_or_render", rendered)
    clip = "  - kind: clip\n    preset: tabletop\n    captions: {split: captions, scenes: 1, views: 1}\n"
    clip += "    masks: {scenes: 1, views: 1}\n" + "".join(
        f"    {name}: {{steps: 1, batch_size: 4, learning_rate: 1.0e-3}}\n" for name in ("loop", "adaptation")
    )
    assert run(tmp_path, EOMT_RECIPE + clip, data) == 2
    assert run(tmp_path / "eomt", "stages:\n" + clip, data) == 2
    assert places == [tmp_path / "data", data]


def test_a_killed_training_goes_on_as_if_it_never_was(data: Path, tmp_path: Path) -> None:
    """SIGKILL of a real `ovseg train` at a step that is no checkpoint's; the loss curve and the weights are exact."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        recipe = EOMT_RECIPE.replace("checkpoint_every: 5", "checkpoint_every: 4")
        unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
        unbroken.mkdir(), killed.mkdir()
        steps = ("--steps", "40")
        assert run(unbroken, recipe, data, *steps) == 0

        (killed / "recipe.yaml").write_text(recipe)
        command = [sys.executable, "-m", "ovseg_ros.offline.cli.main", "train", str(killed / "recipe.yaml")]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        process = subprocess.Popen(
            [*command, "--out", str(killed), "--data", str(data), "--device", "cpu", *steps],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        log = killed / "eomt" / "log.jsonl"
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_text().count("\n") >= 10:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert 0 < torch.load(killed / "eomt" / "last.pt", weights_only=True)["step"] < 40

        assert run(killed, recipe, data, "--resume", "require", *steps) == 0
        assert told(killed / "eomt") == told(unbroken / "eomt")
        ours, theirs = (torch.load(folder / "eomt" / "last.pt", weights_only=True) for folder in (killed, unbroken))
        assert all(torch.equal(ours["model"][key], theirs["model"][key]) for key in theirs["model"])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("learning_rate", "learning_rte"), "unknown key 'learning_rte'; did you mean 'learning_rate'"),
        (
            (NETWORK, "network: {kind: preset, preset: tabletop}"),
            "the EoMT of the preset tabletop has 2 classes, but tabletop has 100; to train it with these, .* and "
            "begins_with: tabletop",
        ),
        (("size: [64, 96]", "size: [60, 96]"), r"views of size \(60, 96\) must be multiples of 16 pixels"),
        (
            ("batch_size: 2", "batch_size: 0"),
            r"loop.batch_size: it should be greater than or equal to 1, got 0",
        ),
        (
            ("annealing_starts: [1]", "annealing_starts: [1, 2]"),
            "annealing_ends need 1 steps each, .* got 2 and 1",
        ),
        (("joint_blocks: 1", "joint_blocks: 2"), "annealing_starts and annealing_ends need 2 steps each"),
        (
            ("annealing_ends: [3]", "annealing_ends: [1]"),
            "annealing_starts must lie before the same block's end",
        ),
        (("dataset: tabletop", "dataset: tabeltop"), "there is no data set 'tabeltop' .did you mean 'tabletop'"),
        (("dataset: tabletop", "dataset: ade20k_full"), "ade20k_full has no panoptic ground truth; choose one of"),
        (("workers: 2", "workers: 2, on_error: ignore"), "unknown on_error 'ignore'; expected one of skip, stop"),
        (("  - kind: eomt", "  - kind: eomtt"), "unknown kind 'eomtt'; did you mean 'eomt'"),
        (("batch_size: 2", "batch_size: 2, betas: [0.9, 1.0]"), r"betas\[1\]: it should be less than 1, got 1.0"),
        (
            ("batch_size: 2", "batch_size: 2, weight_decay: -1.0"),
            "weight_decay: it should be greater than or equal to 0",
        ),
        (("batch_size: 2", f"batch_size: 2, seed: {10**18}"), "seed: it should be less than 4294967296, got 10000"),
        (("batch_size: 2", f"batch_size: 2, seed: {10**20}"), "line 8, column 39 .*: 10000.* is too large a number"),
        (("learning_rate: 1.0e-3", "learning_rate: .nan"), "learning_rate: expected a finite number, got nan"),
        (("joint_blocks: 1", "joint_blocks: 9"), "joint_blocks must be 1 to depth = 2, got 9"),
        (("heads: 2", "heads: 3"), "width must be a multiple of heads = 3, got 16"),
        (("image_size: [64, 96]", "image_size: [8, 96]"), "patch_size must be 8 at most, got 16"),
        (("dataset: tabletop", "dataset: ade20k_panoptic"), "ade20k_panoptic_train.json is missing; it may be"),
        (("batch_size: 2", "batch_size: 1e1"), "batch_size: expected a whole number, got '1e1'; write 10$"),
        (("batch_size: 2", "batch_size: 10.0"), "batch_size: expected a whole number, got 10.0; write 10$"),
        (("batch_size: 2", "batch_size: 2.5"), "batch_size: expected a whole number, got 2.5$"),
        (("learning_rate: 1.0e-3", "learning_rate: 1:30"), "1:30 would be read as 90, a number of base 60; write"),
        (("batch_size: 2", "batch_size: 010"), "line 8, column .*: 010 would be read as 8, a number of base 8; write"),
        (
            ("points: 64", "class_weight: 0, bce_weight: 0.0, dice_weight: 0"),
            r"stages\[0\].loss: class_weight, bce_weight and dice_weight are all 0, so nothing would be learned; raise",
        ),
        (("stages:", "stage:"), "unknown key 'stage'; did you mean 'stages'"),
        (("    loss:", "    encoder_weights: /nowhere\n    loss:"), "the checkpoint '/nowhere' is not there"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: tuple[str, str], message: str
) -> None:
    assert changed[0] in EOMT_RECIPE
    assert run(tmp_path, EOMT_RECIPE.replace(*changed), data) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("ovseg: error: ") and error.count("\n") == 1
    assert not (tmp_path / "eomt").exists()


def test_options_and_data_that_cannot_be_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, EOMT_RECIPE, data, "--steps", str(10**12))
    assert "--steps: '1000000000000' is not a whole number from 1 to 1000000000" in capsys.readouterr().err
    assert run(tmp_path, EOMT_RECIPE, data, "--mixed-precision", "fp16") == 2
    assert "fp16 needs a GPU, and this run is on a CPU; add --mixed-precision no" in capsys.readouterr().err
    assert run(tmp_path, EOMT_RECIPE, tmp_path / "recipe.yaml") == 2
    assert re.search("--data .*recipe.yaml is a file; expected the folder of the data", capsys.readouterr().err)
    for name in ("images/training", "annotations/training"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "images/training/a.jpg").touch()
    assert run(tmp_path, EOMT_RECIPE.replace("dataset: tabletop", "dataset: ade20k_semantic"), tmp_path) == 2
    assert "choose one of ade20k_panoptic, cityscapes_panoptic, coco_instances, " in capsys.readouterr().err
    monkeypatch.delenv("OVSEG_DATASETS", raising=False)
    recipe = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(recipe.replace("ade20k_semantic", "ade20k_panoptic"))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert (
        "where is ade20k_panoptic? Give its folder (--root DIR of evaluate" in error and "--data DIR of train" in error
    )


def test_masks_of_fisa_need_whole_cells(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, FISA_RECIPE.replace("[64, 64]", "[64, 66]"), data) == 2
    assert "(64, 66) must be multiples of the masks' stride 4" in capsys.readouterr().err


def test_missing_data_and_states_are_named(
    eomt: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, EOMT_RECIPE, tmp_path / "nowhere") == 2
    assert "nowhere of tabletop is missing; expected in it: panoptic.json" in capsys.readouterr().err
    assert run(tmp_path, EOMT_RECIPE, data, "--resume", "require") == 2
    assert "there is no training in" in capsys.readouterr().err
    assert run(eomt, EOMT_RECIPE, data, "--resume", "never") == 2
    assert "holds a training already (eomt)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("mixed_precision: bf16\n", "recipe.yaml: missing stages"),
        ("stages: []\n", "recipe.yaml.stages: expected 1 or more values, got 0"),
        (EOMT_RECIPE + EOMT_RECIPE.split("stages:\n")[1], "2 stages of kind eomt, which would share the state"),
        (EOMT_RECIPE.replace("batch_size: 2", "batch_size: two"), "batch_size: expected a whole number, got 'two'$"),
        (EOMT_RECIPE + "preset: tabletop\n", "recipe.yaml: unknown key 'preset'"),
        (EOMT_RECIPE + "mixed_precision: int4\n", "unknown mixed_precision 'int4'; expected one of no, bf16, fp16"),
    ],
)
def test_an_empty_recipe_and_a_mixed_one_are_refused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], recipe: str, message: str
) -> None:
    assert run(tmp_path, recipe, data) == 2
    assert re.search(message, capsys.readouterr().err)
