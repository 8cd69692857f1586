"""An OMTSeg by shape: the counts of the method, and FLOPs worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ovseg_ros.core.backbones.beit3 import Beit3Config
from ovseg_ros.core.joint.omtseg.config import AdapterConfig, DecoderConfig, OMTSegConfig
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.sections import OMTSegSection, WordListSection
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import count_joint
from ovseg_ros.offline.tools.count_joint import count_omtseg, omtseg_shapes

TINY = OMTSegConfig(
    Beit3Config((64, 96), width=32, layers=4, heads=2, feed_forward_width=64, words=12, text_length=40),
    AdapterConfig(prior_width=4, heads=4),
    DecoderConfig(32, heads=4, pixel_layers=1, pixel_feed_forward_width=32, queries=5, layers=2, feed_forward_width=32),
    trained_words=40,
)


def test_large_has_as_many_parameters_as_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_joint, "_frame", lambda *_: 1)
    model = load_preset("omtseg_l").model
    heads = 3 * (256 * 256 + 256) + 2 * (1024 * 256 + 256) + 2 * (256 + 1) + 1 + 1024  # scale and mark at the end
    trained, positions = 46_893_699, (1 + 1600 + 2 + 1024) * 1024
    assert count_omtseg(model, 150)["parameters"] == {
        "encoder": 674_140_160,
        "adapter": 23_236_800,
        "pixel_decoder": 6_101_440,
        "decoder": 14_458_624,
        "text_attention": 9 * (4 * (256 * 256 + 256) + 2 * 256),
        "heads": heads,
        "trained": trained + positions,
        "trained_positions": positions,
    }
    assert 23_236_800 + 6_101_440 + 14_458_624 + 2_373_120 + heads == trained
    assert positions == 2_690_048
    base = count_omtseg(load_preset("omtseg_b").model, 150)["parameters"]
    assert base["encoder"] == 222_065_664


def test_what_words_cost_by_hand() -> None:
    """A token passes through B's layers and is attended to; a name, besides, is projected twice and read by queries."""
    section = OMTSegSection(TINY, WordListSection(("red",)))
    few, some = (count_omtseg(section, words) for words in (10, 40))
    assert (few["tokens"], some["tokens"]) == (2 + 38, 2 + 150)
    patches, width, layers, queries = 1 + 4 * 6, 32, 4, 5
    tokens = [found["tokens"] for found in (few, some)]
    linear = 2 * layers * (4 * width * width + 2 * width * 64)
    attention = [4 * layers * width * (patches + count) ** 2 for count in tokens]
    name = 2 * 2 * width * 32 + 2 * (2 * 2 * 32 * 32 + 4 * queries * 32) + 3 * 2 * queries * 32
    by_hand = linear * (tokens[1] - tokens[0]) + attention[1] - attention[0] + name * 30
    assert some["flops"]["frame"] - few["flops"]["frame"] == by_hand
    ratio = few["words_ratio"]
    assert ratio["words"] == [10, 1000]
    assert few["flops"]["each_word"] == pytest.approx((ratio["frame"] - 1) * few["flops"]["frame"] / 990, abs=1)


def test_nothing_is_allocated_and_an_encoder_of_ones_own_is_trained() -> None:
    network = omtseg_shapes(TINY)
    assert all(value.is_meta for value in (*network.parameters(), *network.buffers()))
    section = OMTSegSection(TINY, WordListSection(("red",)))
    own = count_omtseg(section, 1)["parameters"]
    assert own["trained"] == sum(value.numel() for value in network.parameters())
    public = count_omtseg(replace(section, encoder_weights="a.pth"), 1)["parameters"]
    assert public["trained"] == own["trained"] - own["encoder"] + own["trained_positions"]


@pytest.mark.usefixtures("no_frame_counted")
def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "count.json"
    assert main(["count", "tabletop_omtseg", "--words", "12", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "preset tabletop_omtseg, 12 words of 47 tokens" in printed and "1,805,952" in printed
    report = json.loads(path.read_text())
    assert set(report) == {"preset", "words", "tokens", "parameters", "flops", "words_ratio", "frame"}
    assert main(["count", "tabletop_omtseg", "--timing"]) == 2
    error = capsys.readouterr().err
    assert "is of kind omtseg" in error and error.count("\n") == 1
