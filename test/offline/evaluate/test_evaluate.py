"""`ovseg evaluate`: known results give known figures; the command writes what it says."""

import json
import math

import numpy as np
import pytest
import torch

from ovseg_ros.core.types import NO_CATEGORY, MaskProposals, PanopticResult, Segment, TextEmbeddings
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, write_dataset
from ovseg_ros.offline.evaluate import tabletop as evaluate
from ovseg_ros.offline.evaluate.tabletop import Evaluation, evaluate_frames, proposed_masks
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN
from ovseg_ros.sim.simulator import Frame, GroundTruthSegment

SEEN_THING = sorted(SEEN - {"table", "floor", "wall", "mat"})[0]
UNSEEN_THING = sorted(UNSEEN)[0]


def make_frame(ids, labels, image_seed=0):
    """A frame whose rows are split among segments 1, 2, ... as `ids` says."""
    ids = np.repeat(np.array([ids], dtype=np.uint16), 4, axis=0)
    image = np.random.default_rng(image_seed).integers(0, 256, (*ids.shape, 3), dtype=np.uint8)
    segments = tuple(
        GroundTruthSegment(i, label, label not in ("table", "wall")) for i, label in enumerate(labels, start=1)
    )
    return Frame(image, np.ones(ids.shape, dtype=np.float32), ids, segments, np.eye(3))


class Oracle:
    """Knows the truth of one frame, and swaps names as told."""

    device = torch.device("cpu")

    def __init__(self, frame, mistakes=None, known=None):
        self._frame, self._mistakes, self._known = frame, mistakes or {}, known

    def encode_vocabulary(self, vocabulary):
        count = len(vocabulary.categories)
        return TextEmbeddings(torch.zeros(count, 2), torch.arange(count), vocabulary)

    def propose(self, image):
        ids = torch.from_numpy(self._frame.segment_ids.astype(np.int64))
        present = torch.tensor([segment.id for segment in self._frame.segments])
        logits = torch.where(ids[None] == present[:, None, None], 5.0, -5.0)
        return MaskProposals(logits[None].float(), torch.zeros(1, len(present), 4))

    def segment(self, image, text):
        position = {spec.name: index for index, spec in enumerate(TABLETOP_SPECS)}
        category_ids = np.full(self._frame.segment_ids.shape, NO_CATEGORY, dtype=np.uint16)
        ids = np.zeros_like(self._frame.segment_ids)
        segments = []
        for truth in self._frame.segments:
            category = text.vocabulary.categories[position[self._mistakes.get(truth.label, truth.label)]]
            if self._known is not None and category.name not in self._known:
                continue
            mask = self._frame.segment_ids == truth.id
            ids[mask], category_ids[mask] = truth.id, category.id
            segments.append(
                Segment(truth.id, category.id, category.name, 0.9, category.is_thing, int(mask.sum()), (0, 0, 1, 1))
            )
        confidence = (ids > 0).astype(np.uint8)
        return PanopticResult(ids, category_ids, confidence, tuple(segments), text.vocabulary.version)


def evaluated(segmenter, frames, renamed=None):
    evaluation = Evaluation.of_names(TABLETOP_SPECS)
    evaluate_frames(segmenter, frames, evaluation, renamed or {})
    return evaluation.report()


def test_the_truth_scores_100_in_every_group():
    frame = make_frame([1, 1, 2, 2, 3, 0], [SEEN_THING, UNSEEN_THING, "table"])
    report = evaluated(Oracle(frame), [frame])
    for name, count in (("seen", 2), ("unseen", 1), ("things", 2), ("stuff", 1), ("all", 3)):
        assert (report[name]["pq"], report[name]["miou"], report[name]["categories"]) == (100.0, 100.0, count)
        assert report[name]["pq_ci95"] == [100.0, 100.0]
    assert report["mask_recall_50"] == report["segment_recall_50"] == 100.0
    assert report["per_category"][UNSEEN_THING]["tp"] == 1 and not report["per_category"][UNSEEN_THING]["seen"]


