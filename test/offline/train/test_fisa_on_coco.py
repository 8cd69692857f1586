"""FISA's training samples on panoptic data: proposals moved, assigned and padded; none at all; pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fisa_scenes import SquareProposer, scene_model
from open_clip.transformer import VisionTransformer

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample, SegmentLabel
from ovseg_ros.offline.train.augmentation import JitterConfig, View, draw_jitter
from ovseg_ros.offline.train.data import PanopticData, segmented_view
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.fisa import FisaTask
from ovseg_ros.offline.train.fisa_data import JitteredViews, likeliest, pad_masks
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, assign, overlaps
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import pooled_masks, soft_masks
from ovseg_ros.offline.train.pictures import compare_names, compare_segments, label_map
from ovseg_ros.offline.train.proposal_cache import to_levels, to_logits, words_hash
from ovseg_ros.offline.train.proposed_views import ProposedView, proposed_views, raw_view

NO_CATEGORY = 19
SAME = View((32, 48), 0, 0, (32, 48), flipped=False)


@pytest.fixture(scope="module")
def classifier() -> FisaClassifier:
    torch.manual_seed(0)
    visual = VisionTransformer(
        image_size=32, patch_size=16, width=32, layers=1, heads=2, mlp_ratio=2.0, output_dim=16
    )  # fmt: skip
    config = FisaConfig(input_size=32, seve_width=16, seve_heads=2, max_masks=3)
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return FisaClassifier(visual, config, logit_scale=torch.tensor(3.0), mean=mean, std=std)


def two_halves() -> PanopticSample:
    """Left stuff of category 4, right a crowd, which nothing is to be named after."""
    ids = np.full((32, 48), 70_000, dtype=np.int32)
    ids[:, 24:] = 9
    segments = (
        SegmentLabel(70_000, 4, is_thing=False, is_crowd=False, area=768, declared_area=768),
        SegmentLabel(9, 11, is_thing=True, is_crowd=True, area=768, declared_area=768),
    )
    return PanopticSample(np.zeros((32, 48, 3), dtype=np.uint8), ids, segments, "halves")


def proposals(*columns: tuple[int, int], objectness: list[float] | None = None) -> MaskProposals:
    """A mask for each range of columns, of 12; at a quarter of the image's size."""
    masks = torch.full((1, len(columns), 8, 12), -9.0)
    for index, (first, last) in enumerate(columns):
        masks[0, index, :, first:last] = 9.0
    likely = torch.tensor(objectness if objectness is not None else [3.0] * len(columns))
    classes = torch.stack([likely, torch.zeros_like(likely)], dim=-1)[None]
    return MaskProposals(masks, torch.zeros(1, len(columns), 0), classes)


def proposed_view(
    sample: PanopticSample, view: View, shown: MaskProposals, classifier: FisaClassifier, config: FisaLossConfig
) -> ProposedView:
    raw = raw_view(sample, view, to_levels(likeliest(classifier, shown)))
    return proposed_views([raw], config, NO_CATEGORY, torch.device("cpu"))[0]


def test_several_proposals_may_fit_one_segment_and_none_a_crowd(classifier: FisaClassifier) -> None:
    shown = proposals((0, 6), (0, 5), (6, 12))
    kept = proposed_view(two_halves(), SAME, shown, classifier, FisaLossConfig())
    assert kept.categories.tolist() == [4, 4] and kept.masks.shape == kept.truth.shape == (2, 8, 12)
    assert (kept.truth[:, :, :6] == 1).all() and (kept.truth[:, :, 6:] == 0).all()
    weighted = proposed_view(two_halves(), SAME, shown, classifier, FisaLossConfig(none_weight=0.1))
    assert weighted.categories.tolist() == [4, 4, NO_CATEGORY] and not weighted.truth[2].any()


def test_the_likeliest_proposals_are_read(classifier: FisaClassifier) -> None:
    shown = proposals((0, 5), (0, 6), (0, 6), (0, 6), objectness=[-5.0, 1.0, 2.0, 3.0])
    kept = proposed_view(two_halves(), SAME, shown, classifier, FisaLossConfig())
    assert len(kept.categories) == 3 and ((kept.masks > 0).sum(dim=(1, 2)) == 48).all()


