"""FISA on the tabletop: which proposals teach what, by which losses, from which features computed before."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fisa_scenes import coloured_samples, coloured_views, scene_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import fisa_section, preset_path
from ovseg_ros.offline.data.tabletop_views import SCENES_PER_SHARD
from ovseg_ros.offline.tools.lora import add_low_rank
from ovseg_ros.offline.train.augmentation import JitterConfig
from ovseg_ros.offline.train.data import PanopticData, RenderedData, RenderedViews
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.fisa import FisaTask, FisaTraining, begun_fisa, build_untrained, learn
from ovseg_ros.offline.train.fisa_data import CollectedMasks, MaskBatch, collect_masks, some_views, with_key_values
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, best_segments, fisa_losses
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.run import load_recipe, train
from ovseg_ros.offline.train.words import SeenWords
from ovseg_ros.sim import categories

LOOP = LoopConfig(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1, pictures_every=2)
CONFIG = FisaTraining("tabletop_fisa", RenderedData(scenes=1, views=1), LOOP, synonyms=0.5)
CPU = torch.device("cpu")


def collected(count: int, *, none_weight: float = 0.0, **changes: object) -> tuple[FisaClassifier, MaskBatch]:
    """A FISA, and the masks of some two-object scenes for it."""
    model, classifier = scene_model(**changes)
    words, loss = SeenWords(model.text_encoder, 0.5), FisaLossConfig(none_weight=none_weight)
    return classifier, collect_masks(model, classifier, coloured_samples(count), words, loss)


def names_of(masks: MaskBatch) -> list[str]:
    names = [*(category.name for category in masks.text.vocabulary.categories), "none"]
    return [names[index] for index in masks.categories]


def test_assignment_is_many_to_one_above_an_overlap() -> None:
    truth = torch.zeros(2, 4, 8)
    truth[0, :, :4], truth[1, :, 4:] = 1, 1
    logits = torch.full((4, 4, 8), -1.0)
    logits[0, :, :4] = 1  # the first exactly
    logits[1, :3, :4] = 1  # three quarters of it
    logits[2, :2, 4:] = 1  # half of the second: not enough
    logits[3, :, 1:] = 1  # the second, and most of the first: IoU 16 / 28
    assert best_segments(logits, truth, 0.6).tolist() == [0, 0, -1, -1]
    assert best_segments(logits, truth, 0.55).tolist() == [0, 0, -1, 1]
    assert best_segments(logits[:0], truth, 0.6).tolist() == []
    assert best_segments(logits, truth[:0], 0.6).tolist() == [-1] * 4


def test_losses_by_hand() -> None:
    words = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    adapted, truth = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    truth[0, 0] = 1.0
    config = FisaLossConfig(none_weight=0.5)
    losses = fisa_losses(words, torch.tensor([0, 2]), adapted, truth, config, masks=1, others=1)
    fitting = -math.log(math.exp(2) / (math.exp(2) + 1 + math.e))
    assert float(losses["class"]) == pytest.approx(2 * (fitting + 0.5 * math.log(3)) / 1.5, rel=1e-5)
    assert float(losses["bce"]) == pytest.approx(5 * math.log(2), rel=1e-5)  # of the mask that fits alone
    assert float(losses["dice"]) == pytest.approx(5 * (1 - (2 * 1 + 1) / (2 + 2 + 1)), rel=1e-5)
    without = fisa_losses(words, torch.tensor([0, 2]), adapted, truth, FisaLossConfig(), masks=1, others=1)
    assert float(without["class"]) == pytest.approx(2 * fitting, rel=1e-5)


def test_losses_without_anything_that_fits_are_zero() -> None:
    words = torch.zeros(2, 3, requires_grad=True)
    masks = torch.zeros(2, 2, 2)
    losses = fisa_losses(words, torch.tensor([2, 2]), masks, masks, FisaLossConfig(), masks=0, others=2)
    assert [value.item() for value in losses.values()] == [0.0, 0.0, 0.0]
    torch.stack(list(losses.values())).sum().backward()
    assert words.grad is not None and not words.grad.any()


def test_samples_are_the_proposals_that_fit() -> None:
    _, masks = collected(2)
    names = names_of(masks)
    assert sorted(names[:3]) == ["blue ball", "red ball", "red ball"]
    assert names[3:] == names[:3] and masks.masks.shape == (6, 1, 16, 24) and masks.is_mask.all()
    _, everything = collected(1, none_weight=0.1)
    names = names_of(everything)
    assert sorted(names) == ["blue ball", "none", "red ball", "red ball"]
    unfitting = names.index("none")
    assert not everything.truth[unfitting].any() and everything.truth[1 - (unfitting == 1)].sum() == 64


def test_samples_of_whole_images_are_images_with_all_their_masks() -> None:
    """Masks beside them fill up; those of an image share what CLIP makes of it."""
    model, classifier = scene_model(mirrored=False, view="image", input_size=96)
    words, views = SeenWords(model.text_encoder, 0.0), coloured_views(3)
    views.segment_ids[1][views.segment_ids[1] == 2] = 1  # without the red square
    views.labels[2], views.segment_ids[2] = [], 0  # without anything, so it is left out
    masks = collect_masks(model, classifier, RenderedViews(views, Path("nowhere"), "train"), words, FisaLossConfig())
    assert masks.masks.shape == (2, 3, 16, 24) and masks.is_mask.tolist() == [[True] * 3, [True, False, False]]
    assert masks.views.windows is None and masks.views.pixels.shape == (2, 3, 64, 96)
    names = names_of(masks)
    assert sorted(names[:3]) == ["blue ball", "red ball", "red ball"] and names[3] == "blue ball"

    masks = replace(masks, views=with_key_values(classifier, masks.views))
    assert masks.views.key_values is not None and masks.views.key_values[0].keys.shape[0] == 2
    source = CollectedMasks(masks, words, LOOP)
    drawn = source._draw(0)[1].tolist()
    assert sorted(set(drawn)) == [0, 1]  # both of them
    batch, count = source.batch(0, range(4)), sum([3, 1][image] for image in drawn)
    assert len(batch.categories) == len(batch.truth) == int(batch.is_mask.sum()) == count
    assert source.counts(0, range(4)).tolist() == [[float([3, 1][image]), 0.0] for image in drawn]
    single = drawn.index(1)
    alone = source.batch(0, range(single, single + 1))
    assert alone.masks.shape == (1, 1, 16, 24) and names_of(alone) == ["blue ball"]
    with torch.no_grad():
        prepared = classifier.prepare(batch.text)
        embeddings = classifier.embed(batch.views, batch.masks, prepared)
        anew = classifier.embed(replace(batch.views, key_values=None), batch.masks, prepared)
    torch.testing.assert_close(embeddings, anew, atol=3e-3, rtol=0)


def test_features_computed_before_are_those_of_the_classifier() -> None:
    """Crop by crop, kept in half precision, and all at once: the same embeddings, to half precision."""
    classifier, masks = collected(1, mirrored=False)
    words, adapted = classifier.prepare(masks.text), masks.masks.float()
    images = torch.from_numpy(coloured_views(1).images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        kept = some_views(with_key_values(classifier, masks.views), slice(None))
        assert kept.key_values is not None and len(kept.key_values) == 6
        wanted = classifier.embed(classifier.views_of(images.expand(3, -1, -1, -1), adapted), adapted, words)
        torch.testing.assert_close(classifier.embed(kept, adapted, words), wanted, atol=2e-3, rtol=0)


def test_images_without_masks_are_no_trouble() -> None:
    model, classifier = scene_model()
    words, views = SeenWords(model.text_encoder, 0.0), coloured_views(3)
    views.labels[0], views.segment_ids[0] = [], 0  # nothing to fit, as in the third
    views.labels[2], views.segment_ids[2] = [], 0
    samples = RenderedViews(views, Path("nowhere"), "train")
    masks = collect_masks(model, classifier, samples, words, FisaLossConfig())
    assert len(masks.categories) == 3 and masks.views.windows.shape == (3, 4)
    empty = replace(masks.views, pixels=masks.views.pixels[:0], windows=masks.views.windows[:0])
    assert with_key_values(classifier, empty).key_values == ()


@pytest.mark.parametrize("none_weight", [0.0, 0.5])
def test_proposals_that_fit_nothing_are_refused(none_weight: float) -> None:
    model, classifier = scene_model()
    words, loss = SeenWords(model.text_encoder, 0.0), FisaLossConfig(none_weight=none_weight, min_iou=0.9999)
    views = coloured_views(2)
    views.segment_ids[:, 16:28, :40] = 1  # the top of the red square
    views.segment_ids[:, 16:28, 56:] = 1  # and of the blue one
    wanted = r"no proposal fits a segment: loss.min_iou is 0.9999, and the largest IoU of any .* in 2 images is 0.\d+;"
    with pytest.raises(ConfigError, match=wanted):
        collect_masks(model, classifier, RenderedViews(views, Path("nowhere"), "train"), words, loss)


def test_words_are_the_seen_ones_under_training_names() -> None:
    encoder = scene_model()[0].text_encoder
    words, plain = SeenWords(encoder, 1.0), SeenWords(encoder, 0.0)
    drawn = plain.draw(np.random.default_rng(0))
    assert {category.name for category in drawn.vocabulary.categories} == categories.SEEN
    assert [c.name for c in drawn.vocabulary.categories] == [c.name for c in words.vocabulary.categories]
    assert not drawn.vectors.is_inference() and not drawn.vectors.requires_grad
    renamed = [category.name for category in words.draw(np.random.default_rng(0)).vocabulary.categories]
    held_out = {word.held_out for word in (*categories.SHAPES, *categories.STUFF)}
    assert not set(renamed) & categories.SEEN and not any(name.endswith(tuple(held_out)) for name in renamed)
    assert words.index_of(drawn.vocabulary.categories[5].name) == 5
    with pytest.raises(KeyError):
        words.index_of(next(iter(categories.UNSEEN)))  # an unseen category never teaches


def untrained(adapts: str = "", **changes: object) -> tuple[FisaClassifier, MaskBatch]:
    """A FISA and its masks; CLIP is frozen, or trains whole ("full") or by low-rank updates ("lora")."""
    torch.manual_seed(0)
    classifier, masks = collected(2, mirrored=False, **changes)
    if not adapts:
        return classifier, replace(masks, views=with_key_values(classifier, masks.views))
    classifier.visual.requires_grad_(adapts == "full")
    if adapts == "lora":
        add_low_rank(classifier.visual, 8)
    return classifier, masks


def trained(folder: Path, adapts: str = "", **changes: object) -> FisaClassifier:
    classifier, masks = untrained(adapts, **changes)
    source = CollectedMasks(masks, SeenWords(scene_model()[0].text_encoder, CONFIG.synonyms), LOOP)
    learn(FisaTask(classifier, source, CONFIG.loss, "fisa"), CONFIG.loop, folder, Engine("cpu"))
    return classifier


@pytest.mark.parametrize(
    ("adapts", "changes"),
    [("", {}), ("full", {}), ("lora", {"query_layers": ()}), ("full", {"view": "image", "input_size": 96})],
)
def test_training_moves_what_trains_and_nothing_else(tmp_path: Path, adapts: str, changes: dict[str, object]) -> None:
    before = {name: value.clone() for name, value in untrained(adapts, **changes)[0].named_parameters()}
    after = trained(tmp_path / "fisa", adapts, **changes)
    names = set(after.trained_state_dict())
    moved = {name for name, value in after.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= names
    assert "adapter.layers.2.weight" in moved and any(name.startswith("stream.seve") for name in moved)
    assert any(name.startswith("visual.") for name in moved) == bool(adapts)
    assert not after.training


def test_the_same_seed_gives_the_same_training(tmp_path: Path) -> None:
    first, second = (trained(tmp_path / name).trained_state_dict() for name in ("a", "b"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_batch_is_a_function_of_seed_step_and_samples() -> None:
    _, masks = untrained()
    source = CollectedMasks(masks, SeenWords(scene_model()[0].text_encoder, 0.5), LOOP)
    whole, shares = source.batch(2, range(4)), [source.batch(2, range(2)), source.batch(2, range(2, 4))]
    assert torch.equal(whole.categories, torch.cat([share.categories for share in shares]))
    assert torch.equal(whole.masks, torch.cat([share.masks for share in shares]))
    assert all(torch.equal(share.text.vectors, whole.text.vectors) for share in shares)


def test_tensorboard_shows_crops_under_both_names(tmp_path: Path) -> None:
    classifier = trained(tmp_path / "fisa")
    events = EventAccumulator(str(tmp_path / "fisa" / "tensorboard")).Reload()
    side = classifier.crop_size[0]
    assert [(image.step, image.width, image.height) for image in events.Images("names")] == [
        (2, 2 * 3 * side, LOOP.batch_size * 3 * side)
    ]


def test_nothing_to_train_is_left_as_it_is(tmp_path: Path) -> None:
    trained(tmp_path / "fisa", seve_layers=(), query_layers=(), adapter_convolutions=0)
    assert not (tmp_path / "fisa").exists()


RECIPE = """
stages:
  - kind: fisa
    preset: {preset}
    loop: {{steps: 2, batch_size: 4, learning_rate: 1.0e-3, warmup_steps: 1}}
    data: {{kind: rendered, scenes: 1, views: 1}}
