"""The panoptic merge: cases small enough to check by hand, then properties that hold for any input."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_support import CUP, HAND, PLATE, VOCABULARY, WALL, cases, classes

from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
CONFIG = MergeConfig(object_threshold=0.4, overlap_threshold=0.7, mask_threshold=0.5, min_area=1)


def masks(*drawings: str, on: float = 0.9) -> torch.Tensor:
    """Each drawing is rows of '#' (mask probability `on`) and '.' (1 - `on`), separated by spaces: (Q, h, w) logits."""
    logit = math.log(on / (1 - on))
    rows = [[[logit if mark == "#" else -logit for mark in row] for row in drawing.split()] for drawing in drawings]
    return torch.tensor(rows)


def merge(
    mask_logits: torch.Tensor,
    classification_logits: torch.Tensor,
    config: MergeConfig = CONFIG,
    size: tuple[int, int] = (4, 4),
    vocabulary: Vocabulary = VOCABULARY,
) -> PanopticResult:
    return merge_panoptic(mask_logits, classification_logits, vocabulary, size, config)


def drawn(result: PanopticResult) -> str:
    return " ".join("".join(str(value) for value in row) for row in result.segment_ids)


@pytest.mark.parametrize("device", DEVICES)
def test_two_things_and_void(device: str) -> None:
    result = merge(
        masks("##.. ##.. .... ....", ".... .... .### .###").to(device),
        classes((CUP, 0.8), (PLATE, 0.6)).to(device),
    )
    assert drawn(result) == "2200 2200 0111 0111"
    plate, cup = result.segments
    assert (plate.id, plate.label, plate.category_id, plate.area, plate.box) == (1, "plate", 1, 6, (1, 2, 3, 2))
    assert (cup.id, cup.label, cup.category_id, cup.area, cup.box) == (2, "cup", 0, 4, (0, 0, 2, 2))
    assert cup.is_thing
    assert cup.score == pytest.approx(0.8, abs=1e-5)
    assert result.confidence[0, 0] == round(255 * 0.8 * 0.9)
    assert result.confidence[0, 3] == 0
    assert result.category_ids[0].tolist() == [0, 0, NO_CATEGORY, NO_CATEGORY]
    assert result.vocabulary_version == 1


def test_no_queries_is_all_void() -> None:
    result = merge(torch.zeros(0, 2, 2), torch.zeros(0, 5), size=(3, 5))
    assert result.segments == ()
    assert result.segment_ids.shape == (3, 5)
    assert not result.segment_ids.any()
    assert (result.category_ids == NO_CATEGORY).all()
    assert not result.confidence.any()


@pytest.mark.parametrize("probability", [0.39, 0.0])
def test_queries_below_the_object_threshold_are_all_void(probability: float) -> None:
    assert merge(masks("#### #### #### ####"), classes((CUP, probability))).segments == ()


def test_object_threshold_is_exclusive() -> None:
    logits = torch.tensor([[0.0, -99.0, -99.0, -99.0, 0.0]])  # exactly one half
    for threshold, count in ((0.5, 0), (0.49, 1)):
        config = MergeConfig(object_threshold=threshold, min_area=1)
        assert len(merge(masks("#### #### #### ####"), logits, config).segments) == count


def test_masks_that_cover_nothing_are_all_void() -> None:
    result = merge(masks(".... .... .... ....", ".... .... .... ...."), classes((CUP, 0.9), (WALL, 0.9)))
    assert result.segments == ()
    assert not result.segment_ids.any()


def test_one_query_over_everything() -> None:
    result = merge(masks("#"), classes((WALL, 0.9)))
    assert drawn(result) == "1111 1111 1111 1111"
    assert result.segments[0].box == (0, 0, 4, 4)


def test_higher_product_wins_the_pixel() -> None:
    # Column 1: 0.9 x 0.9 beats 0.6 x 0.9. The plate keeps 8 of 12 = 0.67 of its mask.
    mask_logits = masks("##.. ##.. ##.. ##..", ".### .### .### .###")
    scores = classes((CUP, 0.9), (PLATE, 0.6))
    assert drawn(merge(mask_logits, scores, MergeConfig(overlap_threshold=0.6, min_area=1))) == "1122 1122 1122 1122"
    # At 0.7 it is dropped and its pixels are void: nobody inherits them.
    assert drawn(merge(mask_logits, scores)) == "1100 1100 1100 1100"


def test_a_rival_outside_its_own_mask_wins_the_pixel_for_nobody() -> None:
    # Below, the mask of the cup has only 0.45, but 0.9 x 0.45 beats 0.5 x 0.6: the plate loses these pixels to void.
    mask_logits = torch.cat([masks("#### #### .... ....", on=0.55), masks(".... .... #### ####", on=0.6)])
    result = merge(mask_logits, classes((CUP, 0.9), (PLATE, 0.5)))
    assert drawn(result) == "1111 1111 0000 0000"
    # 0.9 x 0.1 does not.
    mask_logits = torch.cat([masks("#### #### .... ....", on=0.9), masks(".... .... #### ####", on=0.6)])
    assert drawn(merge(mask_logits, classes((CUP, 0.9), (PLATE, 0.5)))) == "1111 1111 2222 2222"


def test_overlap_threshold_is_inclusive() -> None:
    # The plate keeps 2 of 4 pixels of its mask.
    mask_logits = masks("##.. .... .... ....", "#### .... .... ....")
    scores = classes((CUP, 0.9), (PLATE, 0.6))
    assert len(merge(mask_logits, scores, MergeConfig(overlap_threshold=0.5, min_area=1)).segments) == 2
    assert len(merge(mask_logits, scores, MergeConfig(overlap_threshold=0.51, min_area=1)).segments) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_the_first_of_equal_queries_wins(device: str) -> None:
    mask = "#### #### .... ...."
    result = merge(masks(mask, mask, mask).to(device), classes((CUP, 0.8), (PLATE, 0.8), (CUP, 0.8)).to(device))
    assert [segment.label for segment in result.segments] == ["cup"]
    assert result.segments[0].area == 8


def test_equal_areas_are_numbered_in_query_order() -> None:
    result = merge(masks(".... .... #### ....", "#### .... .... ...."), classes((PLATE, 0.5), (CUP, 0.9)))
    assert [segment.label for segment in result.segments] == ["plate", "cup"]


def test_stuff_joins_and_things_do_not() -> None:
    left, right = "#... #... #... #...", "...# ...# ...# ...#"
    joined = merge(masks(left, right), classes((WALL, 0.6), (WALL, 0.9)))
    assert drawn(joined) == "1001 1001 1001 1001"
    (wall,) = joined.segments
    assert (wall.area, wall.box, wall.is_thing) == (8, (0, 0, 4, 4), False)
    assert wall.score == pytest.approx(0.9, abs=1e-5)
    assert joined.confidence[0, 0] == round(255 * 0.6 * 0.9)
    apart = merge(masks(left, right), classes((CUP, 0.6), (CUP, 0.9)))
    assert drawn(apart) == "1002 1002 1002 1002"


def test_stuff_joins_without_its_dropped_queries() -> None:
    # The first wall query loses its mask to the cup; the second stands alone and keeps its own score.
    result = merge(
        masks("##.. ##.. .... ....", "##.. ##.. .... ....", ".... .... #### ####"),
        classes((WALL, 0.7), (CUP, 0.9), (WALL, 0.6)),
    )
    assert drawn(result) == "2200 2200 1111 1111"
    assert result.segments[0].score == pytest.approx(0.6, abs=1e-5)


def test_min_area_counts_joined_stuff() -> None:
    config = MergeConfig(min_area=8)
    left, right = "#... #... #... #...", "...# ...# ...# ...#"
    assert merge(masks(left, right), classes((WALL, 0.6), (WALL, 0.9)), config).segments[0].area == 8
    assert merge(masks(left, right), classes((CUP, 0.6), (CUP, 0.9)), config).segments == ()


def test_negatives_compete_but_are_not_published() -> None:
    mask_logits = masks("#### #### .... ....", "#### .... #### ####")
    result = merge(mask_logits, classes((HAND, 0.9), (CUP, 0.8)), MergeConfig(overlap_threshold=0.5, min_area=1))
    assert drawn(result) == "0000 0000 1111 1111"
    assert [segment.label for segment in result.segments] == ["cup"]
    assert not result.confidence[:2].any()


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 1), (0.75, 1), (0.85, 0)])
def test_category_threshold(threshold: float, count: int) -> None:
    vocabulary = Vocabulary.build([CategorySpec("cup", threshold=threshold), CategorySpec("plate")])
    result = merge(
        masks("#### #### #### ####"), classes((0, 0.8), vocabulary=vocabulary), vocabulary=vocabulary, size=(4, 4)
    )
    assert len(result.segments) == count


@pytest.mark.parametrize(("threshold", "count"), [(0.85, 1), (0.95, 0)])
def test_mask_threshold(threshold: float, count: int) -> None:
    config = MergeConfig(mask_threshold=threshold, min_area=1)
    assert len(merge(masks("##.. ##.. .... ....", on=0.9), classes((CUP, 0.9)), config).segments) == count


def test_no_object_has_a_share_but_cannot_win() -> None:
    logits = classes((CUP, 0.45))  # "no object" has 0.55
    assert [segment.label for segment in merge(masks("#### #### #### ####"), logits).segments] == ["cup"]


def test_category_ids_are_the_stable_ids() -> None:
    later = Vocabulary.build([CategorySpec("vase"), CategorySpec("plate")], previous=VOCABULARY)
    logits = classes((0, 0.9), vocabulary=later)
    result = merge(masks("#### #### #### ####"), logits, vocabulary=later)
    assert result.segments[0].category_id == 4
    assert (result.category_ids == 4).all()
    assert result.vocabulary_version == 2


def test_not_a_number_and_infinity_do_not_spread() -> None:
    mask_logits = masks("##.. ##.. .... ....", "..## ..## .... ....", "#### #### #### ####")
    mask_logits[0, 0, 0] = math.nan
    mask_logits[1, 0, 3] = math.inf
    mask_logits[1, 3] = -math.inf
    logits = classes((CUP, 0.9), (PLATE, 0.9), (WALL, 0.9))
    logits[2, 0] = math.nan
    result = merge(mask_logits, logits)
    assert drawn(result) == "0211 2211 0000 0000"
    assert result.confidence[0, 3] == round(255 * 0.9)


def test_from_a_mask_threshold_of_zero_on_every_pixel_is_inside_even_without_a_number() -> None:
    mask_logits = masks("##.. ##.. .... ....")
    mask_logits[0, :, 3] = math.nan
    result = merge(mask_logits, classes((CUP, 0.9)), MergeConfig(mask_threshold=0.0, min_area=1))
    assert drawn(result) == "1111 1111 1111 1111"


def test_half_precision_and_gradients_are_accepted() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        result = merge(masks("##.. ##.. .... ....").to(dtype).requires_grad_(), classes((CUP, 0.9)).to(dtype))
        assert drawn(result) == "1100 1100 0000 0000"


@pytest.mark.parametrize(
    ("mask_shape", "class_shape", "size", "message"),
    [
        ((2, 4), (2, 5), (4, 4), r"mask_logits must be \(Q, h, w\).*\(2, 4\)"),
        ((2, 0, 4), (2, 5), (4, 4), r"h and w >= 1"),
        ((2, 4, 4), (2, 4), (4, 4), r"\(2, 5\) for 4 categories; got \(2, 4\)"),
        ((2, 4, 4), (3, 5), (4, 4), r"got \(3, 5\)"),
        ((2, 4, 4), (2, 5), (0, 4), r"size must be .*got \(0, 4\)"),
    ],
)
def test_shapes_that_do_not_fit(
    mask_shape: tuple[int, ...], class_shape: tuple[int, ...], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merge(torch.zeros(mask_shape), torch.zeros(class_shape), size=size)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 9), (31, 17)])
@pytest.mark.parametrize("source", [(1, 1), (5, 4), (8, 12)])
def test_resizing_is_bilinear(source: tuple[int, int], size: tuple[int, int]) -> None:
    mask_logits = torch.randn(1, *source, generator=torch.Generator().manual_seed(0)) * 3
    result = merge(mask_logits, classes((CUP, 0.9)), size=size)
    expected = F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0, 0].sigmoid()
    confidence = torch.where(expected >= 0.5, expected * 0.9 * 255, 0).numpy()
    np.testing.assert_allclose(result.confidence.astype(float), confidence, atol=0.51)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_outputs_agree_with_each_other(
    case: tuple[torch.Tensor, torch.Tensor, tuple[int, int], MergeConfig],
) -> None:
    mask_logits, classification_logits, size, config = case
    result = merge_panoptic(mask_logits, classification_logits, VOCABULARY, size, config)
    ids, areas = np.unique(result.segment_ids, return_counts=True)
    count = dict(zip(ids.tolist(), areas.tolist(), strict=True))
    assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
    assert {segment.id for segment in result.segments} == set(count) - {0}
    assert sum(segment.area for segment in result.segments) + count.get(0, 0) == size[0] * size[1]
    assert [segment.area for segment in result.segments] == sorted((s.area for s in result.segments), reverse=True)
    for segment in result.segments:
        mask = result.segment_ids == segment.id
        rows, columns = np.nonzero(mask)
        assert segment.area == mask.sum() >= max(config.min_area, 1)
        x, y, width, height = segment.box
        assert (x, y, x + width - 1, y + height - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
        assert (result.category_ids[mask] == segment.category_id).all()
        assert segment.label != "hand"
        assert config.object_threshold < segment.score <= 1
    void = result.segment_ids == 0
    assert (result.category_ids[void] == NO_CATEGORY).all()
    assert not result.confidence[void].any()
    stuff = [segment.category_id for segment in result.segments if not segment.is_thing]
    assert len(stuff) == len(set(stuff))


@settings(deadline=None, max_examples=40)
@given(cases(), st.randoms(use_true_random=False))
def test_order_of_queries_changes_ids_at_most(case, random) -> None:  # type: ignore[no-untyped-def]
    mask_logits, classification_logits, size, config = case
    order = list(range(mask_logits.shape[0]))
    random.shuffle(order)
    before = merge_panoptic(mask_logits, classification_logits, VOCABULARY, size, config)
    after = merge_panoptic(mask_logits[order], classification_logits[order], VOCABULARY, size, config)

    def described(result: PanopticResult) -> set[tuple[object, ...]]:
        return {(s.category_id, s.score, s.area, s.box) for s in result.segments}

    assert described(after) == described(before)
    np.testing.assert_array_equal(after.category_ids, before.category_ids)
    np.testing.assert_array_equal(after.confidence, before.confidence)
    pairs = set(zip(before.segment_ids.ravel().tolist(), after.segment_ids.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(before.segment_ids)) == len(np.unique(after.segment_ids))


def test_embeddings_are_those_of_the_published_segments_in_their_order() -> None:
    """Query 0 is not kept, query 1 covers less than query 2; rows have unit length."""
    vocabulary = Vocabulary.build([CategorySpec("cup"), CategorySpec("ball")])
    masks = torch.full((3, 4, 8), -9.0)
    masks[0], masks[1, :, :2], masks[2, :, 2:] = 9.0, 9.0, 9.0
    scores = torch.tensor([[-9.0, -9.0, 9.0], [9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]])
    embeddings = torch.tensor([[1.0, 1.0], [3.0, 4.0], [0.0, 2.0]])
    config = MergeConfig(min_area=1)
    result = merge_panoptic(masks, scores, vocabulary, (4, 8), config, query_embeddings=embeddings)
    assert [segment.label for segment in result.segments] == ["ball", "cup"]
    np.testing.assert_allclose(result.embeddings, [[0.0, 1.0], [0.6, 0.8]], atol=1e-6)
    assert merge_panoptic(masks, scores, vocabulary, (4, 8), config).embeddings is None
    nothing = merge_panoptic(
        masks,
        torch.zeros_like(scores),
        vocabulary,
        (4, 8),
        MergeConfig(object_threshold=1.0),
        query_embeddings=embeddings,
    )
    assert nothing.embeddings.shape == (0, 2)  # as wide as ever: tracking takes another width for another model's
