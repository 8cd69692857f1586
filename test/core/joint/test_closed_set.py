"""Words by the classes of a mask generator, on numbers that were worked out by hand, and by a tiny EoMT."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.errors import ConfigError, VocabularyError
from ovseg_ros.core.joint.closed_set import ClosedSet, ClosedSetPrompt
from ovseg_ros.core.model import Proposer
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.self_check import look
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.cli.main import main

CLASSES = [("cup", "mug"), ("ball",), ("dog",), ("floor", "ground")]
ARCHITECTURE = {"image_size": [64, 96], "width": 16, "depth": 2, "heads": 2, "num_queries": 6, "joint_blocks": 1}


class Told(Proposer):
    """Whatever it sees, masks of these probabilities of classes and "no object"."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor([probabilities]).log(), requires_grad=False)

    def prepare(self, text: Any) -> None:
        return None

    def forward(self, pixels: Tensor, words: Any) -> MaskProposals:
        queries = self.logits.shape[1]
        return MaskProposals(torch.zeros(1, queries, 4, 4), torch.zeros(1, queries, 2), self.logits)


def asked(*specs: CategorySpec | str) -> Vocabulary:
    return Vocabulary.build([spec if isinstance(spec, CategorySpec) else CategorySpec(spec) for spec in specs])


def probabilities(words: Vocabulary, row: list[float]) -> tuple[list[float], ClosedSetPrompt]:
    model = ClosedSet(Told([row]), CLASSES, (16, 16)).eval()
    prompt = model.prepare(words)
    logits = model(torch.zeros(1, 3, 16, 16), prompt).class_logits[0, 0]
    assert math.isclose(logits.exp().sum(), 1, rel_tol=1e-5), "logarithms of a distribution"
    return logits.exp().tolist(), prompt


def test_words_have_the_probability_of_their_classes_and_the_rest_is_no_object() -> None:
    row = [0.4, 0.2, 0.1, 0.1, 0.2]
    by_name, prompt = probabilities(asked("ball", "Mug"), row)
    assert by_name == pytest.approx([0.2, 0.4, 0.4]) and prompt.remarks == ()
    by_synonym, _ = probabilities(asked(CategorySpec("pet", ("dog", "cat")), "floor"), row)
    assert by_synonym == pytest.approx([0.1, 0.1, 0.8])
    several, _ = probabilities(asked(CategorySpec("toy", ("ball", "dog"))), row)
    assert several == pytest.approx([0.3, 0.7])


def test_all_classes_in_their_order_are_the_generators_own() -> None:
    row = [0.4, 0.2, 0.1, 0.1, 0.2]
    assert probabilities(asked("cup", "ball", "dog", "floor"), row)[0] == pytest.approx(row)


def test_unknown_takes_what_no_word_is_and_negatives_are_words() -> None:
    words = asked("cup", "unknown", CategorySpec("ground", negative=True))
    assert probabilities(words, [0.4, 0.2, 0.1, 0.1, 0.2])[0] == pytest.approx([0.4, 0.3, 0.1, 0.2])
    assert probabilities(asked("unknown"), [0.4, 0.2, 0.1, 0.1, 0.2])[0] == pytest.approx([0.8, 0.2])


def test_a_word_that_is_no_class_is_told_and_never_found() -> None:
    found, prompt = probabilities(asked("robot arm", "cup"), [0.01, 0.01, 0.01, 0.01, 0.96])
    assert found[0] < 1e-30
    (remark,) = prompt.remarks
    assert "robot arm" in remark and "cup, ball, dog, floor" in remark


def test_a_class_that_two_words_are_is_the_first_ones() -> None:
    """Shared, neither would reach the threshold that one of them does."""
    found, prompt = probabilities(asked("mug", "cup"), [0.9, 0.025, 0.025, 0.025, 0.025])
    assert found == pytest.approx([0.9, 0, 0.1], abs=1e-6)
    assert prompt.remarks == ("never found, as a word before is the same class: cup",)


def test_a_vocabulary_without_any_class_is_refused() -> None:
    with pytest.raises(VocabularyError, match="none of the words is a class, not robot arm; .*4 classes alone: cup"):
        probabilities(asked("robot arm"), [0.2] * 5)


def write_preset(folder: Path, **proposer: object) -> str:
    torch.manual_seed(0)
    architecture = {**ARCHITECTURE, "num_classes": 3}
    save_state_half(
        EoMT(EoMTConfig(**{**architecture, "image_size": (64, 96)})).state_dict(), folder / "own.safetensors"
    )  # type: ignore[arg-type]
    section = {"kind": "eomt", "checkpoint": "own.safetensors", "architecture": architecture, **proposer}
    model = {"kind": "closed_set", "input_size": [64, 96], "proposer": section}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"description": "For tests.", "model": model}))
    return str(path)


def test_a_preset_of_own_classes_segments_and_agrees_with_its_generator(tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text("categories: [cup, {name: ball, synonyms: [globe]}, floor]\n")
    listed = write_preset(tmp_path, classes=["cup", {"name": "ball", "synonyms": ["globe"]}, "floor"])
    segmenter = build_segmenter(listed, "cpu", REPRODUCIBLE)
    frame = torch.randint(0, 255, (64, 96, 3), dtype=torch.uint8).numpy()
    prompt = segmenter.prepare(asked("cup", "globe", "floor"))
    predicted = segmenter.predict([frame], prompt)
    assert isinstance(segmenter.model, ClosedSet)
    with torch.inference_mode():
        own = segmenter.model.proposer(segmenter.to_pixels([frame]), None)
    assert own.class_logits is not None
    torch.testing.assert_close(predicted.class_logits, own.class_logits.log_softmax(dim=-1))
    assert len(look(segmenter)) == 4, "an engine's check asks for what it knows"
    by_file = build_segmenter(write_preset(tmp_path, classes="words.yaml"), "cpu", REPRODUCIBLE)
    assert by_file.model.own_words == ("cup", "ball", "floor")
    again = by_file.predict([frame], by_file.prepare(asked("cup", "globe", "floor")))
    assert torch.equal(again.class_logits, predicted.class_logits)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (None, "a closed set needs names; give them in proposer.classes"),
        (["cup", "ball"], "classes has 2 names, but architecture.num_classes is 3"),
        ("words.yaml", "words.yaml has 1 categories, but architecture.num_classes is 3"),
        ([], "proposer.classes: expected 1 or more values, got 0"),
        (["cup", "ball", " "], r"proposer.classes\[2\]: expected text that is not blank"),
        ([{"nam": "cup"}, "ball", "floor"], r"proposer.classes\[0\]: unknown key .nam."),
    ],
)
def test_classes_that_do_not_fit_are_refused(tmp_path: Path, classes: object, message: str) -> None:
    (tmp_path / "words.yaml").write_text("categories: [cup]\n")
    with pytest.raises(ConfigError, match=message):
        build_segmenter(write_preset(tmp_path, classes=classes), "cpu", REPRODUCIBLE)


@pytest.mark.parametrize("preset", ["eomt_s_closed", "eomt_b_closed", "eomt_l_closed"])
def test_public_closed_sets_ask_for_one_checkpoint(preset: str) -> None:
    config = load_preset(preset)
    assert config.model.kind == "closed_set"
    assert {weights.repo for weights in config.weights} == {config.model.proposer.checkpoint}


def test_a_closed_set_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", write_preset(tmp_path, classes=["cup", "ball", "floor"])]) == 0
    told = capsys.readouterr().out
    assert "mask generator" in told and "CLIP" not in told