"""


def test_a_recipe_trains_a_preset_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written, then read back by the preset: FISA beside the bundled networks."""
    shown = coloured_views(SCENES_PER_SHARD)
    large = replace(
        shown,
        images=shown.images.repeat(4, axis=1)[:, :240].repeat(4, axis=2)[:, :, :320],
        segment_ids=shown.segment_ids.repeat(4, axis=1)[:, :240].repeat(4, axis=2)[:, :, :320],
    )
    monkeypatch.setattr("ovseg_ros.offline.train.data.load_or_render", lambda *_, **__: replace(
        large, images=large.images[:1], segment_ids=large.segment_ids[:1], labels=large.labels[:1], textures=[{}]
    ))  # fmt: skip
    monkeypatch.setattr(
        "ovseg_ros.offline.train.fisa_losses.best_segments", lambda masks, *_: torch.arange(len(masks)) % 3
    )
    preset = tmp_path / "tiny.yaml"
    preset.write_text(preset_path("tabletop_fisa").read_text().replace("min_objectness: 0.25", "min_objectness: 0.0"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(preset=preset))
    train(str(recipe), out=tmp_path, data=tmp_path / "data")
    assert "wrote tabletop_fisa.safetensors" in capsys.readouterr().out
    result = tmp_path / "tabletop_fisa.safetensors"
    assert result.stat().st_size < 1e6
    segmenter = build_segmenter(str(preset), "cpu")
    prompt = segmenter.prepare(SeenWords(scene_model()[0].text_encoder, 0.0).vocabulary)
    assert segmenter.segment(large.images[0], prompt).segment_ids.shape == (240, 320)
    for source, file in (("trained", result), (str(result), result), (str(preset), result)):
        assert begun_fisa(str(preset), source) == file
    state, begun = tmp_path / "fisa" / "last.pt", []
    recipe.write_text(RECIPE.format(preset=preset) + f"    begins_with: {state}\n")
    monkeypatch.setattr(
        "ovseg_ros.offline.train.fisa.learn", lambda task, *_: begun.append(task.model.trained_state_dict())
    )
    train(str(recipe), out=tmp_path / "begun", data=tmp_path / "data")
    wanted = torch.load(state)["model"]
    assert all(torch.equal(value, wanted[key]) for key, value in begun[0].items())
    record = load_recipe(str(tmp_path / "begun" / "run.yaml")).record
    assert record is not None and record.weights is not None
    assert record.weights["fisa"][-1].startswith("last.pt, SHA-256")


def test_the_shipped_recipe_fits_its_preset() -> None:
    [stage] = load_recipe("tabletop_fisa").stages
    assert isinstance(stage, FisaTraining) and stage.preset == "tabletop_fisa"
    assert fisa_section(stage.preset).checkpoint == "tabletop_fisa.safetensors"


def test_initial_weights_depend_on_the_seed_alone() -> None:
    """Not on what was built before, nor on the checkpoint that the preset names."""
    torch.manual_seed(5)
    first, _ = build_untrained("tabletop_fisa", CPU, 3)
    again, _ = build_untrained("tabletop_fisa", CPU, 3)
    other, _ = build_untrained("tabletop_fisa", CPU, 4)
    key = "stream.seve.0.key.weight"
    weights = [model.classifier.state_dict()[key] for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not first.classifier.state_dict()["stream.seve.0.out.weight"].any() and not first.training


def test_presets_and_data_that_cannot_train_fisa_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="classifier of the preset tabletop is of kind masked_crops, not fisa"):
        build_untrained("tabletop", CPU, 0)
    preset = tmp_path / "nameless.yaml"
    preset.write_text(
        preset_path("tabletop_fisa").read_text().replace("    checkpoint: tabletop_fisa.safetensors\n", "")
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(preset=preset))
    with pytest.raises(ConfigError, match="names no classifier.checkpoint; name there what to write"):
        train(str(recipe), out=tmp_path, data=tmp_path)
    with pytest.raises(ValueError, match="must be of split train, got captions, which shows unseen categories"):
        replace(CONFIG, data=RenderedData(scenes=1, views=1, split="captions"))
    jitter = JitterConfig((64, 96))
    for wrong in ({"data": PanopticData()}, {"augmentation": jitter}, {"data": PanopticData(), "augmentation": jitter}):
        with pytest.raises(
            ValueError, match="kind panoptic needs augmentation and takes no synonyms; of kind rendered"
        ):
            replace(CONFIG, **wrong)
    with pytest.raises(ValueError, match="write synonyms: 0; add augmentation: {kind: jitter, size: .HEIGHT, WIDTH.}"):
        replace(CONFIG, data=PanopticData(), augmentation=None, synonyms=0.5)
