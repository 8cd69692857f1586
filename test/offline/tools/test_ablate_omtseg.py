"""The ablation of OMTSeg: its variants, what is asked for, its table, and that a stopped one goes on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fisa_scenes import coloured_samples, coloured_views
from safetensors.torch import load_file

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Model, Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import Prediction
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.tools import ablate_omtseg as ablation
from ovseg_ros.offline.tools import ablation as shared
from ovseg_ros.offline.tools.ablation import result_path
from ovseg_ros.offline.train.omtseg import build_untrained
from ovseg_ros.sim.categories import UNSEEN

PRESET = """
description: Tiny.
model:
  kind: omtseg
  checkpoint: tiny.safetensors
  tokenizer:
    kind: word_list
    words: [red, orange, yellow, green, blue, purple, white, black, cube, ball, cylinder, cone, ring, egg, cup, bottle,
            book, banana, table, floor, wall, mat]
  architecture:
    encoder:
      {image_size: [64, 96], width: 32, layers: 4, heads: 2, feed_forward_width: 32, words: 27, text_length: 510}
    trained_words: 510
    adapter: {prior_width: 4, heads: 2}
    decoder:
      {width: 32, heads: 2, pixel_layers: 1, pixel_feed_forward_width: 32, queries: 6, layers: 1,
       feed_forward_width: 32}
merge: {object_threshold: 0.0, overlap_threshold: 0.5}
"""
RECIPE = """
stages:
  - kind: omtseg
    preset: PRESET
    data: {kind: rendered, scenes: 1, views: 1}
    augmentation: {kind: crops, phases: [{until: 1.0, size: [64, 96]}]}
    loop: {steps: 2, batch_size: 1, learning_rate: 1.0e-2, warmup_steps: 200, not_decayed: [name_mark, level_embed]}
"""


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AblateOptions:
    """Two-object scenes in place of the rendered ones, and a tiny preset and recipe."""
    monkeypatch.setattr(shared, "load_or_render", lambda *_, **__: coloured_views(2, "green ball"))
    monkeypatch.setattr("ovseg_ros.offline.train.data.load_or_render", lambda *_, **__: coloured_views(2))
    (tmp_path / "tiny.yaml").write_text(PRESET)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("PRESET", str(tmp_path / "tiny.yaml")))
    recipe = str(tmp_path / "recipe.yaml")
    return AblateOptions(experiment="omtseg", out=tmp_path / "out", recipe=recipe, device="cpu", seeds=1, images=2)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the loops that began."""
    began: list[str] = []
    original = ablation.learn
    monkeypatch.setattr(ablation, "learn", lambda *a: (began.append(a[4].name), original(*a)))
    return began


def rows_of(options: AblateOptions) -> list[dict]:
    return json.loads((options.out / "ablation.json").read_text())["rows"]


def test_processes_share_a_folder_and_a_stopped_one_goes_on(options: AblateOptions, trained: list[str]) -> None:
    ablation.ablate_omtseg(replace(options, systems=("no_adapter", "full"), first_seed=1))
    ablation.ablate_omtseg(replace(options, systems=("full",)))
    assert [name.rsplit("-", 1)[0] for name in trained] == ["no_adapter-1", "full-1", "full-0"]
    rows = rows_of(options)
    assert [(row["system"], row["seeds"], row["published_pq"]) for row in rows] == [
        ("full", [0, 1], 27.5),
        ("no_adapter", [1], 8.8),
    ]
    assert (
        {"mean", "over_seeds", "ci95_of_first_seed"}
        == rows[0]["pq_unseen"].keys()
        == rows[1]["mask_recall_75_all"].keys()
    )
    table = (options.out / "ablation.md").read_text()
    assert (
        "| OMTSeg | " in table and "| 0, 1 | 27.5 |" in table and "under 84 words" in table and "2 steps of 1" in table
    )
    assert "- published PQ: full 27.5 > no_adapter 8.8\n" in table

    ablation.ablate_omtseg(replace(options, systems=("full",), seeds=2))  # all there is: nothing is trained
    assert len(trained) == 3 and rows_of(options) == rows
    before = json.loads(result_path(options.out, "full", 0).read_text())
    result_path(options.out, "full", 0).unlink()
    ablation.ablate_omtseg(replace(options, systems=("full",)))  # evaluated anew, from the complete training
    assert trained[3] == trained[2]
    after = json.loads(result_path(options.out, "full", 0).read_text())
    assert before["figures"] == after["figures"]
    ablation.ablate_omtseg(replace(options, systems=("full",), images=1))  # the same network on another image
    assert trained[4] == trained[2] and rows_of(options)[0]["seeds"] == [0]
    ablation.ablate_omtseg(replace(options, systems=("full",), steps=1))  # other settings: trained anew
    assert trained[5] not in trained[:5]


