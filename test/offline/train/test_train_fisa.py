"""FISA on the tabletop: which proposals teach what, by which losses, from which remembered features."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fisa_scenes import Proposer, coloured_views
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import load_preset, preset_path
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.offline.data.tabletop_views import SCENES_PER_SHARD
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, assign_proposals, fisa_losses
from ovseg_ros.offline.train.fisa_parts import FisaParts, load_parts
from ovseg_ros.offline.train.fisa_samples import collect_samples, remember, training_samples
from ovseg_ros.offline.train.fisa_tabletop import FisaTrainingConfig, SeenWords, train_fisa
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.run import load_recipe, train
from ovseg_ros.sim import categories

LOOP = LoopConfig(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1, pictures_every=2)
CONFIG = FisaTrainingConfig(LOOP, scenes=1, views=1)


@pytest.fixture(scope="module")
def parts() -> FisaParts:
    return load_parts("tabletop_fisa")


def test_assignment_is_many_to_one_above_an_overlap() -> None:
    truth = torch.zeros(2, 4, 8)
    truth[0, :, :4], truth[1, :, 4:] = 1, 1
    logits = torch.full((4, 4, 8), -1.0)
    logits[0, :, :4] = 1  # the first exactly
    logits[1, :3, :4] = 1  # three quarters of it
    logits[2, :2, 4:] = 1  # half of the second: not enough
    logits[3, :, 1:] = 1  # the second, and most of the first: IoU 16 / 28
    assert assign_proposals(logits, truth, 0.6).tolist() == [0, 0, -1, -1]
    assert assign_proposals(logits, truth, 0.55).tolist() == [0, 0, -1, 1]
    assert assign_proposals(logits[:0], truth, 0.6).tolist() == []
    assert assign_proposals(logits, truth[:0], 0.6).tolist() == [-1] * 4


def test_losses_by_hand() -> None:
    words = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    adapted, truth = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    truth[0, 0] = 1.0
    config = FisaLossConfig(none_weight=0.5)
    losses = fisa_losses(words, torch.tensor([0, 2]), adapted, truth, config)
    fitting = -math.log(math.exp(2) / (math.exp(2) + 1 + math.e))
    assert float(losses["class"]) == pytest.approx(2 * (fitting + 0.5 * math.log(3)) / 1.5, rel=1e-5)
    assert float(losses["bce"]) == pytest.approx(5 * math.log(2), rel=1e-5)  # of the mask that fits alone
    assert float(losses["dice"]) == pytest.approx(5 * (1 - (2 * 1 + 1) / (2 + 2 + 1)), rel=1e-5)
    without = fisa_losses(words, torch.tensor([0, 2]), adapted, truth, FisaLossConfig())
    assert float(without["class"]) == pytest.approx(2 * fitting, rel=1e-5)


def test_losses_without_anything_that_fits_are_zero() -> None:
    words = torch.zeros(2, 3, requires_grad=True)
    losses = fisa_losses(words, torch.tensor([2, 2]), torch.zeros(2, 2, 2), torch.zeros(2, 2, 2), FisaLossConfig())
    assert [value.item() for value in losses.values()] == [0.0, 0.0, 0.0]
    torch.stack(list(losses.values())).sum().backward()
    assert words.grad is not None and not words.grad.any()


def test_samples_are_the_proposals_that_fit(parts: FisaParts) -> None:
    classifier = parts.classifier()
    samples = training_samples(classifier, Proposer(), coloured_views(2), min_iou=0.6, keep_unmatched=False)
    assert sorted(samples.categories[:3]) == ["blue ball", "red ball", "red ball"]
    assert samples.categories[3:] == samples.categories[:3] and len(samples.masks) == 6
    everything = training_samples(classifier, Proposer(), coloured_views(1), min_iou=0.6, keep_unmatched=True)
    assert sorted(str(name) for name in everything.categories) == ["None", "blue ball", "red ball", "red ball"]
    unfitting = everything.categories.index(None)
    assert not everything.truth[unfitting].any() and everything.truth[1 - (unfitting == 1)].sum() == 64


def test_remembered_features_are_those_of_the_classifier(parts: FisaParts) -> None:
    """Crop by crop from memory, and all at once by `embed`: the same embeddings, to half precision."""
    classifier = parts.classifier(mirrored=False).eval()
    images = torch.from_numpy(coloured_views(1).images).permute(0, 3, 1, 2).float() / 255
    masks = Proposer()(images).mask_logits
    text = parts.text_encoder.encode(SeenWords(parts.text_encoder, 0.0).draw(np.random.default_rng(0)).vocabulary)
    with torch.no_grad():
        samples = remember(classifier, collect_samples(classifier, images, [masks[0]]))
        inside = classifier.inside_crops(masks[0], samples.windows, samples.image_size)
        memory = samples.read(classifier, slice(None))
        remembered = classifier.read(memory, inside, classifier.remember_text(text))[:, 0]
        torch.testing.assert_close(remembered, classifier.embed(images, masks, text)[0], atol=2e-3, rtol=0)


def test_images_without_masks_are_no_trouble(parts: FisaParts) -> None:
    classifier = parts.classifier()
    none, some = torch.zeros(0, 16, 24), torch.randn(2, 16, 24)
    samples = collect_samples(classifier, torch.rand(3, 3, 64, 96), [none, some, none])
    assert len(samples) == 2 and samples.windows.shape == (2, 4)
    with pytest.raises(ConfigError, match="fisa.view crops, but this preset's is image"):
        collect_samples(parts.classifier(view="image"), torch.rand(1, 3, 64, 96), [some])


def test_words_are_the_seen_ones_under_training_names(parts: FisaParts) -> None:
    words = SeenWords(parts.text_encoder, 1.0)
    plain = SeenWords(parts.text_encoder, 0.0).draw(np.random.default_rng(0)).vocabulary
    assert {category.name for category in plain.categories} == categories.SEEN
    renamed = [category.name for category in words.draw(np.random.default_rng(0)).vocabulary.categories]
    held_out = {word.held_out for word in (*categories.SHAPES, *categories.STUFF)}
    assert not set(renamed) & categories.SEEN and not any(name.endswith(tuple(held_out)) for name in renamed)
    assert words.index_of(plain.categories[5].name) == 5 and words.index_of(None) == len(categories.SEEN)
    with pytest.raises(KeyError):
        words.index_of(next(iter(categories.UNSEEN)))  # an unseen category never teaches


def trained(parts: FisaParts, folder: Path, samples_of: object = None, **changes: object) -> FisaClassifier:
    torch.manual_seed(0)
    classifier = parts.classifier(**changes)
    samples = training_samples(classifier, Proposer(), coloured_views(2), min_iou=0.6, keep_unmatched=False)
    if classifier.config.clip_training == "frozen":
        samples = replace(samples, masks=remember(classifier, samples.masks))
    train_fisa(classifier, parts.text_encoder, samples, CONFIG, folder, engine=Engine("cpu"))
    return classifier


@pytest.mark.parametrize("changes", [{}, {"clip_training": "full"}, {"clip_training": "lora", "query_layers": ()}])
def test_training_moves_what_trains_and_nothing_else(
    parts: FisaParts, tmp_path: Path, changes: dict[str, object]
) -> None:
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in parts.classifier(**changes).named_parameters()}
    after = trained(parts, tmp_path / "fisa", **changes)
    names = set(after.trained_state_dict())
    moved = {name for name, value in after.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= names
    assert "adapter.layers.2.weight" in moved and any(name.startswith("stream.seve") for name in moved)
    assert not after.training


def test_the_same_seed_gives_the_same_training(parts: FisaParts, tmp_path: Path) -> None:
    first, second = (trained(parts, tmp_path / name).trained_state_dict() for name in ("a", "b"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_tensorboard_shows_crops_under_both_names(parts: FisaParts, tmp_path: Path) -> None:
    trained(parts, tmp_path / "fisa")
    events = EventAccumulator(str(tmp_path / "fisa" / "tensorboard")).Reload()
    side = parts.classifier().crop_size[0]
    assert [(image.step, image.width, image.height) for image in events.Images("names")] == [
        (2, 2 * 3 * side, LOOP.batch_size * 3 * side)
    ]


def test_nothing_to_train_is_left_as_it_is(parts: FisaParts, tmp_path: Path) -> None:
    trained(parts, tmp_path / "fisa", seve_layers=(), query_layers=(), adapter_convolutions=0)
    assert not (tmp_path / "fisa").exists()


RECIPE = """
preset: {preset}
fisa:
  loop: {{steps: 2, batch_size: 4, learning_rate: 1.0e-3, warmup_steps: 1}}
  scenes: 1
  views: 1
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
    monkeypatch.setattr("ovseg_ros.offline.train.fisa_tabletop.load_or_render", lambda *_, **__: replace(
        large, images=large.images[:1], segment_ids=large.segment_ids[:1], labels=large.labels[:1], textures=[{}]
    ))  # fmt: skip
    monkeypatch.setattr(
        "ovseg_ros.offline.train.fisa_samples.assign_proposals", lambda masks, *_: torch.arange(len(masks)) % 3
    )
    preset = tmp_path / "tiny.yaml"
    preset.write_text(preset_path("tabletop_fisa").read_text().replace("min_objectness: 0.25", "min_objectness: 0.0"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(preset=preset))
    train(str(recipe), out=tmp_path, data=tmp_path / "data")
    assert "wrote tabletop_fisa.safetensors" in capsys.readouterr().out
    assert (tmp_path / "tabletop_fisa.safetensors").stat().st_size < 1e6
    segmenter = build_segmenter(str(preset), "cpu")
    text = segmenter.encode_vocabulary(SeenWords(_encoder(segmenter), 0.0).draw(np.random.default_rng(0)).vocabulary)
    assert segmenter.segment(large.images[0], text).segment_ids.shape == (240, 320)


def _encoder(segmenter: object) -> TextEncoder:
    return segmenter._text_encoder  # type: ignore[attr-defined, no-any-return]


def test_the_shipped_recipe_fits_its_preset() -> None:
    recipe = load_recipe("tabletop_fisa")
    assert recipe.fisa is not None and recipe.preset == "tabletop_fisa"
    preset = load_preset(recipe.preset)
    assert preset.fisa is not None and preset.fisa_checkpoint == "tabletop_fisa.safetensors"


def test_presets_that_cannot_train_fisa_are_refused(parts: FisaParts) -> None:
    with pytest.raises(ConfigError, match="no fisa section"):
        load_parts("tabletop")
    with pytest.raises(ConfigError, match="needs eomt and clip sections"):
        load_parts("fisa_l")
    assert not any(parameter.requires_grad for parameter in parts.tower.parameters())
