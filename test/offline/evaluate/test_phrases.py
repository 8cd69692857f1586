"""What phrases are asked of an image, and how well a mask answers them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg_ros.core.model import TwoStagePrompt
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords
from ovseg_ros.core.types import PanopticResult, Segment
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.evaluate.phrases import Answer, Phrase, answer_of, phrases_of, told_other_words

RNG = np.random.default_rng(0)


def test_plurals_ask_for_one_mask_and_singulars_for_each_object() -> None:
    objects = [(1, "red cube"), (2, "red cube"), (3, "red star"), (5, "blue cube")]
    asked = {phrase.text: phrase for phrase in phrases_of(objects, np.random.default_rng(0))}
    assert asked["red things"] == Phrase("red things", "things of a colour, as one", ((1, 2, 3),))
    assert asked["red thing"].answers == ((1,), (2,), (3,))
    assert asked["cubes"].answers == ((1, 2, 5),)
    assert asked["cube"].answers == ((1,), (2,), (5,))
    assert asked["red cube"].answers == ((1,), (2,))
    assert asked["star"] == Phrase("star", "unseen shapes, each", ((3,),))
    assert asked["red star"].kind == "unseen pairs, each"
    assert not {"blue things", "stars"} & asked.keys()  # of which there is one


def test_what_is_not_there_is_asked_for_as_well() -> None:
    absent = [phrase for phrase in phrases_of([(1, "red cube")], np.random.default_rng(1)) if phrase.kind == "absent"]
    assert len(absent) == 2
    assert all(not phrase.answers and "red" not in phrase.text and "cube" not in phrase.text for phrase in absent)


def test_an_empty_table_is_asked_for_absent_things_alone() -> None:
    assert {phrase.kind for phrase in phrases_of([], RNG)} == {"absent"}


def result_of(ids: list[int], scores: dict[int, float]) -> PanopticResult:
    segments = tuple(
        Segment(number, 0, "cup", score, is_thing=True, area=ids.count(number), box=(0, 0, 1, 1))
        for number, score in scores.items()
    )
    found = np.array([ids], np.uint16)
    return PanopticResult(found, found, found.astype(np.uint8), segments, 1)


@pytest.mark.parametrize(
    ("found", "scores", "answers", "expected"),
    [
        ([1, 1, 2, 0], {1: 0.9, 2: 0.5}, [(7, 8)], Answer((2 / 3,), 2 / 3, 2)),  # both pixels of 7, not that of 8
        ([1, 1, 2, 0], {1: 0.5, 2: 0.9}, [(7, 8)], Answer((2 / 3,), 1 / 3, 2)),
        ([1, 1, 1, 1], {1: 0.9}, [(7, 8)], Answer((3 / 4,), 3 / 4, 1)),
        ([0, 0, 0, 0], {}, [(7,), (8,)], Answer((0.0, 0.0), 0.0, 0)),
        ([1, 0, 3, 0], {1: 0.9, 3: 0.8}, [(7,), (8,)], Answer((1 / 2, 1.0), 1 / 2, 2)),
        ([1, 0, 3, 0], {1: 0.9, 3: 0.8}, [], Answer((), 0.0, 2)),
    ],
)
def test_a_wanted_mask_counts_by_the_segment_that_fits_it_best(
    found: list[int], scores: dict[int, float], answers: list[tuple[int, ...]], expected: Answer
) -> None:
    answer = answer_of(result_of(found, scores), np.array([[7, 7, 8, 0]]), answers)
    assert answer.best == pytest.approx(expected.best) and answer.first == pytest.approx(expected.first)
    assert answer.segments == expected.segments


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    told = ["evaluate-phrases", "--preset", "tabletop", "--split", "val", "--images", "1", "--device", "cpu"]
    assert main([*told, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["images"] == 1 and figures["preset"] == "tabletop"
    each = figures["phrases"]["seen pairs, each"]
    assert each["wanted"] >= each["phrases"] >= 1 and 0 <= each["iou"] <= 100
    assert 0 <= each["first_iou"] <= 100 and figures["phrases"]["absent"]["iou"] is None
    assert "first answer" in capsys.readouterr().out


def test_the_control_needs_masks_that_words_guide(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate-phrases", "--preset", "tabletop", "--split", "val", "--images", "1", "--other-words"]) == 2
    assert "--other-words needs a preset whose proposer is of kind prompt_guided" in capsys.readouterr().err


def test_other_words_guide_and_the_own_ones_name() -> None:
    words = [GuidingWords(torch.zeros(1, 4), ((name,),), None, None, 1) for name in ("own", "other")]  # type: ignore[arg-type]
    cup, red = (
        TwoStagePrompt(Vocabulary.build([CategorySpec(name)]), guiding, name)
        for name, guiding in zip(("cup", "red things"), words, strict=True)
    )
    told = told_other_words(cup, red)
    assert isinstance(told, TwoStagePrompt) and told.classifier == "cup" and told.vocabulary is cup.vocabulary
    assert told.proposer.layers == (("other",),) and told.proposer.vectors is cup.proposer.vectors
