"""The whole way from weights to a panoptic map, against transformers' model and post-processing.

Where the rules of `merge_panoptic` and `post_process_panoptic_segmentation` differ, and what the tests do about it:

- Overlap: transformers compares the pixels where a query is the strongest, even those outside its own mask, with the
  mask's area; the merge counts only pixels inside. A query whose two ratios lie on both sides of the threshold is kept
  by one and dropped by the other. The tests assert that their images have no such query.
- At the threshold itself transformers drops and the merge keeps; random weights do not hit it.
- "No object": transformers drops a query whose best class it is, the merge compares the best category's score alone.
  From a threshold of 0.5 on that is the same.
- A stuff segment's score is its first query's there, its highest query's here.
- Images that do not fill the input: transformers resizes logits twice (to the input, then cut to the image), the merge
  once; the tests use images of the input's size.
- Numbers of segments: in order of queries there, by area here; compared up to renumbering.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import EomtImageProcessor

from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.proposals.eomt.checkpoints import load_eomt
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

NAMES = ("cup", "mug", "floor", "wall", "sky")
STUFF = [2, 3, 4]
SIDE = 64


def make_confident(model):
    """Random weights never score above 0.8 and leave masks at a half; larger heads do not."""
    with torch.no_grad():
        model.class_predictor.weight.mul_(60)
        model.mask_head.fc3.weight.mul_(200)


def straddlers(mask_logits, class_logits, config):
    """Queries that the two rules of overlap judge differently."""
    scores, labels = class_logits.softmax(-1).max(-1)
    kept = (labels < len(NAMES)) & (scores > config.object_threshold)
    masks = torch.nn.functional.interpolate(mask_logits[None], size=(SIDE, SIDE), mode="bilinear")[0][kept].sigmoid()
    if not len(masks):
        return 0
    winner = (scores[kept][:, None, None] * masks).argmax(0)
    count = 0
    for query, mask in enumerate(masks):
        strongest, inside = winner == query, mask >= config.mask_threshold
        area = int(inside.sum())
        ratios = [int(strongest.sum()), int((strongest & inside).sum())]
        judged = {ratio > config.overlap_threshold * area for ratio in ratios}
        count += area > 0 and ratios[1] > 0 and len(judged) > 1
    return count


@torch.no_grad()
@pytest.mark.parametrize("layout", ["tue-mps", "transformers"])
def test_panoptic_maps_equal_transformers(tmp_path, make_reference, layout):
    reference = make_reference("large", num_queries=40)
    make_confident(reference.model)
    model = load_eomt(str(reference.write(tmp_path, layout))).model
    images = torch.randn(2, 3, SIDE, SIDE)
    outputs, proposals = reference.model(pixel_values=images), model(images)
    vocabulary = Vocabulary.build([CategorySpec(name, is_thing=index not in STUFF) for index, name in enumerate(NAMES)])
    rng = np.random.default_rng(0)
    compared, segments, dropped = 0, 0, 0
    for trial in range(60):
        # Some of the queries, so that masks overlap differently in every trial.
        queries = torch.from_numpy(rng.choice(40, rng.integers(1, 25), replace=False))
        image, overlap = trial % 2, (0.0, 0.5, 0.8)[trial % 3]
        config = MergeConfig(object_threshold=0.8, overlap_threshold=overlap, mask_threshold=0.5, min_area=1)
        masks, classes = proposals.mask_logits[image, queries], proposals.class_logits[image, queries]
        if straddlers(masks, classes, config):
            continue
        ours = merge_panoptic(masks, classes, vocabulary, (SIDE, SIDE), config)
        [theirs] = EomtImageProcessor().post_process_panoptic_segmentation(
            SimpleNamespace(
                masks_queries_logits=outputs.masks_queries_logits[image : image + 1, queries],
                class_queries_logits=outputs.class_queries_logits[image : image + 1, queries],
            ),
            target_sizes=[(SIDE, SIDE)],
            threshold=0.8,
            overlap_mask_area_threshold=overlap,
            stuff_classes=STUFF,
            size={"shortest_edge": SIDE, "longest_edge": SIDE},
        )
        their_map, our_map = theirs["segmentation"].numpy().astype(int), ours.segment_ids.astype(int)
        assert np.array_equal(their_map < 0, our_map == 0)
        pairs = set(zip(their_map[their_map >= 0].tolist(), our_map[our_map > 0].tolist(), strict=True))
        by_id = {segment.id: segment for segment in ours.segments}
        info_of = {info["id"]: info for info in theirs["segments_info"]}
        assert len(pairs) == len(by_id) == len(info_of)  # one to one
        for their_id, our_id in pairs:
            info, segment = info_of[their_id], by_id[our_id]
            assert vocabulary.categories[info["label_id"]].name == segment.label
            if segment.is_thing:
                assert info["score"] == pytest.approx(segment.score, abs=1e-4)
        compared += 1
        segments += len(pairs)
        dropped += bool((our_map == 0).any())
    assert compared >= 25 and segments >= 2 * compared and dropped >= 5
