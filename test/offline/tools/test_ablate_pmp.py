"""The ablation of PMP: its table, that a stopped one goes on, and what its controls are told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fisa_scenes import coloured_samples, coloured_views

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.prompt_guidance import PromptConfig, PromptGuidance
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.tools import ablate_pmp as ablation
from ovseg_ros.offline.tools import ablation as shared
from ovseg_ros.offline.tools.ablation import rendered_stage, result_path
from ovseg_ros.offline.tools.prompt_strategies import STRATEGIES, PromptedEoMT
from ovseg_ros.offline.train.data import to_pixels
from ovseg_ros.offline.train.pmp import PmpTraining

SYSTEMS = ("concatenate", "pmp", "pmp_other")
SINGLE = "mixed_precision=no"
"""The recipe's, bf16, would be that of all trainings in this process."""


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tiny_segmenter):
    """Two-object scenes in place of the rendered ones, and a tiny generator and words in place of the bundled."""
    text_encoder = tiny_segmenter.model.text_encoder

    def untrained(preset: str, device: torch.device, seed: int):
        torch.manual_seed(seed)
        small = EoMTConfig((64, 96), width=16, depth=2, heads=2, num_queries=6, num_classes=2, joint_blocks=1)
        config = replace(small, pretrained_stem="efficientnet_lite0", skips=True)
        network = EoMT(config)
        network.guidance = PromptGuidance(1, 16, 8, PromptConfig(width=8, heads=2))
        return network, text_encoder

    monkeypatch.setattr(shared, "load_or_render", lambda *_, **__: coloured_views(2, "blue star"))
    monkeypatch.setattr(ablation, "open_data", lambda *_: coloured_samples(2))
    monkeypatch.setattr(ablation, "build_network", untrained)
    return untrained


def small(folder: Path) -> AblateOptions:
    return AblateOptions(
        experiment="pmp",
        overrides=(SINGLE,),
        out=folder / "out",
        data=folder,
        seeds=1,
        systems=SYSTEMS,
        images=2,
        steps=2,
    )


def test_an_ablation_goes_on_where_it_stopped(build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    original = ablation.run_loop
    monkeypatch.setattr(ablation, "run_loop", lambda *a, **k: (trained.append(a[2].name), original(*a, **k)))
    folders = f"--out {tmp_path / 'out'} --data {tmp_path}"
    arguments = f"ablate pmp {SINGLE} {folders} --seeds 1 --images 2 --steps 2 --systems"
    assert main([*arguments.split(), *SYSTEMS]) == 0
    assert [name.rsplit("-", 1)[0] for name in trained] == ["concatenate-0", "pmp-0", "pmp_other-0"]
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "(a) concatenate" in table and "the same PMP, told other words" in table and "2 steps of 8 crops" in table
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    assert [row["system"] for row in rows] == ["bundled", "concatenate", "pmp", "pmp:told_others", "pmp_other"]
    assert "pq_seen" not in rows[0] and rows[0]["trained_parameters"] == 0  # it names nothing
    assert {"mean", "over_seeds", "ci95", "pmp_minus_this_ci95"} <= rows[1]["phrase_instances_unseen"].keys()
    assert rows[1]["phrase_groups_seen"] is None  # nothing to ask: there are no two of a kind

    result_path(tmp_path / "out", "pmp", 0).unlink()
    ablation.ablate_pmp(small(tmp_path))
    assert len(trained) == 4 and trained[3] == trained[1]  # the same folder, whose training is complete
    assert json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"] == rows
    ablation.ablate_pmp(replace(small(tmp_path), steps=1))  # other settings: all anew
    assert len(trained) == 7


def task(build, name: str) -> ablation.StrategyTask:
    stage, _ = rendered_stage(AblateOptions(experiment="pmp", out=Path("out")), "pmp", PmpTraining)
    network, text_encoder = build("", torch.device("cpu"), 0)
    network = PromptedEoMT(network, STRATEGIES["pmp"])
    torch.nn.init.normal_(network.guidance.prompts[0].out.weight)
    dataset = coloured_samples(2)
    names = [category.name for category in dataset.categories]
    views = ablation.encode_views(network, ablation.training_views(dataset, stage), names)
    return ablation.StrategyTask(name, network, views, stage, text_encoder)


def test_crops_come_mirrored_too(build) -> None:
    made = task(build, "pmp")
    views = ablation.training_views(coloured_samples(2), made._training)
    assert len(views) == 4
    first, second = (view.segment_ids[:64, :96] for view in views[:2])
    assert torch.equal(first, second.flip(1))


def test_kept_pictures_are_what_the_frozen_part_makes_of_them(build) -> None:
    made = task(build, "pmp")
    views = made._views[:2]
    assert {maps.dtype for view in views for maps in view.encoded.finer} == {torch.float16}
    crops = ablation.training_views(coloured_samples(2), made._training)[:2]
    pixels = normalize(to_pixels([crop.image for crop in crops], torch.device("cpu")), IMAGENET_MEAN, IMAGENET_STD)
    tokens, encoded = made.model.encode(pixels)
    kept, (grid, finer) = ablation.stacked(views)
    assert grid == encoded.grid and [maps.shape[1] for maps in finer] == [40, 24]
    torch.testing.assert_close(kept, tokens)
    for one, other in zip(finer, encoded.finer, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_other_words_are_told_but_targets_and_names_stay(build, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple] = []

    def spy(named, targets, training):
        seen.append((named, targets))
        return {"total": named.mask_logits.sum()}

    monkeypatch.setattr(ablation, "_losses", spy)
    for name in ("pmp", "pmp_other"):
        task(build, name).losses(0, range(8), torch.zeros(8, 0))
    (own, targets), (other, same) = seen
    assert not torch.allclose(own.mask_logits, other.mask_logits)
    assert own.word_logits.shape == other.word_logits.shape
    for mine, theirs in zip(targets, same, strict=True):
        assert torch.equal(mine.masks, theirs.masks) and torch.equal(mine.classes, theirs.classes)


def test_masks_of_padding_have_no_loss(build) -> None:
    made = task(build, "pmp")
    loss = made.losses(0, range(8), torch.zeros(8, 0))
    named = ablation.NamedMasks(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 3), None)
    target = ablation.MaskTargets(torch.ones(1, 4, 4), torch.tensor([1]))
    wanted = ablation._losses(named, [target, target], made._training)
    padded = [
        torch.cat([part, torch.full_like(part[:, :2], -1e4)], dim=1) for part in (named.mask_logits, named.word_logits)
    ]
    present = torch.tensor([[True] * 3 + [False] * 2] * 2)
    found = ablation._losses(ablation.NamedMasks(*padded, present), [target, target], made._training)
    assert loss.keys() == found.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value)


def test_wrong_choices_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"unknown system 'concat' \(did you mean 'concatenate'\?\); choose one of"):
        ablation.ablate_pmp(replace(small(tmp_path), systems=("concat",)))
    assert main(["ablate", "pmp", "--out", str(tmp_path), "--recipe", "tabletop_fisa"]) == 2
    assert "no stage of kind pmp on rendered data to ablate" in capsys.readouterr().err
