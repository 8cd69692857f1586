"""`ovseg ablate omtseg`: OMTSeg without one of its parts at a time (the paper's ablation), at toy size on the tabletop.

All variants learn alike, from random weights; see docs/omtseg.md.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.joint.omtseg.config import OMTSegConfig
from ovseg_ros.core.joint.omtseg.model import OMTSeg
from ovseg_ros.core.metrics.mask_recall import MaskRecall
from ovseg_ros.core.metrics.overlaps import mask_overlaps
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.data.files import digest_of, write_bytes, write_json
from ovseg_ros.offline.data.types import PanopticSample
from ovseg_ros.offline.evaluate.instances import upsampled_masks
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.tools.ablation import (
    as_stored,
    cell,
    chosen_systems,
    evaluation_samples,
    rendered_stage,
    row_of,
    run_ablation,
    shortened,
)
from ovseg_ros.offline.tools.named_quality import GROUPS, NamedQuality
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.omtseg import OMTSegTraining, build_untrained, learn, omtseg_section
from ovseg_ros.sim.categories import STUFF, TABLETOP_SPECS, UNSEEN_SHAPES, split_pair


@dataclass(frozen=True, slots=True)
class System:
    """A line of the table.

    Attributes:
        title: for people.
        published: PQ on ADE20K, of BEiT-3-L trained on COCO, percent.
    """

    title: str
    published: float


SYSTEMS = {
    "full": System("OMTSeg", 27.5),
    "frozen_mark": System("no prompt tuning: `<wls>` frozen", 25.9),
    "no_fusion": System("no fusion: image and text run apart", 18.4),
    "no_adapter": System("no adapter", 8.8),
}
"""In the published order."""
VOCABULARY = Vocabulary.build(
    [
        spec
        for spec in TABLETOP_SPECS
        if spec.name in {word.name for word in STUFF} or split_pair(spec.name)[1] not in UNSEEN_SHAPES
    ],
    previous=Vocabulary.build(TABLETOP_SPECS),
)
"""What is asked for, under the data's ids: all but stars and bowls, whose words are in no training, so that none of the
networks can know them. Where there are some, the truth is void."""
_METRICS = {
    **{f"pq_{group}": f"PQ {group}" for group in GROUPS},
    **{f"mask_recall_50_{group}": f"mask recall {group}" for group in GROUPS},
}
"""Columns of the table."""
_THRESHOLDS = {"mask_recall_50": 0.5, "mask_recall_75": 0.75}
_BATCH = 20
"""Images evaluated at once."""


def ablate_omtseg(options: AblateOptions) -> int:
    """Train and evaluate every variant, and write `ablation.md` and `ablation.json`; a stopped run goes on.

    `runs/NAME-SEED.json` is written for each training as soon as it is evaluated. Processes with other systems or seeds
    may share --out and --data.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad option, recipe or preset, or damaged results in --out.
    """
    systems, (training, precision) = chosen_systems(options, SYSTEMS), _training(options)
    facts = _facts(options, training, precision)

    def begin() -> Callable[[str, int], dict[str, Any]]:
        run = Run(options.data, options.out, Engine(options.device, precision))
        digest = digest_of([facts["model"], facts["training"], precision], 8)  # what weights depend on
        asked = frozenset(category.name for category in VOCABULARY.categories)
        samples = [known(sample) for sample in evaluation_samples(options, run, asked)]
        return lambda system, seed: _figures_of(system, seed, training, run, samples, digest)

    run_ablation(options, systems, facts, begin, _METRICS, write_report)
    return 0


def _training(options: AblateOptions) -> tuple[OMTSegTraining, str]:
    """What the recipe says of OMTSeg, with the steps that are asked for, and its precision."""
    stage, precision = rendered_stage(options, "omtseg", OMTSegTraining)
    return replace(stage, loop=shortened(stage.loop, options.steps)), precision


def _facts(options: AblateOptions, training: OMTSegTraining, precision: str) -> dict[str, Any]:
    """What figures depend on, beside variant and seed; of the device, only their rounding does."""
    return as_stored(
        {
            "split": options.split,
            "images": options.images,
            "model": asdict(replace(omtseg_section(training.preset), checkpoint=None)),
            "merge": asdict(load_preset(training.preset).merge),
            "training": asdict(training),
            "precision": precision,
        }
    )


def known(sample: PanopticSample) -> PanopticSample:
    """A sample without the segments of categories that are not in `VOCABULARY`: they become void."""
    ids = {category.id for category in VOCABULARY.categories}
    kept = tuple(segment for segment in sample.segments if segment.category in ids)
    is_kept = np.isin(sample.segment_ids, [segment.id for segment in kept])
    return replace(sample, segments=kept, segment_ids=np.where(is_kept, sample.segment_ids, 0))


def without_part(system: str, config: OMTSegConfig) -> OMTSegConfig:
    """The architecture of a variant."""
    match system:
        case "no_fusion":
            return replace(config, fused=False)
        case "no_adapter":
            return replace(config, adapter=None)
    return config


def _figures_of(
    system: str, seed: int, training: OMTSegTraining, run: Run, samples: Sequence[PanopticSample], digest: str
) -> dict[str, Any]:
    """What a variant's training leads to; `digest` of the training ends the name of its folder."""
    section = omtseg_section(training.preset)
    network, tokenizer = build_untrained(training.preset, seed, without_part(system, section.architecture))
    network.name_mark.requires_grad_(system != "frozen_mark")
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    loop = replace(
        training.loop,
        seed=seed,  # what a variant lacks, no rule is for
        not_decayed=tuple(part for part in training.loop.not_decayed if any(part in name for name in trained)),
    )
    folder = run.out / "training" / f"{system}-{seed}-{digest}"
    began = time.monotonic()
    learn(network, tokenizer, replace(training, loop=loop), run, folder)
    seconds = round(time.monotonic() - began, 1)
    state = network.trained_state(encoder_is_public=section.encoder_weights is not None)
    save_state_half(state, folder / "trained.safetensors")  # as a preset of this architecture reads it
    model = OMTSeg(network, tokenizer, unknown_likeness=section.unknown_likeness)
    segmenter = PanopticSegmenter(model, load_preset(training.preset).merge, run.engine.device)
    return {
        "trained_parameters": sum(value.numel() for value in trained.values()),
        "training_seconds": seconds,
        "device": run.engine.words,
        "figures": evaluate(segmenter, samples),
    }


