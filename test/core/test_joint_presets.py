"""Presets of models that make masks and names at once: what may stand in them, how they are built, what is missing."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ovseg_ros.core.backbones.beit3 import Beit3, Beit3Config
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.joint.omtseg.model import OMTSeg
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.presets import (
    PresetConfig,
    checkpoint_paths,
    fisa_section,
    load_preset,
    own_checkpoints,
    two_stage,
)
from ovseg_ros.core.sections import OMTSegSection
from ovseg_ros.core.trained_weights import trained_files
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.strict import save_state_half

ENCODER = {"image_size": [64, 96], "width": 32, "layers": 4, "heads": 2, "feed_forward_width": 64, "words": 12}
ARCHITECTURE = {
    "encoder": {**ENCODER, "text_length": 40},
    "trained_words": 40,
    "adapter": {"prior_width": 4, "heads": 4},
    "decoder": {
        "width": 32, "heads": 4, "pixel_layers": 1, "pixel_feed_forward_width": 32, "queries": 5, "layers": 2,
        "feed_forward_width": 32,
    },
}  # fmt: skip
MODEL = {
    "kind": "omtseg",
    "architecture": ARCHITECTURE,
    "tokenizer": {"kind": "word_list", "words": ["red", "cube", "table"]},
    "checkpoint": "mine.safetensors",
}
BASE = {"description": "For tests.", "merge": {"object_threshold": 0.0, "overlap_threshold": 0.0, "min_area": 1}}
PUBLIC = {"omtseg_l": "large", "omtseg_b": "base"}


def section(**changes: Any) -> OMTSegSection:
    model = {key: value for key, value in {**MODEL, **changes}.items() if value is not None}
    preset = from_mapping(PresetConfig, {**BASE, "model": model}, "mine.yaml")
    assert isinstance(preset.model, OMTSegSection)
    return preset.model


def write(folder: Path, **changes: Any) -> str:
    (folder / "mine.yaml").write_text(yaml.safe_dump({**BASE, "model": {**MODEL, **changes}}))
    return str(folder / "mine.yaml")


@pytest.mark.parametrize(("name", "size"), PUBLIC.items())
def test_the_public_presets_say_what_they_need(name: str, size: str) -> None:
    preset = load_preset(name)
    model = preset.model
    release = "https://github.com/addf400/files/releases/download/beit3"
    assert [weights.url for weights in preset.weights] == [
        f"{release}/beit3_{size}_patch16_224.pth",
        f"{release}/beit3.spm",
    ]
    assert [model.encoder_weights, model.tokenizer.file] == [weights.name for weights in preset.weights]
    assert all(weights.licence == "MIT" for weights in preset.weights)
    assert [weights.bytes for weights in preset.weights][1] == 1_356_293
    assert preset.memory_gb is not None and preset.memory_gb > 2 * sum(w.bytes for w in preset.weights) / 1e9
    assert "Not measured here" in preset.expected and f"ovseg train {name}_coco" in preset.description
    assert model.input_size == (640, 640) and model.unknown_likeness == 0.3
    assert model.architecture.trained_words == 640 < model.architecture.encoder.text_length == 1022
    assert (model.architecture.decoder.queries, model.architecture.decoder.layers) == (100, 9)
    assert trained_files(model) == own_checkpoints(preset) == [f"{name}.safetensors"]


@pytest.mark.parametrize("name", PUBLIC)
def test_missing_weights_are_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder, (encoder, _) = tmp_path / "hub" / "checkpoints", load_preset(name).weights
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors does not exist; .* train {name}_coco"):
        build_segmenter(name, "cpu")  # whoever has to train is told before fetching gigabytes
    with pytest.raises(CheckpointError) as caught:
        checkpoint_paths(name)
    message = str(caught.value)
    assert f"{encoder.url} (and 1 more) is not on this machine; looked for it in {folder};" in message
    assert f"ovseg download {name} (" in message and "\n" not in message
    folder.mkdir(parents=True)
    (folder / encoder.name).touch()
    with pytest.raises(CheckpointError, match=r"beit3/beit3\.spm is not on this machine"):
        checkpoint_paths(name)


def test_a_whole_network_is_built_and_segments(tmp_path: Path) -> None:
    network = OMTSegNetwork(section().architecture, Beit3(section().architecture.encoder))
    save_state_half(network.trained_state(encoder_is_public=False), tmp_path / "mine.safetensors")
    path = write(tmp_path)
    segmenter = build_segmenter(path, "cpu")
    assert isinstance(segmenter.model, OMTSeg) and checkpoint_paths(path) == (tmp_path / "mine.safetensors",)
    loaded = segmenter.model.network
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.words.weight, network.words.weight.half().float(), rtol=0, atol=0)
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("red cube"), CategorySpec("table")]))
    image = torch.randint(0, 255, (60, 80, 3), dtype=torch.uint8).numpy()
    assert segmenter.segment(image, prompt).segment_ids.shape == (60, 80)


def test_around_a_public_encoder_only_what_was_trained_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config = section().architecture
    published = Beit3(Beit3Config(**{**ARCHITECTURE["encoder"], "image_size": (32, 32)}))
    weights = tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pth"
    weights.parent.mkdir(parents=True)
    state = {f"beit3.{key}": value.half() for key, value in published.state_dict().items()}
    torch.save({"model": state}, weights)
    trained = OMTSegNetwork(config, Beit3(config.encoder)).trained_state(encoder_is_public=True)
    assert {key.split(".")[2] for key in trained if key.startswith("encoder.")} == {"embed_positions"}
    save_state_half(trained, tmp_path / "mine.safetensors")
    path = write(tmp_path, encoder_weights="tiny.pth")
    network = build_segmenter(path, "cpu").model.network
    assert checkpoint_paths(path) == (tmp_path / "mine.safetensors", weights)
    own, frozen = "encoder.encoder.embed_positions.A.weight", "encoder.text_embed.weight"
    assert torch.equal(network.state_dict()[own], trained[own].half().float())
    assert torch.equal(network.state_dict()[frozen], published.text_embed.weight.half().float())
    save_state_half({**trained, frozen: published.text_embed.weight}, tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointError, match=rf"mine.safetensors does not fit .*1 unexpected: {frozen}"):
        build_segmenter(path, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "omtsg"}, "mine.yaml.model: unknown kind 'omtsg'; did you mean 'omtseg'"),
        ({"kind": None}, "mine.yaml.model: missing kind; one of two_stage, closed_set, omtseg"),
        ({"architecture": None}, "mine.yaml.model: missing architecture"),
        ({"tokenizer": None}, "mine.yaml.model: missing tokenizer"),
        ({"tokenizer": {"file": "a.spm"}}, "tokenizer: missing kind; one of sentence_piece, word_list"),
        ({"tokenizer": {"kind": "sentencepiece", "file": "a"}}, "unknown kind 'sentencepiece'; did you mean"),
        ({"tokenizer": {"kind": "word_list", "words": []}}, "tokenizer.words"),
        (
            {"tokenizer": {"kind": "word_list", "words": ["Red"]}},
            "words has 'Red'; expected single words in lower case",
        ),
        ({"tokenizer": {"kind": "word_list", "words": ["red cup"]}}, "words has 'red cup'; expected single words"),
        ({"tokenizer": {"kind": "word_list", "words": ["red", "red"]}}, "words has 'red' twice; leave one out"),
        ({"tokenizer": {"kind": "word_list", "file": "a"}}, "tokenizer: unknown key 'file'"),
        ({"encoder_wieghts": "a.pth"}, "model: unknown key 'encoder_wieghts'; did you mean 'encoder_weights'"),
        ({"input_size": [640, 640]}, "model: unknown key 'input_size'"),
        ({"unknown_likeness": 2.0}, "unknown_likeness: it should be less than or equal to 1, got 2"),
        ({"object_threshold": 0.5}, "model: unknown key 'object_threshold'; it belongs under merge"),
        (
            {"architecture": {**ARCHITECTURE, "trained_words": 41}},
            "trained_words 41 is more than .*text_length 40",
        ),
        ({"architecture": {**ARCHITECTURE, "adaptor": {}}}, "unknown key 'adaptor'; did you mean 'adapter'"),
        ({"architecture": {"encoder": {**ENCODER, "image_size": [64, 80]}}}, r"image_size is \[64, 80\]; expected mul"),
        ({"architecture": {"encoder": {**ENCODER, "layers": 6}}}, "encoder.layers is 6; expected a multiple of 4"),
        ({"architecture": {"encoder": {**ENCODER, "heads": 5}}}, "width 32 is no multiple of 4 and of heads 5"),
        ({"architecture": {**ARCHITECTURE, "adapter": {"heads": 5}}}, "adapter.heads 5 does not divide 16"),
        ({"architecture": {**ARCHITECTURE, "decoder": {"width": 40}}}, "decoder.width: .*multiple of 32, got 40"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        section(**change)
    assert "\n" not in str(caught.value)


def test_more_words_than_rows_are_refused(tmp_path: Path) -> None:
    words = {"kind": "word_list", "words": list("abcdefgh")}
    state = OMTSegNetwork(section().architecture, Beit3(section().architecture.encoder)).state_dict()
    save_state_half(state, tmp_path / "mine.safetensors")
    with pytest.raises(ConfigError, match="the tokenizer has 13 tokens, but architecture.encoder.words is 12"):
        build_segmenter(write(tmp_path, tokenizer=words), "cpu")


@pytest.mark.parametrize("ask", [two_stage, fisa_section])
def test_what_is_about_two_stages_says_so(ask: Any) -> None:
    with pytest.raises(ConfigError, match="omtseg_l is of kind omtseg, .*; this is for .* of kind two_stage, such as"):
        ask("omtseg_l")
