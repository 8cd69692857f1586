"""`ovseg evaluate`: panoptic quality on the simulated tabletop, on seen and unseen categories.

One run segments every test image under the tabletop's whole vocabulary, so that a seen word may be confused with an
unseen one. PQ is then averaged over the seen categories and over the unseen ones.
"""

import math
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.metrics.mask_recall import MaskRecall
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.presets import checkpoint_paths, load_preset
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import NO_CATEGORY, MaskProposals, PanopticResult
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.data.files import sha256_of, write_json
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, TabletopDataset, render_frames
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN, held_out_synonym
from ovseg_ros.sim.simulator import Frame

BOOTSTRAP_SEED = 0
BOOTSTRAP_RESAMPLES = 1000


def evaluate_tabletop(
    *,
    preset: str,
    split: str = "test",
    images: int = 300,
    seed: int = 0,
    dataset: Path | None = None,
    synonyms: bool = False,
    device: str = "auto",
    json_path: Path | None = None,
) -> int:
    """Evaluate a preset, print a table and write the figures; see docs/offline.md for the JSON.

    Args:
        preset: name of a preset or path of its YAML.
        split, images, seed: which scenes to render; `dataset` overrides `split` and `seed` by its own.
        dataset: folder that `ovseg dataset tabletop` wrote; its first `images` images are read instead of rendered.
        synonyms: also replace every name by a held-out synonym.
        device: "auto", "cpu", "cuda" or "cuda:N".
        json_path: where the figures go; None for nowhere.

    Returns:
        The exit code, 0.

    Raises:
        OvsegError: the preset, its checkpoint, the split or the data set is wrong.
    """
    frames, facts = _open_frames(split, images, seed, dataset)
    segmenter = build_segmenter(preset, device)
    evaluation = Evaluation.of_names(TABLETOP_SPECS)
    evaluation.min_objectness = load_preset(preset).min_objectness
    renamed = {}
    if synonyms:
        for key, replace_color in (("synonyms", False), ("synonyms_and_colors", True)):
            renamed[key] = Evaluation.of_names(TABLETOP_SPECS, _held_out_names(replace_color=replace_color))
    evaluate_frames(segmenter, tqdm(frames, total=facts["images"], desc="evaluate", unit="image"), evaluation, renamed)
    report = {
        "preset": preset,
        "checkpoints": {path.name: sha256_of(path) for path in checkpoint_paths(preset)},
        "device": str(segmenter.device),
        "torch": torch.__version__,
        **facts,
        "bootstrap": {"level": 0.95, "resamples": BOOTSTRAP_RESAMPLES, "seed": BOOTSTRAP_SEED},
        **evaluation.report(),
    }
    for key, other in renamed.items():
        report[key] = _synonym_report(report, other)
    print_report(report)
    if json_path is not None:
        write_json(json_path, _without_nan(report))
        print(f"figures written to {json_path}", file=sys.stderr)
    return 0


