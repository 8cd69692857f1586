"""Captions, crops and batches of the tabletop training, and a whole run in miniature."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from guided_networks import guided
from tiny_training import require_same_maps
from torch import nn

from ovseg_ros.core.backbones.sentence_clip import ClipConfig, ImageTower
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.presets import preset_path, two_stage
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.offline.data import tabletop_views
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.tabletop_views import SCENES_PER_SHARD, TabletopViews, load_or_render
from ovseg_ros.offline.train.augmentation import CropPhase, CropsConfig
from ovseg_ros.offline.train.clip import caption_loss
from ovseg_ros.offline.train.crops import CropSource, clamp_window
from ovseg_ros.offline.train.data import PanopticStream, RenderedData, RenderedViews, SegmentedView, segmented_view
from ovseg_ros.offline.train.eomt import STUFF, THING, PresetNetwork, class_map, each_segment, network_of
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.masks import to_targets
from ovseg_ros.offline.train.pseudo_masks import propose_masks
from ovseg_ros.offline.train.run import load_recipe, train
from ovseg_ros.offline.train.words import Concept, caption, is_true_of
from ovseg_ros.sim import categories

LOOP = LoopConfig(steps=10, batch_size=3, learning_rate=1e-3)
CLIP = ClipConfig(image_size=32, patch_size=8, width=64, layers=1, head_width=32)

EOMT_STAGE = """
  - kind: eomt
    network: {kind: preset, preset: PRESET}
    data: {kind: rendered, scenes: 20, views: 1}
    classes: thing_or_stuff
    augmentation: {kind: crops, phases: [{until: 0.5, size: [32, 48]}, {until: 1.0, size: [240, 320]}]}
    loop: {steps: 2, batch_size: 2, learning_rate: 1.0e-3, warmup_steps: 1}
"""
CLIP_STAGE = """
  - kind: clip
    preset: PRESET
    captions: {split: captions, scenes: 20, views: 1}
    masks: {scenes: 20, views: 1}
    loop: {steps: 2, batch_size: 4, learning_rate: 1.0e-3, warmup_steps: 1}
    adaptation: {steps: 1, batch_size: 4, learning_rate: 1.0e-3, warmup_steps: 1}
    adaptation_jitter: 1.0
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of each split."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "captions"):
        load_or_render(folder, split, scenes=SCENES_PER_SHARD, views=1)
    return folder


@pytest.fixture(scope="module")
def views(data: Path) -> TabletopViews:
    return load_or_render(data, "train", scenes=SCENES_PER_SHARD, views=1)


def test_captions_never_use_a_held_out_synonym() -> None:
    rng = np.random.default_rng(0)
    held_out = {word.held_out for word in (*categories.SHAPES, *categories.STUFF)}
    for shape in categories.SHAPES:
        for _ in range(100):
            sentence, said = caption(Concept(shape.name, color="red"), rng)
            assert is_true_of(said, Concept(shape.name, color="red"))
            assert any(name in sentence for name in shape.training_names)
            assert not any(sentence.endswith((f" {word}", f"a {word}")) or sentence == word for word in held_out)


def test_a_caption_is_true_of_what_it_does_not_contradict() -> None:
    red_ball = Concept("ball", color="red")
    assert is_true_of(Concept("ball"), red_ball)
    assert is_true_of(red_ball, red_ball)
    assert not is_true_of(Concept("ball", color="blue"), red_ball)
    assert not is_true_of(Concept("cube"), red_ball)
    assert is_true_of(Concept("table"), Concept("table", texture="wooden"))
    assert not is_true_of(Concept("table", texture="marble"), Concept("table", texture="wooden"))


def test_caption_loss_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0]])
    truth = torch.tensor([[True, True, False]])
    rest = math.exp(-1.0) + 1  # the false caption and "none"
    wanted = sum(-math.log(math.exp(x) / (math.exp(x) + rest)) for x in (2.0, 1.0)) / 2
    shown = caption_loss(logits, truth, torch.tensor([False]))
    assert float(shown) == pytest.approx(wanted, rel=1e-5)
    withheld = caption_loss(logits, truth, torch.tensor([True]))
    assert float(withheld) == pytest.approx(math.log(rest), rel=1e-5)