def test_a_view_moves_proposals_and_drops_what_it_cuts_off(classifier: FisaClassifier) -> None:
    mirrored = View((32, 48), 0, 0, (32, 24), flipped=True)  # the right half, mirrored
    shown = proposals((0, 6), (6, 12))
    kept = proposed_view(two_halves(), mirrored, shown, classifier, FisaLossConfig(none_weight=1.0))
    assert kept.categories.tolist() == [NO_CATEGORY] and (kept.masks > 0).all()


def test_no_proposal_at_all_costs_nothing_and_breaks_nothing(classifier: FisaClassifier) -> None:
    kept = proposed_view(two_halves(), SAME, proposals(), classifier, FisaLossConfig())
    assert kept.masks.shape == (0, 8, 12) and kept.categories.shape == (0,)
    masks, is_mask = pad_masks([kept.masks, kept.masks])
    assert masks.shape == (2, 1, 8, 12) and not is_mask.any() and (masks < 0).all()


@pytest.mark.parametrize("none_weight", [0.0, 0.5])
def test_all_samples_at_once_are_what_each_is_by_itself(none_weight: float) -> None:
    """As the definition has it, step by step: the view's segments, their shares of cells, the masks that show, IoUs."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    config = FisaLossConfig(min_iou=0.2, none_weight=none_weight)
    raw, wanted, best = [], [], []
    for index, size in enumerate(((40, 60), (30, 20), (30, 20))):
        ids = (rng.integers(1, 5, size=(size[0] // 10, size[1] // 10)) * 70_000).repeat(10, 0).repeat(10, 1)
        segments = tuple(
            SegmentLabel(place * 70_000, place, True, is_crowd=place == 2, area=1, declared_area=1)
            for place in (3, 1, 2)  # 4 is listed nowhere
        )
        image = rng.integers(0, 256, size=(*size, 3), dtype=np.uint8)
        sample = PanopticSample(image, ids.astype(np.int32), segments, str(index))
        view = draw_jitter(size, JitterConfig((32, 48), scale=(0.5, 2.0)), rng)
        masks = torch.nn.functional.interpolate(
            4 * torch.randn(1, 5 + index, 4, 5, generator=generator), size=(10, 15), mode="bilinear"
        )[0]
        raw.append(raw_view(sample, view, to_levels(masks)))
        shown = segmented_view(sample, view)
        moved = view.of_masks(to_logits(to_levels(masks)), 4)
        moved = moved[(moved >= 0).flatten(1).any(dim=1)]
        truth = soft_masks(shown.segment_ids, shown.ids, moved.shape[-2:])
        wanted.append(assign(moved, truth, shown.categories, NO_CATEGORY, config))
        best.append(max(overlaps(moved, truth)[0].tolist()))
        assert torch.equal(pooled_masks(raw[-1].segments, 2, 4).sum(dim=0), truth.sum(dim=0))
    found = proposed_views(raw, config, NO_CATEGORY, torch.device("cpu"))
    for one, parts in zip(found, wanted, strict=True):
        for mine, true in zip((one.masks, one.truth, one.categories), parts, strict=True):
            assert torch.equal(mine, true)
        assert one.fits == (parts[2] < NO_CATEGORY).sum()
    assert [one.best for one in found] == best and sum(one.fits for one in found) > 3
    assert not proposed_views([], config, NO_CATEGORY, torch.device("cpu"))


def test_more_segments_than_a_short_integer_counts(classifier: FisaClassifier) -> None:
    segments = tuple(SegmentLabel(id, 4, True, False, 1, 1) for id in range(1, 1 << 15))
    ids = np.full((32, 48), segments[-1].id, dtype=np.int32)
    raw = raw_view(PanopticSample(np.zeros((32, 48, 3), np.uint8), ids, segments, "many"), SAME, torch.zeros(0, 8, 12))
    assert (raw.segments == len(segments)).all()


def test_padding_keeps_every_mask_in_its_image() -> None:
    groups = [torch.full((2, 4, 4), 1.0), torch.full((0, 4, 4), 2.0), torch.full((3, 4, 4), 3.0)]
    masks, is_mask = pad_masks(groups)
    assert masks.shape == (3, 3, 4, 4) and is_mask.sum(dim=1).tolist() == [2, 0, 3]
    assert torch.equal(masks[is_mask], torch.cat(groups))


class Halves(PanopticDataset):
    """Images of two halves; some are damaged."""

    def __init__(self, count: int, damaged: set[int]) -> None:
        super().__init__("halves", Path("nowhere"), "train", dataset_info("cityscapes_panoptic").categories())
        self.count, self.damaged = count, damaged

    def __len__(self) -> int:
        return self.count

    def name_of(self, index: int) -> str:
        return f"image{index}"

    def __getitem__(self, index: int) -> PanopticSample:
        if index in self.damaged:
            raise DatasetError(f"image{index} is torn")
        return replace(two_halves(), name=self.name_of(index))


@pytest.mark.parametrize("damaged", [set(), {0}, {1, 2, 5}, set(range(8)) - {3}])
def test_all_that_is_shown_has_proposals_before_the_training(tmp_path: Path, damaged: set[int]) -> None:
    """Those whose turn comes in a run that is shorter than an epoch, and no more than what damaged ones make needed."""
    model, classifier = scene_model(view="image", input_size=64)
    loop = LoopConfig(steps=2, batch_size=2, learning_rate=1e-3)
    loss = FisaLossConfig(min_iou=0.0, none_weight=1.0)
    run = Run(None, tmp_path, Engine("cpu"))
    jitter = JitterConfig((32, 48), scale=(1.0, 1.0))
    views = JitteredViews(model, classifier, Halves(8, damaged), PanopticData(workers=2), jitter, loop, loss, run)
    kept = list((tmp_path / "proposals").rglob("*.npz"))
    assert len(kept) <= 4 and (damaged or len(kept) == 4)
    try:
        for step in range(loop.steps):
            batch = views.batch(step, range(2))
            assert batch.masks.shape[0] == 2 and len(batch.categories) == batch.is_mask.sum() == len(batch.truth)
            assert batch.views.windows is None and not batch.text.vectors.is_inference()
    finally:
        views.close()
    assert list((tmp_path / "proposals").rglob("*.npz")) == kept


class Worded(SquareProposer):
    """Squares that words take part in: it keeps what it was asked under."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Vocabulary] = []

    def prepare(self, text: TextEmbeddings) -> TextEmbeddings:
        return text

    def forward(self, pixels: torch.Tensor, words: TextEmbeddings) -> MaskProposals:
        self.asked.append(words.vocabulary)
        logits = torch.zeros(len(pixels), 4, len(words.vocabulary.categories) + 1)
        return replace(super().forward(pixels, None), word_logits=logits)