def evaluate(segmenter: PanopticSegmenter, samples: Sequence[PanopticSample]) -> dict[str, Any]:
    """How well images of one size are segmented under `VOCABULARY`.

    Returns:
        In percent, over each of `GROUPS`: "pq_all" and so on, after the panoptic merge; "mask_recall_50_all" and so on,
        the share of true segments that some query's mask covers with this IoU, whatever its name. "pq_all_interval" and
        so on, of 95 % by bootstrap over images.
    """
    prompt, quality = segmenter.prepare(VOCABULARY), NamedQuality(VOCABULARY, segmenter.merge)
    recalls = {(name, group): MaskRecall() for name in _THRESHOLDS for group in GROUPS}
    for some in _batches(samples):
        predicted = segmenter.predict([sample.image for sample in some], prompt)
        for sample, masks, logits in zip(some, predicted.mask_logits, predicted.class_logits, strict=True):
            quality.add(sample, masks, logits)
            overlaps = mask_overlaps(upsampled_masks(masks, sample.segment_ids.shape), sample.segment_ids)
            best = dict(zip(overlaps.segment_ids.tolist(), overlaps.best_iou().tolist(), strict=True))
            for (name, group), recall in recalls.items():
                ids = {category.id for category in VOCABULARY.categories if category.name in GROUPS[group]}
                found = [best[one.id] >= _THRESHOLDS[name] for one in sample.segments if one.category in ids]
                recall.add(sum(found), len(found))
    figures = {f"pq_{name}": figure for name, figure in quality.figures().items()}
    for (name, group), recall in recalls.items():
        figures |= {f"{name}_{group}": recall.result(), f"{name}_{group}_interval": recall.confidence_interval()}
    return figures


def _batches(samples: Sequence[PanopticSample]) -> Iterator[Sequence[PanopticSample]]:
    for start in tqdm(range(0, len(samples), _BATCH), desc="evaluation", unit="batch", mininterval=5):
        yield samples[start : start + _BATCH]


def write_report(out: Path, facts: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """`ablation.md` and `ablation.json`, of what `runs/` holds."""
    metrics = [*_METRICS, *(f"mask_recall_75_{group}" for group in GROUPS)]
    rows = [
        {**row, "published_pq": system.published}
        for name, system in SYSTEMS.items()
        if (row := row_of(name, results, metrics)) is not None
    ]
    write_json(out / "ablation.json", {"facts": facts, "rows": rows})
    write_bytes(out / "ablation.md", _markdown(rows, facts).encode())


def _in_order(figures: Mapping[str, float]) -> str:
    best_first = sorted(((f"{figure:.1f}", name) for name, figure in figures.items()), key=lambda item: -float(item[0]))
    order = f"{best_first[0][1]} {best_first[0][0]}"
    for (better, _), (figure, name) in pairwise(best_first):
        order += f" {'=' if better == figure else '>'} {name} {figure}"
    return order


def _markdown(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    lines = [
        "| system | trained parameters | seeds | published PQ | " + " | ".join(_METRICS.values()) + " |",
        "|---" * (4 + len(_METRICS)) + "|",
    ]
    for row in rows:
        system, cells = SYSTEMS[row["system"]], [cell(row[metric]) for metric in _METRICS]
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append(
            f"| {system.title} | {row['trained_parameters']:,} | {seeds} | {system.published} | {' | '.join(cells)} |"
        )
    lines.append("\nFrom the best to the worst:\n")
    lines.append(f"- published PQ: {_in_order({row['system']: row['published_pq'] for row in rows})}")
    for metric, title in _METRICS.items():
        lines.append(f"- {title}: {_in_order({row['system']: row[metric]['mean'] for row in rows})}")
    loop, data = facts["training"]["loop"], facts["training"]["data"]
    lines.append(
        "\nIn percent: mean over the seeds ± half the range over them, in brackets 95 % of the first by bootstrap "
        f"over images. {facts['images']} images of split {facts['split']} under {len(VOCABULARY.categories)} words, "
        f"without stars and bowls; mask recall at IoU 0.5; {loop['steps']} steps of {loop['batch_size']} views, of "
        f"{data['scenes']} scenes in {data['views']} each. Published: PQ on ADE20K, of BEiT-3-L trained on COCO.\n"
    )
    return "\n".join(lines)