def test_training_views_show_seen_categories_only(views: TabletopViews) -> None:
    assert len(views) == SCENES_PER_SHARD
    assert {label for labels in views.labels for label in labels} <= categories.SEEN
    assert all(ids.max() == len(labels) for ids, labels in zip(views.segment_ids, views.labels, strict=True))


def test_there_are_as_many_scenes_as_asked(data: Path, views: TabletopViews) -> None:
    few = load_or_render(data, "train", scenes=3, views=1)
    assert len(few) == len(few.segment_ids) == len(few.labels) == len(few.textures) == 3
    assert few.labels == views.labels[:3]


def test_wide_scenes_follow_the_usual_ones(data: Path, views: TabletopViews, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabletop_views, "SCENES_PER_SHARD", 2)
    both = load_or_render(data, "train", scenes=2, views=1, wide=2)
    assert len(both) == len(both.labels) == len(both.textures) == 4
    assert both.labels[:2] == views.labels[:2] and np.array_equal(both.images[:2], views.images[:2])
    assert (data / "train_wide-320x240-1views" / "000000.npz").exists()


def test_a_broken_shard_is_named(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train-320x240-1views"
    folder.mkdir()
    (folder / "000000.npz").write_bytes(b"torn")
    with pytest.raises(DatasetError, match="000000.npz"):
        load_or_render(tmp_path, "train", scenes=1, views=1)


def test_two_commands_may_render_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabletop_views, "SCENES_PER_SHARD", 1)
    job, turns, original = (tmp_path, "train", 0, 1), [], np.savez

    def savez(file, **arrays) -> None:  # type: ignore[no-untyped-def]
        turns.append(file)
        if len(turns) == 1:  # another command, which is done first
            tabletop_views._render_shard(job)
        original(file, **arrays)

    monkeypatch.setattr(np, "savez", savez)
    tabletop_views._render_shard(job)
    assert [path.name for path in tmp_path.iterdir()] == ["000000.npz"] and len(turns) == 2
    assert len(tabletop_views._read_shard(tmp_path / "000000.npz")) == 1


def stream_of(views: TabletopViews, crops: CropsConfig, prepare=segmented_view) -> PanopticStream:  # type: ignore[no-untyped-def]
    data = RenderedData(scenes=SCENES_PER_SHARD, views=1)
    return PanopticStream(RenderedViews(views, Path("nowhere"), "train"), data, crops, LOOP, prepare)


def batch_of(views: TabletopViews, step: int, samples: range = range(3)) -> list[SegmentedView]:
    stream = stream_of(views, CropsConfig(phases=(CropPhase(0.5, (32, 48)), CropPhase(1.0, (96, 128)))))
    try:
        return stream.batch(step, samples)
    finally:
        stream.close()


def test_batches_are_a_function_of_seed_and_step(views: TabletopViews) -> None:
    batch, again, other = (torch.stack([view.image for view in batch_of(views, step)]) for step in (5, 5, 6))
    assert batch.shape == (3, 3, 96, 128) and torch.equal(batch, again) and not torch.equal(batch, other)
    assert torch.equal(batch[2], batch_of(views, 5, range(2, 3))[0].image)  # as in another process
    assert batch_of(views, 4)[0].image.shape == (3, 32, 48)  # the first half of the steps
    class_of, _ = class_map("thing_or_stuff", dataset_info("tabletop").categories())
    for view in batch_of(views, 5):
        target = to_targets(view, each_segment(view, class_of), (24, 32), torch.device("cpu"))
        assert target.masks.shape[1:] == (24, 32) and len(target.masks) == len(target.classes)
        assert set(target.classes.tolist()) <= {THING, STUFF}
        assert (target.masks.sum(dim=0) <= 1 + 1e-6).all()  # segments do not overlap
        assert (target.masks.sum(dim=(1, 2)) >= 2).all()