def test_an_unseen_object_named_as_a_seen_one_costs_both_groups():
    frame = make_frame([1, 1, 2, 2], [SEEN_THING, UNSEEN_THING])
    report = evaluated(Oracle(frame, mistakes={UNSEEN_THING: SEEN_THING}), [frame])
    assert report["unseen"]["pq"] == 0.0
    assert report["seen"]["rq"] == pytest.approx(100 / 1.5)
    assert report["mask_recall_50"] == 100.0


def test_renamed_vocabularies_are_scored_against_the_same_truth():
    frame = make_frame([1, 1, 2, 2], [SEEN_THING, UNSEEN_THING])
    names = [f"thing {index}" for index in range(len(TABLETOP_SPECS))]
    renamed = Evaluation.of_names(TABLETOP_SPECS, names)
    known = {names[[spec.name for spec in TABLETOP_SPECS].index(SEEN_THING)], SEEN_THING, UNSEEN_THING}
    report = evaluated(Oracle(frame, known=known), [frame], {"synonyms": renamed})
    assert report["all"]["pq"] == 100.0
    assert renamed.group_report(SEEN)["pq"] == 100.0
    assert renamed.group_report(UNSEEN)["pq"] == 0.0


def test_proposals_that_the_generator_takes_for_nothing_do_not_count():
    mask_logits = torch.full((1, 2, 2, 3), 5.0)
    class_logits = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 0.0, 3.0]]])
    proposals = MaskProposals(mask_logits, torch.zeros(1, 2, 4), class_logits)
    assert proposed_masks(proposals, (8, 12)).shape == (1, 8, 12)
    assert proposed_masks(MaskProposals(mask_logits, torch.zeros(1, 2, 4)), (8, 12)).all()
    nothing = MaskProposals(mask_logits, torch.zeros(1, 2, 4), torch.tensor([[[0.0, 0.0, 9.0]] * 2]))
    assert proposed_masks(nothing, (8, 12)).shape == (0, 8, 12)


def test_categories_that_never_occur_are_null_in_json():
    frame = make_frame([1, 1], [SEEN_THING])
    report = evaluated(Oracle(frame), [frame])
    assert math.isnan(report["unseen"]["pq"])
    assert evaluate._without_nan({"a": [report["unseen"]["pq"], 1.23456]}) == {"a": [None, 1.2346]}


def test_the_command_on_a_data_set_with_random_weights(tmp_path, monkeypatch, tiny_segmenter, capsys):
    write_dataset(DatasetConfig("val", count=2, width=64, height=48), tmp_path / "data", workers=1)
    monkeypatch.setattr(evaluate, "build_segmenter", lambda preset, device: tiny_segmenter)
    (tmp_path / "weights.bin").write_bytes(b"abc")
    monkeypatch.setattr(evaluate, "checkpoint_paths", lambda preset: (tmp_path / "weights.bin",))
    json_path = tmp_path / "out" / "figures.json"
    arguments = ["evaluate", "--dataset", str(tmp_path / "data"), "--synonyms", "--json", str(json_path)]
    assert main(arguments) == 0
    report = json.loads(json_path.read_text())
    assert (report["split"], report["images"], report["size"]) == ("val", 2, [64, 48])
    assert report["checkpoints"] == {"weights.bin": evaluate.sha256_of(tmp_path / "weights.bin")}
    for group in ("seen", "unseen"):
        assert {"pq", "sq", "rq"} <= report[group].keys()
    assert 0 <= report["mask_recall_50"] <= 100
    for key in ("synonyms", "synonyms_and_colors"):
        assert {"seen", "unseen", "drop"} <= report[key].keys()
    assert {"red sphere", "desk"} <= set(report["synonyms"]["names"])
    assert "crimson sphere" in report["synonyms_and_colors"]["names"]
    table = capsys.readouterr().out
    assert "unseen" in table and "mask recall" in table
