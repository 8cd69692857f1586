"""Parameters and FLOPs by shape: the paper's 26 M, the issue's bounds, and figures that can be worked out by hand."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools.count import count_fisa, fisa_flops, fisa_shapes, time_vocabularies
from ovseg_ros.offline.tools.shapes import flops_of


@cache
def counted_at_100_masks(preset: str) -> dict[str, Any]:
    return count_fisa(preset, masks=100, words=150)


def test_vit_l_trains_what_the_paper_says() -> None:
    """24 f_q of 1024 x 1024, a SEVE of width 256 on 768-d text, an adapter of 609: 26.1 M."""
    counted = counted_at_100_masks("fisa_l")
    queries = 24 * (1024 * 1024 + 1024)
    seve = (1024 + 1) * 256 + 2 * (768 + 1) * 256 + (256 + 1) * 1024
    assert counted["parameters"]["trained"] == queries + seve + 609
    assert counted["parameters"]["trained"] / 1e6 == pytest.approx(26.1, abs=0.2)
    assert counted["parameters"]["frozen"] == counted["parameters"]["clip_image_tower"]
    assert counted["parameters"]["frozen"] / 1e6 == pytest.approx(304.3, abs=0.1)


@pytest.mark.parametrize("preset", ["fisa_l", "fisa_b"])
def test_fisa_costs_little_beside_clip_and_words_cost_nearly_nothing(preset: str) -> None:
    counted = counted_at_100_masks(preset)
    assert 0 < counted["extra_share"] <= 0.15
    assert 1 <= counted["words_ratio"]["frame"] <= 1.1
    assert 1 <= counted["words_ratio"]["extra"] <= 1.1


def test_flops_by_hand() -> None:
    with torch.device("meta"):
        layer, attention = nn.Linear(3, 5), nn.MultiheadAttention(8, 2, batch_first=True).eval()
        rows, tokens = torch.empty(7, 3), torch.empty(1, 4, 8)
    assert flops_of(lambda: layer(rows)) == 2 * 7 * 3 * 5
    projections, products = 2 * 4 * 8 * (24 + 8), 2 * 2 * 4 * 4 * 8
    with torch.no_grad():
        assert flops_of(lambda: attention(tokens, tokens, tokens, need_weights=False)) == projections + products


def test_the_frame_grows_with_masks_and_the_vocabulary_with_words() -> None:
    classifier = fisa_shapes("tabletop_fisa")
    images, masks = torch.empty(1, 3, 240, 320, device="meta"), torch.empty(1, 8, 60, 80, device="meta")
    few, many = fisa_flops(classifier, images, masks[:, :4], 10), fisa_flops(classifier, images, masks, 1000)
    assert many["frame"] > 1.9 * few["frame"]
    assert many["vocabulary"] == 100 * few["vocabulary"]


def test_times_are_of_both_vocabularies() -> None:
    timed = time_vocabularies("tabletop_fisa", masks=2)
    assert timed["words"] == [10, 1000] and timed["ratio"] > 0 and len(timed["median_seconds"]) == 2


@pytest.mark.usefixtures("no_frame_counted")
def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "count.json"
    assert main(["count", "tabletop_fisa", "--masks", "5", "--words", "12", "--json", str(path)]) == 0
    assert "FISA adds" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["masks"] == 5 and report["words"] == 12
    assert report["flops"]["extra"] == report["flops"]["fisa"] - report["flops"]["clip_image_tower"]


def test_timing_is_of_small_presets_with_fisa(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "tabletop", "--timing"]) == 2
    assert "such as fisa_l" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="small presets"):
        time_vocabularies("fisa_l", masks=1)


def test_the_default_configuration_is_the_papers() -> None:
    config = FisaConfig()
    assert (config.input_size, config.seve_width, config.adapter_convolutions) == (896, 256, 2)
    assert config.seve_layers is None and config.query_layers is None


@pytest.mark.parametrize("preset", ["tabletop_fisa", "fisa_b"])
def test_nothing_is_allocated(preset: str) -> None:
    classifier = fisa_shapes(preset)
    assert all(value.is_meta for value in (*classifier.parameters(), *classifier.buffers()))