def test_an_exposed_crop_is_the_image_times_its_factors(views: TabletopViews) -> None:
    for view in batch_of(views, 5):
        assert view.image.dtype == torch.float32 and view.image.min() >= 0 and view.image.max() <= 1
    crops = CropsConfig(phases=(CropPhase(1.0, (240, 320)),), flip=1.0, gain=(0.5, 0.5), tint=(1.0, 1.0))
    stream = stream_of(views, crops, lambda sample, view: (sample, view))
    ((sample, view),) = stream.batch(0, range(1))
    stream.close()
    assert np.allclose(view.of_image(sample.image), sample.image[:, ::-1] * (0.5 / 255), atol=1e-6)
    assert np.array_equal(view.of_segments(sample.segment_ids), sample.segment_ids[:, ::-1])


@pytest.mark.parametrize("phases", [((0.5, (8, 8)),), ((1.0, (8, 8)), (0.5, (8, 8))), ()])
def test_phases_that_leave_steps_out_are_refused(phases: tuple) -> None:
    with pytest.raises(ValueError, match="phases"):
        CropsConfig(phases=tuple(CropPhase(*phase) for phase in phases))


def test_crops_show_what_their_concept_says(views: TabletopViews) -> None:
    source = CropSource(views, CLIP)
    rng = np.random.default_rng(0)
    for masked in (False, True):
        for stuff in (False, True):
            crop, mask, concept = source.draw(rng, stuff=stuff, masked=masked)
            assert crop.shape == (32, 32, 3) and mask.shape == (4, 4)
            assert (concept.color is None) == stuff
            assert masked or mask.all()


def truth_generator(views: TabletopViews, keep: int) -> nn.Module:
    """A generator that proposes the true masks of the first `keep` segments of every image it is shown in order."""

    class Truth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shown = 0

        def forward(self, images: torch.Tensor) -> MaskProposals:
            numbers = torch.arange(1, keep + 1)[:, None, None]
            ids = torch.from_numpy(views.segment_ids[self.shown : self.shown + len(images)].astype(np.int64))
            self.shown += len(images)
            masks = (ids[:, None, ::4, ::4] == numbers).float() * 20 - 10
            likely = torch.tensor([9.0, 0.0, -9.0]).expand(len(images), keep, 3)
            return MaskProposals(masks, torch.zeros(len(images), keep, 1), likely)

    return Truth()


def test_a_generator_masks_the_photos_it_fits(views: TabletopViews) -> None:
    """Pseudo-masks come from the generator, not from the ground truth, and only objects that it found are drawn."""
    everything = CropSource(views, CLIP)
    found = CropSource(views, CLIP, truth_generator(views, keep=2))
    assert not found.stuff
    regions = [region for group in found.things.values() for region in group]
    assert regions and {region.segment for region in regions} <= {1, 2}
    assert len(regions) < sum(len(group) for group in everything.things.values())
    for region in regions[:5]:
        difference = found.mask(region) ^ (views.segment_ids[region.view] == region.segment)
        assert difference.mean() < 0.02  # the same object, at the generator's resolution


def test_a_generator_that_finds_nothing_gives_no_mask() -> None:
    class Nothing(nn.Module):
        def forward(self, images: torch.Tensor) -> MaskProposals:
            logits = torch.tensor([-9.0, -9.0, 9.0]).expand(len(images), 4, 3)
            return MaskProposals(torch.ones(len(images), 4, 8, 8), torch.zeros(len(images), 4, 1), logits)

    images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    boxes = [np.array([[0, 0, 8, 8]]), np.zeros((0, 4)), np.array([[0, 0, 32, 32], [4, 4, 9, 9]])]
    found = propose_masks(Nothing(), images, boxes)
    assert [masks.shape for masks, _ in found] == [(1, 8, 8), (0, 8, 8), (2, 8, 8)]
    assert not any(fits.any() or masks.any() for masks, fits in found)


def test_a_generator_that_words_guide_masks_no_photos() -> None:
    with pytest.raises(ValueError, match="these masks depend on words; give those that guidance.prepare makes"):
        propose_masks(guided(), np.zeros((1, 32, 48, 3), dtype=np.uint8), [np.array([[0, 0, 8, 8]])])


def test_a_generator_that_fits_no_photo_stops_the_training(views: TabletopViews) -> None:
    nowhere = truth_generator(views, keep=1)
    empty = TabletopViews(views.images[:1], views.segment_ids[:1], [["table"]], views.textures[:1])
    with pytest.raises(DatasetError, match="none of 0 photographed objects got a mask"):
        CropSource(empty, CLIP, nowhere)


