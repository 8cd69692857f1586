"""The ablation of LMSeg: its variants, another word's attributes, its figures, and that a stopped one goes on."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fisa_scenes import coloured_views
from safetensors.torch import load_file, save_file
from tiny_lmseg import write_tiny_lmseg, write_tiny_semantic

from ovseg_ros.core.descriptions import ATTRIBUTES, parse_descriptions
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.scoring.lmseg.config import FusionConfig, LMSegConfig
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.tools import ablate_lmseg as ablation
from ovseg_ros.offline.tools import ablation as shared
from ovseg_ros.offline.tools.ablation import result_path
from ovseg_ros.sim.categories import TABLETOP_SPECS, split_pair

RECIPE = """
stages:
  - kind: lmseg
    preset: PRESET
    data: {kind: rendered, scenes: 1, views: 1}
    max_words: 4
    loop: {steps: 2, batch_size: 1, learning_rate: 1.0e-2, warmup_steps: 200}
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AblateOptions:
    """Two-object scenes in place of the rendered ones, and a tiny preset and recipe."""
    monkeypatch.setattr(shared, "load_or_render", lambda *_, **__: coloured_views(2, "green ball"))
    monkeypatch.setattr("ovseg_ros.offline.train.data.load_or_render", lambda *_, **__: coloured_views(2))
    preset = write_tiny_lmseg(tmp_path)
    (tmp_path / "tiny_lmseg.safetensors").unlink()
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("PRESET", str(preset)))
    recipe = str(tmp_path / "recipe.yaml")
    return AblateOptions(experiment="lmseg", out=tmp_path / "out", recipe=recipe, device="cpu", seeds=1, images=2)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the trainings that began."""
    began: list[str] = []
    original = ablation.learn
    monkeypatch.setattr(ablation, "learn", lambda *a: (began.append(a[4].name), original(*a)))
    return began


def test_a_stopped_one_goes_on_and_tells_what_was_found(options: AblateOptions, trained: list[str]) -> None:
    ablation.ablate_lmseg(replace(options, systems=("no_attention", "another"), first_seed=1))
    assert [name.rsplit("-", 1)[0] for name in trained] == ["no_attention-1", "another-1"]
    assert (options.out / "another_words.yaml").is_file()
    content = json.loads((options.out / "ablation.json").read_text())
    rows = content["rows"]
    assert [(row["system"], row["seeds"]) for row in rows] == [("another", [1]), ("no_attention", [1])]
    assert rows[0]["trained_parameters"] > rows[1]["trained_parameters"] > 0
    for metric in ("miou_seen", "miou_unseen", "pq_seen", "pq_unseen"):
        low, high = rows[0][metric]["ci95_of_first_seed"]
        assert 0 <= low <= rows[0][metric]["mean"] <= high <= 100
    assert content["facts"]["training"]["loop"]["warmup_steps"] == 1
    table = (options.out / "ablation.md").read_text()
    assert "| system | trained parameters | seeds | mIoU seen | mIoU unseen | PQ seen | PQ unseen |" in table
    assert "| neither attention | " in table and "2 images of split test" in table and "2 steps of 1 views" in table

    ablation.ablate_lmseg(replace(options, systems=("another",), first_seed=1))  # all there is: nothing is trained
    assert len(trained) == 2 and json.loads((options.out / "ablation.json").read_text()) == content
    before = json.loads(result_path(options.out, "another", 1).read_text())
    result_path(options.out, "another", 1).unlink()
    ablation.ablate_lmseg(replace(options, systems=("another",), first_seed=1))  # evaluated anew
    assert trained[2] == trained[1]
    assert before["figures"] == json.loads(result_path(options.out, "another", 1).read_text())["figures"]


def test_what_weights_depend_on_names_their_folder(
    options: AblateOptions, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else other descriptions, or another generator, would be evaluated on what learned with the former."""
    once = replace(options, systems=("color",), steps=1)
    ablation.ablate_lmseg(once)
    ablation.ablate_lmseg(replace(once, images=1))
    assert trained[1] == trained[0]
    other = options.out.parent / "other.yaml"
    other.write_bytes((config_dir() / "descriptions/tabletop.yaml").read_bytes() + b"# read by a person\n")
    monkeypatch.setattr(ablation, "_described_by", lambda: other)
    ablation.ablate_lmseg(once)
    eomt = options.out.parent / "eomt.safetensors"
    save_file({name: value * 2 for name, value in load_file(eomt).items()}, eomt)
    ablation.ablate_lmseg(once)
    assert len(trained) == 4 and len(set(trained)) == 3
    assert [row["seeds"] for row in json.loads((options.out / "ablation.json").read_text())["rows"]] == [[0]]