@dataclass
class Evaluation:
    """Figures of one vocabulary, accumulated image by image.

    Attributes:
        vocabulary: what the segmenter is asked for.
        id_of_label: category id in `vocabulary` of each ground-truth label.
        is_thing: of each ground-truth label.
        min_objectness: proposals below it, which the classifier does not read, do not count for mask recall.
        seconds: duration of each call of `segment`.
    """

    vocabulary: Vocabulary
    id_of_label: Mapping[str, int]
    is_thing: Mapping[str, bool]
    quality: PanopticQuality = field(default_factory=PanopticQuality)
    mean_iou: MeanIoU = field(default_factory=lambda: MeanIoU(NO_CATEGORY))
    proposal_recall: MaskRecall = field(default_factory=MaskRecall)
    segment_recall: MaskRecall = field(default_factory=MaskRecall)
    min_objectness: float = 0.5
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def of_names(cls, specs: Sequence[CategorySpec], names: Sequence[str] | None = None) -> "Evaluation":
        """An evaluation that asks for `names` in place of the names in `specs`; None asks for the names themselves."""
        asked = list(specs) if names is None else [replace(s, name=n) for s, n in zip(specs, names, strict=True)]
        vocabulary = Vocabulary.build(asked)
        ids = [category.id for category in vocabulary.categories]
        return cls(
            vocabulary,
            {spec.name: category_id for spec, category_id in zip(specs, ids, strict=True)},
            {spec.name: spec.is_thing for spec in specs},
        )

    def add(self, result: PanopticResult, frame: Frame) -> None:
        """Add one image's result."""
        truth_categories = {segment.id: self.id_of_label[segment.label] for segment in frame.segments}
        self.quality.add(
            result.segment_ids,
            {segment.id: segment.category_id for segment in result.segments},
            frame.segment_ids,
            truth_categories,
        )
        category_of_id = np.full(int(frame.segment_ids.max(initial=0)) + 1, NO_CATEGORY, dtype=np.uint16)
        for segment_id, category_id in truth_categories.items():
            category_of_id[segment_id] = category_id
        self.mean_iou.add(result.category_ids, category_of_id[frame.segment_ids])
        self.segment_recall.add_segments(result.segment_ids, frame.segment_ids)

    def add_proposals(self, proposals: MaskProposals, frame: Frame) -> None:
        """Add one image's masks, before any word is known."""
        self.proposal_recall.add_masks(
            proposed_masks(proposals, frame.segment_ids.shape, self.min_objectness), frame.segment_ids
        )

    def report(self) -> dict[str, Any]:
        """All figures; shares in percent, NaN where nothing was counted."""
        thing_names = {label for label, is_thing in self.is_thing.items() if is_thing}
        groups = {
            "seen": SEEN,
            "unseen": UNSEEN,
            "all": self.id_of_label.keys(),
            "things": thing_names,
            "stuff": self.id_of_label.keys() - thing_names,
        }
        recall_low_high = self.proposal_recall.confidence_interval(resamples=BOOTSTRAP_RESAMPLES, seed=BOOTSTRAP_SEED)
        return {
            **{name: self.group_report(labels) for name, labels in groups.items()},
            "mask_recall_50": self.proposal_recall.result(),
            "mask_recall_50_ci95": list(recall_low_high),
            "segment_recall_50": self.segment_recall.result(),
            "seconds_per_image": {f"p{share}": float(np.percentile(self.seconds, share)) for share in (50, 95)},
            "per_category": self._per_category(),
        }

    def group_report(self, labels: Collection[str]) -> dict[str, Any]:
        """PQ, SQ, RQ and mean IoU over some labels, in percent, with an interval for PQ."""
        ids = {self.id_of_label[label] for label in labels}
        result = self.quality.result(ids)
        interval = self.quality.confidence_interval(ids, resamples=BOOTSTRAP_RESAMPLES, seed=BOOTSTRAP_SEED)
        return {
            "pq": result.pq,
            "sq": result.sq,
            "rq": result.rq,
            "pq_ci95": list(interval),
            "miou": self.mean_iou.result(ids),
            "categories": result.categories,
        }

    def _per_category(self) -> dict[str, dict[str, Any]]:
        by_id, iou_by_id = self.quality.per_category(), self.mean_iou.per_category()
        return {
            label: {
                "seen": label in SEEN,
                "pq": by_id[k].pq,
                "sq": by_id[k].sq,
                "rq": by_id[k].rq,
                "tp": by_id[k].tp,
                "fp": by_id[k].fp,
                "fn": by_id[k].fn,
                "iou": iou_by_id.get(k, math.nan),
            }
            for label, k in self.id_of_label.items()
            if k in by_id
        }


def evaluate_frames(
    segmenter: PanopticSegmenter,
    frames: Iterable[Frame],
    evaluation: Evaluation,
    renamed: Mapping[str, Evaluation],
) -> None:
    """Segment every frame under the vocabulary of `evaluation` and of each in `renamed`, and add the results."""
    text = segmenter.encode_vocabulary(evaluation.vocabulary)
    other_texts = {key: segmenter.encode_vocabulary(other.vocabulary) for key, other in renamed.items()}
    for frame in frames:
        evaluation.add_proposals(segmenter.propose(frame.image), frame)
        began = time.perf_counter()
        result = segmenter.segment(frame.image, text)
        evaluation.seconds.append(time.perf_counter() - began)
        evaluation.add(result, frame)
        for key, other in renamed.items():
            other.add(segmenter.segment(frame.image, other_texts[key]), frame)


