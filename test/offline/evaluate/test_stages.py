"""The steps between a segmenter's output and an image's counts, each by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.metrics.overlaps import mask_overlaps
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.types import NO_CATEGORY, MaskProposals
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.data.types import IGNORE, PanopticSample, SegmentLabel, SemanticSample
from ovseg_ros.offline.evaluate import oracle
from ovseg_ros.offline.evaluate.average_precision import average_precision
from ovseg_ros.offline.evaluate.instances import Instance, detected_instances, true_instances
from ovseg_ros.offline.evaluate.measure import Evaluator, semantic_map
from ovseg_ros.offline.evaluate.oracle import named_rightly, true_classes, true_proposals
from ovseg_ros.offline.evaluate.record import ImageRecord
from ovseg_ros.offline.evaluate.truth import truth_of

WORDS = Vocabulary.build(
    [
        CategorySpec("cup"),
        CategorySpec("ball"),
        CategorySpec("wall", is_thing=False),
        CategorySpec("hand", negative=True),
    ]
)


def rows(*probabilities):
    """Class logits whose softmax is `probabilities`."""
    return torch.tensor(probabilities).clamp(min=1e-12).log()


def panoptic(ids, segments, name="a"):
    ids = np.array(ids, dtype=np.int32)
    return PanopticSample(np.zeros((*ids.shape, 3), np.uint8), ids, tuple(segments), name)


def label(identity, category, *, crowd=False, area=1, thing=True):
    return SegmentLabel(identity, category, thing, crowd, area, area)


def test_semantic_scores_add_up_over_queries_and_no_object_is_no_category():
    masks = torch.full((3, 1, 2), 20.0)
    scores = rows([0.4, 0.0, 0.0, 0.0, 0.6], [0.0, 0.3, 0.0, 0.0, 0.7], [0.0, 0.3, 0.0, 0.0, 0.7])
    assert semantic_map(masks, scores, WORDS, (1, 2)).tolist() == [[1, 1]]


def test_semantic_scores_are_resized_before_the_best_is_taken():
    generator = torch.Generator().manual_seed(0)
    masks, scores = torch.randn(5, 4, 6, generator=generator), torch.randn(5, 5, generator=generator)
    upsampled = F.interpolate(masks[None], size=(37, 50), mode="bilinear", align_corners=False)[0].sigmoid()
    by_class = torch.einsum("qk,qhw->khw", scores.softmax(-1)[:, :4], upsampled)
    expected = by_class.argmax(0).numpy().astype(np.uint16)
    expected[expected == 3] = NO_CATEGORY  # the negative competes and is not published
    assert np.array_equal(semantic_map(masks, scores, WORDS, (37, 50)), expected)


def test_without_scores_every_pixel_is_without_category():
    nothing = semantic_map(torch.zeros(0, 2, 2), torch.zeros(0, 5), WORDS, (3, 4))
    assert (nothing == NO_CATEGORY).all() and nothing.shape == (3, 4)
    impossible = torch.full((2, 5), -1e4)
    impossible[:, -1] = 0
    assert (semantic_map(torch.ones(2, 2, 2), impossible, WORDS, (2, 2)) == NO_CATEGORY).all()
    assert (semantic_map(torch.ones(1, 2, 2), torch.full((1, 5), math.nan), WORDS, (2, 2)) == NO_CATEGORY).all()


def test_detections_are_pairs_of_query_and_thing_scored_by_class_and_mask():
    masks = torch.tensor([[[2.0, -2.0]], [[-1.0, -1.0]], [[3.0, 3.0]]])
    scores = rows([0.5, 0.3, 0.0, 0.0, 0.2], [0.9, 0.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.7, 0.3, 0.0])
    found = detected_instances(masks, scores, WORDS, (1, 2))
    inside = 1 / (1 + math.exp(-2))
    assert [(i.category, pytest.approx(i.score, abs=1e-5)) for i in found if i.score > 1e-6] == [
        (0, 0.5 * inside),
        (1, 0.3 * inside),
    ]
    decoded = coco_mask.decode({"size": [1, 2], "counts": found[0].rle})
    assert decoded.tolist() == [[1, 0]]
    assert detected_instances(torch.zeros(0, 2, 2), torch.zeros(0, 5), WORDS, (2, 2)) == ()


def test_the_hundred_likeliest_are_kept():
    scores = torch.randn(90, 5, generator=torch.Generator().manual_seed(1))
    found = detected_instances(torch.ones(90, 2, 2), scores, WORDS, (2, 2))
    kept = scores.softmax(-1)[:, :4].flatten().sort(descending=True).values[99]
    things = (scores.softmax(-1)[:, :2] >= kept).sum()
    assert len(found) == things


def test_truth_of_a_panoptic_sample():
    sample = panoptic([[0, 70000, 70000, 5]], [label(70000, 1, area=9), label(5, 0, crowd=True), label(8, 2, area=0)])
    truth = truth_of(sample)
    assert truth.labels.tolist() == [[NO_CATEGORY, 1, 1, 0]]
    assert truth.without_crowd().tolist() == [[0, 70000, 70000, 0]]
    assert dict(truth.areas) == {70000: 9, 5: 1, 8: 0} and list(truth.categories) == [70000, 5, 8]
    assert [(i.category, i.is_crowd) for i in true_instances(truth, WORDS)] == [(1, False), (0, True)]
    stuff = Vocabulary.build([CategorySpec(name, is_thing=False) for name in ("wall", "floor", "sky")])
    assert true_instances(truth, stuff) == ()


def test_truth_of_a_semantic_sample():
    labels = np.array([[2, 2, IGNORE]], dtype=np.int32)
    truth = truth_of(SemanticSample(np.zeros((1, 3, 3), np.uint8), labels, "a"))
    assert truth.segment_ids.tolist() == [[3, 3, 0]] and truth.categories == {3: 2} and not truth.is_panoptic
    assert truth.labels.tolist() == [[2, 2, NO_CATEGORY]]


def test_an_annotation_of_another_size_is_refused():
    sample = PanopticSample(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.int32), (), "kitchen")
    with pytest.raises(DatasetError, match=r"kitchen is \(5, 4\).*\(4, 5\)"):
        truth_of(sample)


def test_without_names_every_crowd_region_forgives():
    crowds = [label(1, 0, crowd=True), label(2, 1, crowd=True), label(3, 2)]
    truth = truth_of(panoptic([[1, 1, 2, 2, 3, 3]], crowds)).without_names()
    quality = PanopticQuality()
    ids = np.array([[1, 1, 2, 2, 3, 3]])  # each crowd region as one thing
    quality.add(ids, dict.fromkeys((1, 2, 3), 0), truth.segment_ids, truth.categories, truth.crowd_ids)
    assert quality.counts() == ((0, 1, 0, 0, 1.0),)


def test_true_proposals_leave_out_crowd_and_what_has_no_pixel():
    truth = truth_of(panoptic([[1, 1, 2, 3]], [label(1, 2), label(2, 0), label(3, 1, crowd=True), label(9, 1, area=0)]))
    own = MaskProposals(torch.zeros(1, 7, 1, 1), torch.zeros(1, 7, 6), torch.zeros(1, 7, 4))
    proposals = true_proposals(truth, own)
    assert (proposals.mask_logits[0] > 0).int().tolist() == [[[1, 1, 0, 0]], [[0, 0, 1, 0]]]
    assert proposals.query_embeddings.shape == (1, 2, 6) and proposals.class_logits.shape == (1, 2, 4)
    assert (proposals.class_logits.softmax(-1)[..., -1] < 1e-6).all()
    without = true_proposals(truth, MaskProposals(torch.zeros(1, 0, 1, 1), torch.zeros(1, 0, 6)))
    assert without.class_logits is None and without.mask_logits.shape[1] == 2
    right, wrong = [0.0, 0.0, 1.0, 0.0, 9.0], [0.0, 1.0, 0.0, 0.0, 0.0]
    assert named_rightly(truth, torch.tensor([right, wrong])) == (2, 1)
    assert named_rightly(truth, torch.tensor([right, [1.0, 0.0, 0.0, 0.0, 0.0]])) == (2, 2)


def test_true_classes_follow_the_best_iou():
    truth = truth_of(panoptic([[4, 4, 4, 7, 7, 0]], [label(7, 1), label(4, 2)]))
    masks = np.array(
        [[[1, 1, 1, 0, 0, 0]], [[0, 1, 1, 0, 0, 0]], [[0, 0, 1, 1, 0, 0]], [[0, 0, 0, 1, 1, 1]]], dtype=bool
    )
    logits = true_classes(truth, mask_overlaps(masks, truth.segment_ids), 4)
    probabilities = logits.softmax(-1)[0].numpy()
    assert probabilities[0] == pytest.approx([0, 0, 1, 0, 0])
    assert probabilities[1] == pytest.approx([0, 0, 2 / 3, 0, 1 / 3])
    assert probabilities[2] == pytest.approx([0, 0, 0, 0, 1])  # best IoU 1/3
    assert probabilities[3] == pytest.approx([0, 1, 0, 0, 0])  # void does not count
    assert true_classes(truth, mask_overlaps([], truth.segment_ids), 4).shape == (1, 0, 5)


def code(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode()


def squares():
    left, right = np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.uint8)
    left[2:18, 2:18], right[2:18, 22:38] = 1, 1
    return code(left), code(right)


def test_average_precision_by_hand():
    left, right = squares()
    truth = (Instance(0, left), Instance(0, right))
    found = (Instance(0, left, 0.9), Instance(0, left, 0.8))  # one of two found, then a duplicate
    figures, per_category = average_precision(
        [ImageRecord("a", size=(20, 40), detections=found, instances=truth)], [0, 1]
    )
    # Precision is 1 up to a recall of 0.5: 51 of the 101 points.
    assert figures["ap"] == figures["ap50"] == pytest.approx(100 * 51 / 101)
    assert per_category == {0: figures["ap"]} and math.isnan(figures["ap_large"])


def test_average_precision_of_nothing():
    left, _ = squares()
    missed = ImageRecord("a", size=(20, 40), instances=(Instance(0, left),))
    assert average_precision([missed], [0])[0]["ap"] == 0.0
    invented = ImageRecord("a", size=(20, 40), detections=(Instance(0, left, 0.5),))
    assert math.isnan(average_precision([invented], [0])[0]["ap"])
    assert math.isnan(
        average_precision([ImageRecord("b", fault="broken"), ImageRecord("c", is_void=True)], [0])[0]["ap"]
    )


def test_average_precision_ignores_crowd_and_takes_hundreds_of_things():
    left, right = squares()
    records = [
        ImageRecord(
            f"{number:03d}",
            size=(20, 40),
            detections=(Instance(1, left, 0.9), Instance(1, right, 0.95)),
            instances=(Instance(1, left), Instance(1, right, is_crowd=True)),
        )
        for number in range(300)
    ]
    assert average_precision(records, [0, 1])[0]["ap"] == pytest.approx(100.0)


def test_large_images_have_smaller_true_masks(monkeypatch):
    monkeypatch.setattr(oracle, "_MOST_MASK_ELEMENTS", 150)
    ids = np.repeat(np.repeat([[1, 2], [2, 1]], 10, axis=0), 10, axis=1)
    truth = truth_of(panoptic(ids, [label(1, 0), label(2, 1)]))
    proposals = true_proposals(truth, MaskProposals(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 6)))
    assert proposals.mask_logits.shape == (1, 2, 6, 6)
    upsampled = F.interpolate(proposals.mask_logits, size=(20, 20), mode="bilinear")[0] > 0
    assert ((upsampled[0].numpy() == (ids == 1)).mean()) > 0.9 and not (upsampled[0] & upsampled[1]).any()


@pytest.mark.parametrize("which", ["", "masks", "classes"])
def test_segments_without_any_pixel_are_missed_even_in_a_void_image(painted, which):
    segmenter = painted.segmenter()
    text = segmenter.prepare(Vocabulary.build([CategorySpec(f"word {i}") for i in range(6)]))
    sample = panoptic(np.zeros(painted.size), [label(3, 1, area=0)])
    record = Evaluator(segmenter, text, which).measure(truth_of(sample))
    assert record.is_counted and record.quality == ((1, 0, 0, 1, 0.0),) and record.recall == (0, 0, 0, 0)
    assert Evaluator(segmenter, text, which).measure(truth_of(panoptic(np.zeros(painted.size), []))).is_void