def test_proposals_that_words_guide_are_kept_by_the_words_that_fisa_learns(tmp_path: Path) -> None:
    model, classifier = scene_model(view="image", input_size=64)
    model.proposer = Worded()
    loop, run = LoopConfig(steps=1, batch_size=2, learning_rate=1e-3), Run(None, tmp_path, Engine("cpu"))
    loss, jitter = FisaLossConfig(min_iou=0.0, none_weight=1.0), JitterConfig((32, 48), scale=(1.0, 1.0))
    keys = []
    for count in (19, 18, 19):
        dataset = Halves(2, set())
        dataset.categories = dataset.categories[:count]
        views = JitteredViews(model, classifier, dataset, PanopticData(workers=2), jitter, loop, loss, run)
        try:
            assert views.batch(0, range(2)).text.vocabulary == dataset.vocabulary()
        finally:
            views.close()
        keys.append(sorted(json.loads(path.read_text())["words"] for path in tmp_path.rglob("key.json")))
        assert words_hash(dataset.vocabulary()) in keys[-1]
    assert [len(words) for words in keys] == [1, 2, 2]
    assert [len(vocabulary.categories) for vocabulary in model.proposer.asked] == [19, 19, 18, 18]  # each image once


def test_damaged_images_end_the_run_before_it_begins_when_asked(tmp_path: Path) -> None:
    model, classifier = scene_model(view="image", input_size=64)
    loop, run = LoopConfig(steps=9, batch_size=2, learning_rate=1e-3), Run(None, tmp_path, Engine("cpu"))
    data = PanopticData(workers=2, on_error="stop")
    with pytest.raises(DatasetError, match="image5 is torn"):
        JitteredViews(model, classifier, Halves(8, {5}), data, JitterConfig((32, 48)), loop, FisaLossConfig(), run)