def test_wrong_choices_are_named(options: AblateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"unknown system 'atributes' \(did you mean 'attributes'\?\); there are 13"):
        ablation.ablate_lmseg(replace(options, systems=("atributes",)))
    assert main(["ablate", "lmseg", "--out", str(options.out), "--recipe", "tabletop_fisa"]) == 2
    assert "no stage of kind lmseg on rendered data to ablate" in capsys.readouterr().err
    folder = options.out.parent
    recipe = RECIPE.replace("PRESET", str(write_tiny_semantic(folder)))
    (folder / "recipe.yaml").write_text(recipe)
    with pytest.raises(ConfigError, match="tiny_semantic.yaml names no proposals by LMSeg; name another, such as"):
        ablation.ablate_lmseg(options)


def test_another_words_attributes_are_right_in_nothing(tmp_path: Path) -> None:
    """A thing has those of one with another colour and another shape; each word's are told once."""
    path, own = tmp_path / "others.yaml", config_dir() / "descriptions/tabletop.yaml"
    ablation.write_others(path)
    words, others = (parse_descriptions(file.read_bytes(), str(file)) for file in (own, path))
    assert set(words) == set(others) == {spec.name for spec in TABLETOP_SPECS}
    things = [spec.name for spec in TABLETOP_SPECS if spec.is_thing]
    for word, description in others.items():
        source = [name for name, one in words.items() if one.attributes == description.attributes]
        assert word not in source and source
        if word in things:
            color, shape = split_pair(word)
            assert all(color not in name and shape not in name for name in source), (word, source)
            assert set(description.color).isdisjoint(words[word].color)
            assert set(description.shape).isdisjoint(words[word].shape)
    assert all(description.attributes[name] for description in others.values() for name in ATTRIBUTES)


def test_each_system_differs_in_what_it_says() -> None:
    config = LMSegConfig(fusion=FusionConfig("scalar", 0.7))
    assert ablation.variant(ablation.SYSTEMS["names"], config) == config
    for name in ("attributes", "another", "color", "shape", "texture"):
        assert ablation.variant(ablation.SYSTEMS[name], config) == config
    fusions = {name: ablation.variant(ablation.SYSTEMS[name], config).fusion for name in ablation.SYSTEMS}
    assert (fusions["clip"], fusions["second"], fusions["half"]) == tuple(
        FusionConfig("fixed", share) for share in (1.0, 0.0, 0.5)
    )
    assert fusions["channel"] == FusionConfig("channel") and fusions["no_attention"] == config.fusion
    parts = {name: ablation.variant(ablation.SYSTEMS[name], config) for name in ("no_attention", "spatial", "by_word")}
    assert {name: (one.spatial, one.by_word) for name, one in parts.items()} == {
        "no_attention": (False, False),
        "spatial": (True, False),
        "by_word": (False, True),
    }
    told = {name: (system.attributes, system.another) for name, system in ablation.SYSTEMS.items() if system.attributes}
    assert told == {
        "attributes": (ATTRIBUTES, False),
        "another": (ATTRIBUTES, True),
        **{name: ((name,), False) for name in ATTRIBUTES},
    }


def test_the_mean_iou_is_the_usual_one() -> None:
    """Over what the truth shows, of all images together; and its interval is around it."""
    rng = np.random.default_rng(0)
    ours, usual = ablation._ImageIoU(), MeanIoU(NO_CATEGORY)
    for image in range(12):
        truth = rng.integers(0, 6 if image else 2, (8, 9))
        truth[0] = NO_CATEGORY
        found = np.where(rng.random((8, 9)) < 0.5, truth, rng.integers(0, 9, (8, 9)))
        ours.add(found, truth)
        usual.add(found, truth)
    for group in ({0, 1, 2}, {3, 4, 5, 7, 8}, set(range(9))):
        result = ours.result(group)
        assert result == pytest.approx(usual.result(group, only_in_truth=True))
        low, high = ours.confidence_interval(group)
        assert low < result < high
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(ours.result({7, 8}))
        one = ablation._ImageIoU()
        one.add(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64))
        one.add(np.ones((2, 2), np.int64), np.zeros((2, 2), np.int64))
        one.add(np.ones((2, 2), np.int64), np.ones((2, 2), np.int64))
        assert one.result({1}) == 50
        low, high = one.confidence_interval({1})  # though some draws show none of it
        assert 0 < low < 50 < high == 100