def test_each_variant_lacks_its_part_alone(options: AblateOptions, trained: list[str]) -> None:
    told = f"ablate omtseg --out {options.out} --recipe {options.recipe} --device cpu --seeds 1 --images 2 --steps 2"
    assert main(told.split()) == 0
    assert [name.rsplit("-", 1)[0] for name in trained] == [f"{system}-0" for system in ablation.SYSTEMS]
    states = {
        name.rsplit("-", 2)[0]: load_file(options.out / "training" / name / "trained.safetensors") for name in trained
    }
    full, frozen, apart, plain = (states[system] for system in ("full", "frozen_mark", "no_fusion", "no_adapter"))
    initial = build_untrained(str(options.out.parent / "tiny.yaml"), 0)[0].name_mark.detach().half()
    assert torch.equal(frozen["name_mark"], initial) and not torch.equal(full["name_mark"], initial)
    assert not torch.equal(frozen["names.weight"], full["names.weight"])
    assert apart.keys() == full.keys() and not torch.equal(apart["names.weight"], full["names.weight"])
    assert "adapter.level_embed" in full and "adapter.level_embed" not in plain
    counts = {row["system"]: row["trained_parameters"] for row in rows_of(options)}
    assert counts["full"] == counts["no_fusion"] == counts["frozen_mark"] + 32 > counts["no_adapter"]

    folder = options.out.parent  # what is kept is a preset's
    kept = options.out / "training" / trained[0] / "trained.safetensors"
    (folder / "tiny.safetensors").write_bytes(kept.read_bytes())
    assert build_segmenter(str(folder / "tiny.yaml"), "cpu").model.network.config.fused


class Squares(Model):
    """Right masks in every image; each named by a function of what it shows, which may be wrong."""

    def __init__(self, name: Callable[[str], str], labels: list[str]) -> None:
        super().__init__()
        self._name, self._labels = name, labels

    def prepare(self, vocabulary: Vocabulary) -> Prompt:
        return Prompt(vocabulary)

    def forward(self, pixels: torch.Tensor, prompt: Prompt, least: float = 0.0) -> Prediction:
        ids = torch.from_numpy(coloured_samples(1)[0].segment_ids)
        masks = torch.stack([torch.where(ids == i, 9.0, -9.0) for i in (1, 2, 3)])
        names = [category.name for category in prompt.vocabulary.categories]
        logits = torch.full((3, len(names) + 1), -9.0)
        for query, label in enumerate(self._labels):
            logits[query, names.index(self._name(label))] = 9.0
        count = len(pixels)
        return Prediction(
            masks.expand(count, -1, -1, -1),
            logits.expand(count, -1, -1),
            torch.zeros(count, 3, 1),
            torch.ones(count, 3),
        )


def figures(name: Callable[[str], str], right: str, shown_as: str) -> dict:
    segmenter = PanopticSegmenter(Squares(name, ["table", "red ball", shown_as]), MergeConfig(), torch.device("cpu"))
    return ablation.evaluate(segmenter, [ablation.known(sample) for sample in coloured_samples(3, right)])


def test_quality_is_of_names_and_recall_of_masks() -> None:
    right = figures(str, "green ball", "green ball")
    names = [
        f"{metric}_{group}"
        for metric in ("pq", "mask_recall_50", "mask_recall_75")
        for group in ("all", "seen", "unseen")
    ]
    assert {name: right[name] for name in names} == pytest.approx(dict.fromkeys(names, 100.0))
    wrong = figures(
        {"table": "table", "red ball": "red ball", "green ball": "red egg"}.__getitem__, "green ball", "green ball"
    )
    assert wrong["pq_unseen"] == 0 and wrong["mask_recall_50_unseen"] == 100
    assert wrong["pq_seen"] == pytest.approx(200 / 3)  # an egg that is none


def test_what_no_training_names_is_not_asked_for() -> None:
    names = {category.name for category in ablation.VOCABULARY.categories}
    assert len(names) == 84 and not [name for name in names if "star" in name or "bowl" in name]
    assert len(names & UNSEEN) == 20
    star = coloured_samples(1, "blue star")[0]
    assert {s.category for s in star.segments} - {s.category for s in ablation.known(star).segments}
    found = figures(str, "blue star", "red ball")  # taken for a ball: neither right nor wrong
    assert found["pq_seen"] == found["mask_recall_50_all"] == 100


def test_wrong_choices_are_named(
    options: AblateOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"unknown system 'no_fuson' \(did you mean 'no_fusion'\?\); choose one of"):
        ablation.ablate_omtseg(replace(options, systems=("no_fuson",)))
    assert main(["ablate", "omtseg", "--out", str(options.out), "--recipe", "tabletop_fisa"]) == 2
    assert "no stage of kind omtseg on rendered data to ablate" in capsys.readouterr().err
    monkeypatch.setattr(shared, "load_or_render", lambda *_, **__: coloured_views(2, "blue star"))
    with pytest.raises(ConfigError, match="the first 2 images of split test show no unseen category"):
        ablation.ablate_omtseg(options)