def test_data_that_no_proposal_fits_are_refused_after_a_hundred_images(tmp_path: Path) -> None:
    model, classifier = scene_model(view="image", input_size=64)
    loop, run = LoopConfig(steps=60, batch_size=2, learning_rate=1e-3), Run(None, tmp_path, Engine("cpu"))
    loss, jitter = FisaLossConfig(min_iou=0.9), JitterConfig((32, 48), scale=(1.0, 1.0))
    views = JitteredViews(model, classifier, Halves(2, set()), PanopticData(workers=1), jitter, loop, loss, run)
    task = FisaTask(classifier, views, loss, "fisa")
    try:
        assert not task.counts(10, range(2)).any()
        task.losses(10, range(1), torch.zeros(2, 2))  # where the session began
        task.losses(58, range(2), torch.zeros(2, 2))
        message = (
            r"loss.min_iou is 0.9, and the largest IoU of any proposal in 100 images is 0\.[1-9]\d*; lower min_iou"
        )
        with pytest.raises(ConfigError, match=message):
            task.losses(59, range(2), torch.zeros(2, 2))
        task.losses(59, range(2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # another process has one
        task.losses(59, range(2), torch.zeros(2, 2))
    finally:
        views.close()


def test_the_map_shows_the_most_probable_query_where_a_mask_is() -> None:
    masks = torch.full((3, 2, 2), -9.0)
    masks[0, :, 0] = 9.0  # left
    masks[1, 0] = 9.0  # above, more confident
    masks[2] = 9.0  # everywhere, but nothing
    classes = torch.tensor([[1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 9.0]])
    assert label_map(masks, classes, (2, 2)).tolist() == [[2, 2], [1, 0]]
    assert not label_map(masks[:0], classes[:0], (4, 4)).any()
    assert not label_map(masks[2:], classes[2:], (4, 4)).any()


def test_pictures_take_ids_of_any_size() -> None:
    image = torch.full((3, 4, 5), 100, dtype=torch.uint8)
    wanted = torch.tensor([[0, 16_000_000, 7, 7, 7]] * 4, dtype=torch.int32)
    picture = compare_segments(image, wanted, torch.zeros(4, 5, dtype=torch.int32))
    assert picture.shape == (4, 15, 3) and picture.dtype == np.uint8
    assert (picture[:, :5] == 100).all() and (picture[:, 10:] == 100).all() and (picture[:, 5:10] != 100).any()


def test_pictures_of_names_show_the_smaller_mask_on_top() -> None:
    image = torch.full((3, 4, 6), 100, dtype=torch.uint8)
    masks = torch.full((2, 4, 6), -9.0)
    masks[0, :, :4], masks[1, :, :2] = 9.0, 9.0
    picture = compare_names(image, masks, ["cup", "floor"], ["cup", "cup"], scale=2)
    assert picture.shape == (8, 24, 3) and picture.dtype == np.uint8
    assert (picture[:, 8:12] == 100).all()  # no mask, no colour
    wanted, found = picture[:, :12], picture[:, 12:]
    assert (wanted[:, 5:8] == found[:, 5:8]).all() and (wanted[:, :3] != found[:, :3]).any()
    assert (compare_names(image, masks[:0], [], []) == 100).all()
