"""LMSeg by shape: the counts of the method, and FLOPs worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_lmseg import SAM, write_tiny_lmseg, write_tiny_semantic

from ovseg_ros.core.presets import PresetFolder, load_preset, preset_folder
from ovseg_ros.core.sections import SemanticSection, TwoStageSection
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import count_scorer as counting
from ovseg_ros.offline.tools.count_scorer import count_scorer, scorer_shapes

CELLS, WIDTH = 16, 16


def count(preset: str, words: int = 3) -> dict:
    model = load_preset(preset).model
    scorer = model.scorer if isinstance(model, SemanticSection) else model.naming.scorer
    return count_scorer(model.clip, scorer, preset_folder(preset), words)


def test_the_presets_train_what_the_method_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries and values of both towers of CLIP, SAM's attention, and everything that is added to them."""
    monkeypatch.setattr(counting, "_frame", lambda *_: 1)
    large, base, semantic, public = map(count, ("lmseg_l", "lmseg_b", "lmseg_l_semantic", "cat_seg_b_semantic"))
    assert all(semantic[key] == large[key] for key in ("parameters", "trained"))
    assert (semantic["flops"]["encoders"], large["flops"]["encoders"]) == (5, 1)  # windows
    for found, image, text, aggregation, skips, fusion in (
        (large, 2 * 24 * 1024**2, 2 * 12 * 768**2, 2_636_641, 3_146_112, 2 * 256 + 257 * 768 + 1),
        (base, 2 * 12 * 768**2, 2 * 12 * 512**2, 2_308_961, 2_359_680, 2 * 256 + 257 * 512 + 1),
    ):
        sam = 28_320_768
        parts = {"clip_image_tower": image, "clip_text_tower": text, "sam": sam, "fusion": fusion, "skips": skips}
        total = image + text + sam + fusion + skips + aggregation
        assert found["trained"] == {**parts, "aggregation": aggregation, "all": total}
        assert [found["parameters"][name] for name in ("aggregation", "skips")] == [aggregation, skips]
    assert large["parameters"]["sam"] == 89_670_912
    assert base["parameters"]["sam"] == 89_670_912 - (64**2 - 24**2) * 768 - 4 * 4 * (64 - 24) * 64  # fewer positions
    assert large["trained"]["clip_image_tower"] + large["trained"]["clip_text_tower"] == 64_487_424
    assert base["trained"]["clip_image_tower"] + base["trained"]["clip_text_tower"] == 20_447_232
    assert "sam" not in public["trained"]
    assert public["trained"]["all"] == base["trained"]["all"] - 28_320_768 - base["trained"]["fusion"]


def test_what_words_cost_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 8 words on, only cosines grow: the rest looks at 8 of them."""
    monkeypatch.setattr(counting, "MANY_WORDS", 50)
    found = count(str(write_tiny_semantic(tmp_path)), words=20)
    few, some, many = found["frames"]["flops"]
    assert found["frames"]["words"] == [10, 20, 50] and found["flops"]["frame"] == some
    cosine = 2 * CELLS * WIDTH
    assert (some - few, many - some) == (10 * cosine, 30 * cosine)
    assert found["words_ratio"] == {"words": [10, 50], "frame": many / few}
    assert found["flops"]["each_word"] == 0  # fewer than 10 are looked at
    unpadded = count(str(write_tiny_semantic(tmp_path, scorer={"padded_words": 0})), words=20)
    few, some, many = unpadded["frames"]["flops"]
    assert unpadded["flops"]["each_word"] == (many - few) // 40 == pytest.approx((some - few) / 10, rel=0.01)
    assert unpadded["flops"]["encoders"] == found["flops"]["encoders"] < few
    model, files = load_preset(str(tmp_path / "tiny_semantic.yaml")).model, PresetFolder(tmp_path)
    assert isinstance(model, SemanticSection)
    whole = replace(model.scorer.architecture, windows=False)
    one, five = (
        counting._frame(
            scorer_shapes(model.clip, replace(model.scorer, architecture=a), files).requires_grad_(False), 3
        )
        for a in (whole, replace(whole, windows=True))
    )
    assert five == 5 * one


def test_nothing_is_allocated_or_read(tmp_path: Path) -> None:
    path = write_tiny_lmseg(tmp_path, sam=SAM)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    model = load_preset(str(path)).model
    assert isinstance(model, TwoStageSection)
    scorer = scorer_shapes(model.clip, model.naming.scorer, preset_folder(str(path)))
    assert all(value.is_meta for value in (*scorer.parameters(), *scorer.buffers()))
    assert scorer.visual.proj.device == torch.device("meta")
    assert count(str(path))["trained"]["sam"] == 4 * (3 * 32 * 32 + 32 * 32 + 32)


@pytest.mark.usefixtures("no_frame_counted")
def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "count.json"
    presets = write_tiny_lmseg(tmp_path), write_tiny_semantic(tmp_path, sam=None)
    always = {"preset", "words", "frame", "text", "scorer"}
    keys = always | {"masks", "mask_generator"}, always
    for preset, expected in zip(presets, keys, strict=True):
        assert main(["count", str(preset), "--words", "12", "--json", str(path)]) == 0
        printed = capsys.readouterr().out
        assert "12 words" in printed and "aggregation" in printed and "trained in all" in printed
        assert ("SAM's image encoder" in printed) == (preset == presets[0])
        assert set(json.loads(path.read_text())) == expected
        assert main(["count", str(preset), "--timing"]) == 2
        assert "ovseg" in capsys.readouterr().err
