"""The ablation: its variants, its table, and that a stopped one goes on."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from fisa_scenes import coloured_samples, coloured_views, scene_model
from open_clip.transformer import VisionTransformer

from ovseg_ros.core.build import load_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.presets import load_preset, preset_folder
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.tools import ablate as ablation
from ovseg_ros.offline.tools import ablation as shared
from ovseg_ros.offline.tools.ablate import SYSTEMS, Variant, ablate_tabletop, variants
from ovseg_ros.offline.tools.ablation import result_path
from ovseg_ros.offline.tools.lora import add_low_rank
from ovseg_ros.offline.tools.named_quality import panoptic_quality, propose_images, rightly_named, true_names
from ovseg_ros.offline.train.fisa_data import some_views
from ovseg_ros.sim.categories import TABLETOP_SPECS

ALL = AblateOptions(experiment="tabletop", out=Path("out"))


def small(folder: Path) -> AblateOptions:
    systems = ("baseline", "seve_simo", "seve_lora")
    chosen = replace(ALL, seeds=1, systems=systems, convolutions=(0,), ranks=(2,), images=2, steps=2)
    return replace(chosen, data=folder, out=folder / "out", overrides=("loop.batch_size=3", "loop.log_every=1"))


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two-object scenes in place of the rendered ones, and a generator that finds them."""
    monkeypatch.setattr(shared, "load_or_render", lambda *_, **__: coloured_views(3, "blue star"))
    monkeypatch.setattr(ablation, "open_data", lambda *_: coloured_samples(3))
    monkeypatch.setattr(ablation, "build_untrained", lambda *_: scene_model())


def built(variant: Variant) -> FisaClassifier:
    files, section = preset_folder("tabletop_fisa"), load_preset("tabletop_fisa").model
    clip = load_clip(section.clip, section.templates, files, torch.device("cpu"))
    return variant.build(section.classifier.architecture, clip, files, 0)


def test_variants_are_the_papers_and_the_question_comes_first() -> None:
    all_of_them = [variant for group in variants(tuple(SYSTEMS), ALL, 2) for variant in group]
    assert [variant.name for variant in all_of_them[:4]] == ["baseline-c2", "seve-c2", "seve_full-c2", "seve_simo-c2"]
    assert len(all_of_them) == len({variant.name for variant in all_of_them}) == 4 * 4 + 3
    assert [variant.name for variant in all_of_them[-3:]] == ["seve_lora-r4", "seve_lora-r16", "seve_lora-r64"]


def test_each_system_trains_its_own_part() -> None:
    def trained(variant: Variant) -> set[str]:
        names = built(variant).trained_state_dict()
        return {".".join(name.split(".")[:2]) for name in names if not name.startswith("visual")} | {
            "lora" if "parametrizations" in name else "visual" for name in names if name.startswith("visual")
        }

    assert trained(Variant("baseline", 0)) == set()
    assert trained(Variant("seve", 0)) == {"stream.seve"}
    assert trained(Variant("seve_full", 0)) == {"stream.seve", "visual"}
    assert trained(Variant("seve_simo", 2)) == {"stream.seve", "stream.queries", "adapter.layers"}
    assert trained(Variant("seve_lora", 0, 4)) == {"stream.seve", "lora"}


def test_low_rank_updates_start_at_nothing_and_spare_the_keys() -> None:
    torch.manual_seed(0)
    visual = VisionTransformer(image_size=32, patch_size=8, width=32, layers=3, heads=2, mlp_ratio=2.0, output_dim=16)
    images = torch.rand(1, 3, 32, 32)
    before, wanted = visual.transformer.resblocks[0].attn.in_proj_weight.detach().clone(), visual(images)
    updates = add_low_rank(visual, 3)
    torch.testing.assert_close(visual(images), wanted)
    assert sum(value.numel() for update in updates for value in update.parameters()) == 3 * 4 * 3 * 32
    with torch.no_grad():
        for update in updates:
            for value in update.parameters():
                value.add_(0.2 * torch.randn_like(value))
    change = (visual.transformer.resblocks[0].attn.in_proj_weight - before).unflatten(0, (3, 32))
    assert not change[1].any() and torch.linalg.matrix_rank(change[0]) <= 3 and change[2].any()


@pytest.mark.parametrize("variant", [Variant("seve_full", 1), Variant("seve_lora", 1, 2)])
def test_gradients_reach_an_adapted_clip_and_nothing_that_is_frozen(variant: Variant) -> None:
    classifier = built(variant)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model, reader = scene_model()
    words = Vocabulary.build(TABLETOP_SPECS)
    [image] = propose_images(model, reader, coloured_samples(1), words)
    masks, prepared = image.proposals.mask_logits, classifier.prepare(model.text_encoder.encode(words))
    embeddings = classifier.embed(classifier.views_of(image.pixels, masks), classifier.adapter(masks), prepared)
    classifier.word_logits(embeddings, prepared)[..., 3].sum().backward()
    for name, parameter in classifier.visual.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, name


