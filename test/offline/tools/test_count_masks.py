"""Mask generators by shape, and what words in them cost: the counts of the method, and figures worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ovseg_ros.core.presets import PresetFolder, load_preset, preset_path
from ovseg_ros.core.proposals.published import published_mask2former
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools.count_masks import count_masks, generator_shapes

EOMT = {"kind": "published_eomt", "checkpoint": "tue-mps/coco_panoptic_eomt_large_640"}
EOMT_B = {"kind": "published_eomt", "checkpoint": "tue-mps/coco_panoptic_eomt_base_640_2x"}
MASK2FORMER = {"kind": "mask2former", "checkpoint": "facebook/mask2former-swin-base-coco-panoptic"}
WIDE = {"architecture": "convnext_large_d_320", "checkpoint": "laion/CLIP"}  # text vectors of 768
NARROW = {"architecture": "ViT-B-16", "checkpoint": "laion/CLIP"}  # of 512
KEYS = {"preset", "masks", "words", "frame", "text"}


def counted(folder: Path, name: str, *options: str) -> dict[str, Any]:
    out = folder / "count.json"
    assert main(["count", name, "--json", str(out), *options]) == 0
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def write_preset(folder: Path, proposer: dict, clip: dict) -> str:
    model = {
        "kind": "two_stage",
        "input_size": [64, 64],  # counts of parameters do not depend on it
        "proposer": proposer,
        "clip": {"kind": "open_clip", **clip},
        "classifier": {"kind": "pooled"},
    }
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"description": "For tests.", "model": model}))
    return str(path)


@pytest.mark.usefixtures("no_frame_counted")
@pytest.mark.parametrize(
    ("generator", "clip", "prompt", "layers", "parameters"),
    [
        (MASK2FORMER, WIDE, {}, 9, 4_727_808),
        (MASK2FORMER, NARROW, {}, 9, 3_548_160),
        (MASK2FORMER, WIDE, {"residual": False}, 9, 3_543_552),
        (MASK2FORMER, NARROW, {"residual": False}, 9, 2_363_904),
        (EOMT, WIDE, {}, 4, 3_677_184),
        (EOMT_B, NARROW, {}, 3, 1_970_688),
    ],
)
def test_prompts_have_as_many_parameters_as_the_equations(
    generator: dict, clip: dict, prompt: dict, layers: int, parameters: int, tmp_path: Path
) -> None:
    proposer = {"kind": "prompt_guided", "generator": generator, "prompt": prompt}
    report = counted(tmp_path, write_preset(tmp_path, proposer, clip))
    assert set(report) == KEYS | {"mask_generator", "guidance"}
    assert report["guidance"]["layers"] == layers
    assert report["guidance"]["parameters"]["prompts"] == parameters


@pytest.mark.usefixtures("no_frame_counted")
def test_the_tabletops_words_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """40 queries of 160 in 3 layers, 384 numbers a word: a projection each way, attention, and the word head."""
    words = 150
    report = counted(tmp_path, "tabletop_pmp", "--words", str(words))
    found, generator = report["guidance"], report["mask_generator"]
    assert found["parameters"] == {"prompts": 524_160, "word_head": 160 * 161 + 161 * 384 + 384 + 1}
    each = 3 * 4 * 40 * 160 + 2 * 40 * 384
    projections = 3 * 2 * 2 * 40 * 160 * 160
    head = 2 * 40 * 160 * (160 + 384)  # PyTorch's counter leaves out the product with the one vector of nothing
    assert found["flops"] == {
        "guided": generator["flops"] + projections + head + words * each,
        "extra": projections + head + words * each,
        "each_word": each,
        "vocabulary_once": 3 * 2 * 2 * words * 384 * 160,
    }
    assert found["extra_share"] == found["flops"]["extra"] / generator["flops"] <= 0.05
    assert found["words_ratio"]["words"] == [10, 1000]
    assert "prompts, trained" in capsys.readouterr().out


@pytest.mark.usefixtures("no_frame_counted")
@pytest.mark.parametrize("preset", ["pmp_eomt_l", "pmp_mask2former_b"])
def test_words_cost_little_and_their_number_nearly_nothing(preset: str, tmp_path: Path) -> None:
    found = counted(tmp_path, preset)["guidance"]
    assert 0 < found["extra_share"] <= 0.05
    assert 1 < found["words_ratio"]["frame"] <= 1.01


@pytest.mark.parametrize(("size", "millions"), [("tiny", 47), ("small", 69), ("base", 107), ("large", 216)])
def test_public_mask2formers_have_their_published_sizes(size: str, millions: int, tmp_path: Path) -> None:
    name = f"facebook/mask2former-swin-{size}-coco-panoptic"
    preset = write_preset(tmp_path, {"kind": "mask2former", "checkpoint": name}, NARROW)
    network = generator_shapes(load_preset(preset).model)
    assert network is not None and all(value.is_meta for value in network.parameters())
    assert round(sum(value.numel() for value in network.parameters()) / 1e6) == millions


def test_others_are_not_known() -> None:
    for name in ("facebook/mask2former-swin-huge-coco-panoptic", "facebook/mask2former-swin-tiny-ade-semantic", "here"):
        assert published_mask2former(name) is None


@pytest.mark.usefixtures("no_frame_counted")
def test_a_preset_without_guidance_or_fisa_has_its_mask_generator_counted(tmp_path: Path) -> None:
    report = counted(tmp_path, "tabletop")
    assert set(report) == KEYS | {"mask_generator"}
    assert report["mask_generator"] == counted(tmp_path, "tabletop_fisa")["mask_generator"]
    assert report["mask_generator"]["parameters"] > 1e6 and report["mask_generator"]["flops"] > 1e8
    assert round(counted(tmp_path, "eomt_b_vit_b")["mask_generator"]["parameters"] / 1e6, 1) == 93.7


def test_a_public_generator_of_unknown_shape_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = write_preset(tmp_path, {"kind": "mask2former", "checkpoint": "my/own"}, NARROW)
    assert main(["count", preset]) == 2
    error = capsys.readouterr().err
    assert "whose shape is in its file; name a preset" in error and error.count("\n") == 1
    assert count_masks(load_preset(preset).model, PresetFolder(preset_path(preset).parent), 10) == {}