@pytest.mark.parametrize("side", [1, 40, 500])
def test_windows_stay_in_the_image(side: int) -> None:
    for x, y in ((0, 0), (99, 49), (50, 25)):
        left, top, right, bottom = clamp_window(x, y, side, (50, 100))
        assert 0 <= left < right <= 100 and 0 <= top < bottom <= 50
        assert right - left == min(max(side, 2), 100) and bottom - top == min(max(side, 2), 50)


def train_tiny(folder: Path, data: Path, *stages: str) -> Path:
    """Writes preset, recipe and `out` into a folder; returns the preset."""
    preset, recipe = folder / "tiny.yaml", folder / "recipe.yaml"
    preset.write_text(preset_path("tabletop").read_text())
    recipe.write_text("stages:" + "".join(stages).replace("PRESET", str(preset)))
    train(str(recipe), out=folder / "out", data=data)
    return preset


def test_a_recipe_trains_a_preset_that_loads(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two steps teach nothing: any mask has to do.
    monkeypatch.setattr("ovseg_ros.offline.train.pseudo_masks.MIN_OBJECTNESS", 0.0)
    monkeypatch.setattr("ovseg_ros.offline.train.pseudo_masks.MIN_BOX_IOU", 0.0)
    preset = train_tiny(tmp_path, data, EOMT_STAGE, CLIP_STAGE)
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders == ["clip", "clip_adaptation", "eomt"]
    require_same_maps(tmp_path / "out", "eomt", "cup", "wall")
    require_same_maps(tmp_path / "out", "clip_adaptation", "cup", "wall")
    for file in (tmp_path / "out").glob("*.safetensors"):
        file.rename(tmp_path / file.name)
    assert build_segmenter(str(preset), "cpu")


def test_a_clip_alone_takes_the_presets_mask_generator(data: Path, tmp_path: Path) -> None:
    train_tiny(tmp_path, data, CLIP_STAGE)
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == ["tabletop_clip.safetensors"]


def test_a_clip_may_learn_from_whole_photos_alone(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mask is read or made, whatever `masked_share` is, and the run is a preset with that CLIP."""
    seen, original = [], ImageTower.encode_masked
    monkeypatch.setattr(ImageTower, "encode_masked", lambda *told: (seen.append(told[2]), original(*told))[1])
    monkeypatch.setattr("ovseg_ros.offline.train.clip.load_strict", lambda *_: pytest.fail("a mask generator is read"))
    lines = [line for line in CLIP_STAGE.splitlines() if "masks:" not in line and "adaptation:" not in line]
    train_tiny(tmp_path, data, "\n".join(lines))
    assert len(seen) == 2 and all(masks.all() and len(masks) == 4 for masks in seen)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["clip"]
    assert load_recipe(str(tmp_path / "out" / "run.yaml")).record.weights == {"clip": ()}
    assert two_stage(str(tmp_path / "out")).clip.checkpoint == "./tabletop_clip.safetensors"
    assert (tmp_path / "out" / "tabletop_clip.safetensors").is_file()


def test_what_a_preset_does_not_have_cannot_be_trained(data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("stages:" + EOMT_STAGE.replace("PRESET", "eomt_l_convnext"))
    with pytest.raises(ConfigError, match="mask generator of the preset eomt_l_convnext is of kind published_eomt"):
        train(str(tmp_path / "recipe.yaml"), out=tmp_path / "out", data=data)
    with pytest.raises(ConfigError, match="of the preset tabletop_pmp is of kind prompt_guided, which is trained els"):
        network_of(PresetNetwork("tabletop_pmp"))  # of a stage of kind eomt or clip
    (tmp_path / "recipe.yaml").write_text("stages:" + CLIP_STAGE.replace("PRESET", "fisa_b"))
    with pytest.raises(ConfigError, match="clip of the preset fisa_b is of kind open_clip; only sentence_clip can"):
        train(str(tmp_path / "recipe.yaml"), out=tmp_path / "out", data=data)


def test_unknown_recipes_are_named() -> None:
    with pytest.raises(ConfigError, match="no recipe 'tabletpo'.*tabletop"):
        load_recipe("tabletpo")