@pytest.mark.parametrize("view", ["crops", "image"])
def test_quality_agrees_with_the_classifier_itself(view: str) -> None:
    """From views computed before and through the whole forward pass: the same words, so the same PQ."""
    model, classifier = scene_model(mirrored=False, view=view, input_size=64)
    vocabulary, merge = Vocabulary.build(TABLETOP_SPECS), load_preset("tabletop_fisa").merge
    images = propose_images(model, classifier, coloured_samples(2, "blue star"), vocabulary)
    assert (images[0].views.windows is None) == (view == "image")
    words = classifier.prepare(model.text_encoder.encode(vocabulary))
    kept, anew = (
        panoptic_quality(
            lambda image, reuse=reuse: classifier(
                image.pixels, image.proposals, words, some_views(image.views, slice(None)) if reuse else None
            ),
            images,
            vocabulary,
            merge,
        )
        for reuse in (True, False)
    )
    assert kept == anew

    right = partial(true_names, classifier, 100)
    assert set(rightly_named(right, right, images, vocabulary).values()) == {100.0}
    one = {category.name: index for index, category in enumerate(vocabulary.categories)}["red ball"]
    red = torch.nn.functional.one_hot(torch.tensor(one), 101).float().expand(1, 4, 101)
    shares = rightly_named(lambda _: red, right, images, vocabulary)
    assert shares == {"all_named": pytest.approx(200 / 3), "seen_named": 100.0, "unseen_named": 0.0}

    perfect = panoptic_quality(right, images, vocabulary, merge)
    assert perfect["unseen"] == pytest.approx(100, abs=1) and perfect["seen"] == pytest.approx(
        50, abs=1
    )  # nobody proposed the table


@pytest.mark.usefixtures("scenes")
def test_an_ablation_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ablate_tabletop(small(tmp_path)) == 0
    table = (tmp_path / "out" / "ablation.md").read_text()
    assert "baseline: frozen CLIP" in table and "rank 2" in table and "masked crops, mirrored too" in table
    assert "2 steps of 3 masks" in table and "| masks named rightly, seen |" in table
    losses = table[table.index("mean loss of naming in each tenth") :]
    assert "| + SEVE + SIMO (FISA) | 0 | " in losses and "| + SEVE, CLIP with LoRA, rank 2 | 2 | " in losses
    assert "baseline" not in losses  # nothing of it trains without convolutions
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    assert [(row["system"], row["convolutions"], row["rank"]) for row in rows] == [
        ("masked_crops", 0, 0), ("masked_crops", 1, 0), ("baseline", 0, 0), ("seve_simo", 0, 0),
        ("seve_lora", 2, 2), ("oracle", 0, 0),
    ]  # fmt: skip
    trained: list[str] = []
    original = ablation.learn
    monkeypatch.setattr(ablation, "learn", lambda *a: (trained.append(a[2].name), original(*a)))
    result_path(tmp_path / "out", "seve_simo-c0", 0).unlink()
    ablate_tabletop(small(tmp_path))
    assert len(trained) == 1 and trained[0].startswith("seve_simo-c0-0-")
    ablate_tabletop(replace(small(tmp_path), split="val"))
    assert trained[2] == trained[0]  # the same folder, whose training is complete
    [row] = [one for one in json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"] if one["losses"]][:1]
    assert len(row["losses"]) == 2
    trained.clear()
    ablate_tabletop(replace(small(tmp_path), steps=1))  # other settings: all anew
    assert len(trained) == 3


@pytest.mark.usefixtures("scenes")
def test_trainings_have_the_precision_of_their_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    single = ablation.Engine("cpu")  # another precision would be that of all trainings in this process
    monkeypatch.setattr(ablation, "Engine", lambda _, precision: (asked.append(precision), single)[1])
    options = replace(small(tmp_path), systems=("seve",))
    trained: list[str] = []
    original = ablation.learn
    monkeypatch.setattr(ablation, "learn", lambda *a: (trained.append(a[2].name), original(*a)))
    ablate_tabletop(options)
    ablate_tabletop(replace(options, overrides=(*options.overrides, "mixed_precision=bf16")))
    assert asked == ["no", "bf16"] and len(set(trained)) == 2  # no network of one for the other


@pytest.mark.usefixtures("scenes")
def test_a_torn_result_is_named(tmp_path: Path) -> None:
    path = result_path(tmp_path / "out", "baseline-c0", 0)
    path.parent.mkdir(parents=True)
    path.write_text('{"seen": 1')
    with pytest.raises(DatasetError, match="baseline-c0-0.json .* delete it"):
        ablate_tabletop(small(tmp_path))


@pytest.mark.usefixtures("scenes")
def test_images_that_show_nothing_unseen_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "load_or_render", lambda *_, **__: coloured_views(3))
    with pytest.raises(ConfigError, match="the first 2 images of split test show no unseen category"):
        ablate_tabletop(small(tmp_path))


def test_wrong_choices_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="unknown system 'fisa'; choose one of baseline, seve"):
        ablate_tabletop(replace(ALL, systems=("fisa",)))
    assert main(["ablate", "tabletop", "--out", str(tmp_path), "--recipe", "tabletop"]) == 2
    assert "no stage of kind fisa on rendered data to ablate" in capsys.readouterr().err
    assert main(["ablate", "tabletop", "loop.batch=3", "--out", str(tmp_path)]) == 2
    assert "loop.batch=3: tabletop_fisa.yaml.stages[0].loop: unknown key 'batch'" in capsys.readouterr().err