def proposed_masks(proposals: MaskProposals, size: tuple[int, ...], min_objectness: float = 0.5) -> np.ndarray:
    """The masks of the queries that the generator takes for something, bool (Q', H, W).

    A query counts when the generator gives "no object" at most 1 - `min_objectness`.
    """
    mask_logits = proposals.mask_logits[0].float()  # (Q, h, w)
    if proposals.class_logits is not None:
        no_object = proposals.class_logits[0].float().softmax(dim=-1)[:, -1]  # (Q,)
        mask_logits = mask_logits[no_object <= 1 - min_objectness]
    if len(mask_logits) == 0:
        return np.zeros((0, *size), dtype=bool)
    upsampled = F.interpolate(mask_logits[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    return (upsampled >= 0).cpu().numpy()  # a sigmoid of 0.5 or more


def print_report(report: Mapping[str, Any]) -> None:
    """A readable table on stdout."""
    print(f"preset {report['preset']} on {report['device']}, split {report['split']}, {report['images']} images")
    print(f"{'':10}{'PQ':>7}{'95 % interval':>17}{'SQ':>7}{'RQ':>7}{'mIoU':>7}{'categories':>12}")
    for name in ("seen", "unseen", "things", "stuff", "all"):
        row = report[name]
        low, high = row["pq_ci95"]
        print(
            f"{name:10}{row['pq']:7.1f}{f'{low:.1f} to {high:.1f}':>17}{row['sq']:7.1f}{row['rq']:7.1f}"
            f"{row['miou']:7.1f}{row['categories']:12d}"
        )
    low, high = report["mask_recall_50_ci95"]
    print(f"mask recall at IoU 0.5: proposals {report['mask_recall_50']:.1f} ({low:.1f} to {high:.1f}), ", end="")
    print(f"final segments {report['segment_recall_50']:.1f}")
    for key in ("synonyms", "synonyms_and_colors"):
        if key in report:
            row = report[key]
            print(
                f"{key.replace('_', ' ')}: PQ seen {row['seen']['pq']:.1f}, unseen {row['unseen']['pq']:.1f}, "
                f"all {row['all']['pq']:.1f}; drop in PQ over all {row['drop']:.1f}"
            )
    seconds = report["seconds_per_image"]
    print(f"seconds per image: p50 {seconds['p50']:.3f}, p95 {seconds['p95']:.3f}")


def _open_frames(split: str, images: int, seed: int, dataset: Path | None) -> tuple[Iterable[Frame], dict[str, Any]]:
    if dataset is None:
        config = DatasetConfig(split, images, seed)
        size = [config.width, config.height]
        return render_frames(config), {"split": split, "seed": seed, "images": images, "size": size}
    reader = TabletopDataset(dataset)
    info, count = reader.info, min(images, len(reader))
    facts = {"split": info["split"], "seed": info["seed"], "images": count, "size": [info["width"], info["height"]]}
    return (reader.frame(number) for number in range(count)), facts


def _held_out_names(*, replace_color: bool) -> list[str]:
    return [held_out_synonym(spec.name, replace_color=replace_color) for spec in TABLETOP_SPECS]


def _synonym_report(report: Mapping[str, Any], renamed: Evaluation) -> dict[str, Any]:
    """What the renamed vocabulary reaches, and by how much that is less than with the canonical names."""
    labels = {"seen": SEEN, "unseen": UNSEEN, "all": renamed.id_of_label.keys()}
    groups = {name: renamed.group_report(members) for name, members in labels.items()}
    return {
        **groups,
        "drop": report["all"]["pq"] - groups["all"]["pq"],
        "drop_seen": report["seen"]["pq"] - groups["seen"]["pq"],
        "drop_unseen": report["unseen"]["pq"] - groups["unseen"]["pq"],
        "names": [category.name for category in renamed.vocabulary.categories],
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None in its place; floats are cut to what means something."""
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value
