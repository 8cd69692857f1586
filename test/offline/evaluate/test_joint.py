"""A model that makes masks and names at once is evaluated as every other; what is about two stages says so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ovseg_ros.core.backbones.beit3 import Beit3
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.sections import OMTSegSection
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.cli.main import main
from ovseg_ros.sim.categories import COLORS

MODEL = {
    "kind": "omtseg",
    "checkpoint": "tiny.safetensors",
    "tokenizer": {"kind": "word_list", "words": [color.name for color in COLORS]},
    "architecture": {
        "encoder": {
            "image_size": [32, 64], "width": 32, "layers": 4, "heads": 2, "feed_forward_width": 16, "words": 20,
            "text_length": 500,
        },
        "trained_words": 500,
        "adapter": {"prior_width": 4, "heads": 4},
        "decoder": {"width": 32, "heads": 4, "pixel_layers": 1, "pixel_feed_forward_width": 16, "queries": 4,
                    "layers": 1, "feed_forward_width": 16},
    },
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A preset that knows colours and no shapes, with random weights."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"description": "For tests.", "model": MODEL, "merge": {"object_threshold": 0.0}}))
    section = load_preset(str(path)).model
    assert isinstance(section, OMTSegSection)
    torch.manual_seed(0)
    network = OMTSegNetwork(section.architecture, Beit3(section.architecture.encoder))
    save_state_half(network.trained_state(encoder_is_public=False), tmp_path / "tiny.safetensors")
    return str(path)


def test_figures_record_its_weights_and_say_what_it_cannot_read(
    painted: Any, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = painted.write_folder(tmp_path / "data", 2), tmp_path / "figures.json"
    of = ["evaluate", "--preset", tiny, "--dataset", str(folder)]
    assert main([*of, "--synonyms", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["checkpoints"]) == ["tiny.safetensors"] and found["min_objectness"] == 0.0
    assert found["images"] == 2 and 0 <= found["mask_recall_50"] <= 100
    assert "this preset does not know all of 'red cube'" in capsys.readouterr().err
    assert main([*of, "--oracle", "classes"]) == 0
    capsys.readouterr()
    assert main([*of, "--oracle", "masks"]) == 2
    error = capsys.readouterr().err
    assert "--oracle masks has a second stage name the true masks" in error and error.count("\n") == 1


def test_phrases_that_it_cannot_read_are_counted(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate-phrases", "--preset", tiny, "--images", "1"]) == 0
    told = capsys.readouterr()
    assert "phrases are not read as they are meant, such as '" in told.err and "absent" in told.out
