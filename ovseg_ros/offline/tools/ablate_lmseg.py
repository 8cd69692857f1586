"""`ovseg ablate lmseg`: LMSeg's words, its fusion and its attention, one at a time, at toy size on the tabletop.

All variants learn alike; see docs/lmseg.md.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from tqdm import tqdm

from ovseg_ros.core.build import build_scorer, load_clip, text_width
from ovseg_ros.core.build_masks import build_proposer
from ovseg_ros.core.classification.lmseg import LMSegClassifier, LMSegWords
from ovseg_ros.core.descriptions import Attribute, DescriptionsConfig, parse_descriptions, read_bytes
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import fit, to_tensor
from ovseg_ros.core.metrics.bootstrap import bootstrap_interval
from ovseg_ros.core.metrics.mean_iou import MeanIoU
from ovseg_ros.core.presets import (
    load_preset,
    own_checkpoints,
    preset_folder,
    require_weights,
    scored_section,
    with_untrained_scorer,
)
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.scoring.lmseg.config import FusionConfig, LMSegConfig
from ovseg_ros.core.sections import LMSegSection, TwoStageSection
from ovseg_ros.core.types import NO_CATEGORY, MaskProposals
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.weights.files import sha256_of
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.data.files import digest_of, write_bytes, write_json
from ovseg_ros.offline.data.types import PanopticSample
from ovseg_ros.offline.evaluate.truth import truth_of
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
from ovseg_ros.offline.train.lmseg import LMSegTraining, learn
from ovseg_ros.sim.categories import TABLETOP_SPECS, split_pair


class System(NamedTuple):
    """A line of the table: its title, and in what it differs from the preset."""

    title: str
    attributes: tuple[Attribute, ...] = ()
    another: bool = False
    fusion: FusionConfig | None = None
    spatial: bool = True
    by_word: bool = True


SYSTEMS = {
    "names": System("names alone; w learned; both attentions"),
    "attributes": System("+ colour, shape and texture", ("color", "shape", "texture")),
    "another": System("+ another word's (control)", ("color", "shape", "texture"), another=True),
    "color": System("+ colour", ("color",)),
    "shape": System("+ shape", ("shape",)),
    "texture": System("+ texture", ("texture",)),
    "clip": System("CLIP alone, w = 1", fusion=FusionConfig("fixed", 1.0)),
    "second": System("second encoder alone, w = 0", fusion=FusionConfig("fixed", 0.0)),
    "half": System("w = 0.5", fusion=FusionConfig("fixed", 0.5)),
    "channel": System("w of each channel", fusion=FusionConfig("channel")),
    "no_attention": System("neither attention", spatial=False, by_word=False),
    "spatial": System("attention over cells alone", by_word=False),
    "by_word": System("attention over words alone", spatial=False),
}
"""By name; the first is what all others are compared with."""
_DESCRIPTIONS = "tabletop"
_METRICS = {
    **{f"miou_{group}": f"mIoU {group}" for group in ("seen", "unseen")},
    **{f"pq_{group}": f"PQ {group}" for group in ("seen", "unseen")},
}


@dataclass(frozen=True, slots=True)
class _Image:
    """An image to evaluate, with the proposals that are to be named."""

    sample: PanopticSample
    pixels: torch.Tensor
    proposals: MaskProposals


def ablate_lmseg(options: AblateOptions) -> int:
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
    weighty = ("model", "training", "precision", "checkpoints", "descriptions")  # weights depend on these

    def begin() -> Callable[[str, int], dict[str, Any]]:
        return _Bench(options, training, precision, digest_of([facts[what] for what in weighty], 8)).run

    run_ablation(options, systems, facts, begin, _METRICS, write_report)
    return 0


def _training(options: AblateOptions) -> tuple[LMSegTraining, str]:
    """What the recipe says of LMSeg, with the steps that are asked for, and its precision."""
    stage, precision = rendered_stage(options, "lmseg", LMSegTraining)
    return replace(stage, loop=shortened(stage.loop, options.steps)), precision


def _sections(preset: str) -> tuple[TwoStageSection, LMSegSection]:
    model, _ = scored_section(preset)
    if not isinstance(model, TwoStageSection) or not isinstance(model.classifier, LMSegSection):
        raise ConfigError(f"the preset {preset} names no proposals by LMSeg; name another, such as tabletop_lmseg")
    return model, model.classifier


def _facts(options: AblateOptions, training: LMSegTraining, precision: str) -> dict[str, Any]:
    """What figures depend on, beside variant and seed; of the device, only their rounding does."""
    files = preset_folder(training.preset)
    untrained = with_untrained_scorer(training.preset)
    return as_stored(
        {
            "split": options.split,
            "images": options.images,
            "model": asdict(untrained.model),
            "merge": asdict(untrained.merge),
            "training": asdict(training),
            "precision": precision,
            "checkpoints": {name: sha256_of(files.own(name)) for name in own_checkpoints(untrained)},
            "descriptions": sha256_of(_described_by()),
        }
    )


def _described_by() -> Path:
    return config_dir() / "descriptions" / f"{_DESCRIPTIONS}.yaml"


def write_others(path: Path) -> None:
    """The tabletop's descriptions, each under the next thing that has another colour and another shape."""
    words = parse_descriptions(read_bytes(_described_by()), str(_described_by()))
    things = [word for word in words if " " in word]
    stuff = [word for word in words if word not in things]
    shapes = list(dict.fromkeys(split_pair(thing)[1] for thing in things))
    colors = list(dict.fromkeys(split_pair(thing)[0] for thing in things))
    other = {word: stuff[(place + 1) % len(stuff)] for place, word in enumerate(stuff)}
    for thing in things:
        color, shape = split_pair(thing)
        other[thing] = f"{_next(colors, color)} {_next(shapes, shape)}"
    entries = {word: {name: list(some) for name, some in words[other[word]].attributes.items()} for word in words}
    write_bytes(path, yaml.safe_dump({"format": 1, "words": entries}).encode())


def _next(words: Sequence[str], word: str) -> str:
    return words[(words.index(word) + 1) % len(words)]


class _Bench:
    """The images and proposals that all variants share, and the training and evaluation of one."""

    def __init__(self, options: AblateOptions, training: LMSegTraining, precision: str, digest: str) -> None:
        """`digest`: of the settings; ends the names of training folders."""
        self._training, self._digest = training, digest
        self._run = Run(options.data, options.out, Engine(options.device, precision))
        self._model, self._classifier = _sections(training.preset)
        self._preset, self._files = load_preset(training.preset), preset_folder(training.preset)
        require_weights(training.preset, with_untrained_scorer(training.preset))
        self._vocabulary = Vocabulary.build(TABLETOP_SPECS)
        self._images = self._proposed(evaluation_samples(options, self._run))
        self._others = options.out / "another_words.yaml"
        write_others(self._others)

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """The figures of a variant."""
        system, device = SYSTEMS[name], self._run.engine.device
        section = self._classifier.scorer
        section = replace(section, checkpoint=None, architecture=variant(system, section.architecture))
        clip = load_clip(self._model.clip, self._model.templates, self._files, device, self._descriptions(system))
        torch.manual_seed(seed)
        scorer = build_scorer(section, clip, self._files).to(device)
        training = replace(self._training, loop=replace(self._training.loop, seed=seed))
        folder = self._run.out / "training" / f"{name}-{seed}-{self._digest}"
        began = time.monotonic()
        learn(scorer, clip, training, self._run, folder)
        seconds = round(time.monotonic() - began, 1)
        state = scorer.trained_state_dict()
        save_state_half(state, folder / "trained.safetensors")
        classifier = LMSegClassifier(scorer.eval(), self._classifier.void_correction)
        words = classifier.prepare(clip.text_encoder.encode(self._vocabulary))
        return {
            "trained_parameters": sum(value.numel() for value in state.values()),
            "training_seconds": seconds,
            "device": self._run.engine.words,
            "figures": self._evaluated(classifier, words),
        }

    def _descriptions(self, system: System) -> DescriptionsConfig | None:
        if not system.attributes:
            return None
        return DescriptionsConfig((str(self._others) if system.another else _DESCRIPTIONS,), system.attributes)

    @torch.no_grad()
    def _proposed(self, samples: Sequence[PanopticSample]) -> list[_Image]:
        device, width = self._run.engine.device, text_width(self._model.clip, self._files)
        proposer, _ = build_proposer(self._model.proposer, self._model.input_size, self._files, width)
        proposer = proposer.to(device).eval()
        images = []
        for sample in tqdm(samples, desc="evaluation images", unit="image", mininterval=5):
            pixels = fit(to_tensor(sample.image, device), self._model.input_size)
            images.append(_Image(sample, pixels, proposer(pixels, None)))
        return images

    @torch.no_grad()
    def _evaluated(self, classifier: LMSegClassifier, words: LMSegWords) -> dict[str, Any]:
        """In percent, over each of `GROUPS`: mIoU of the scores, and PQ of the proposals that they name; each with its
        interval of 95 % by bootstrap over images.
        """
        pixels, quality = _ImageIoU(), NamedQuality(self._vocabulary, self._preset.merge)
        for image in tqdm(self._images, desc="evaluation", unit="image", mininterval=5):
            scores = classifier.scorer(image.pixels, words.scored)
            size, sample = image.sample.segment_ids.shape, image.sample
            logits = F.interpolate(scores.logits, size, mode="bilinear", align_corners=False)[0]
            pixels.add(scores.words[0][logits.argmax(dim=0)].cpu().numpy(), truth_of(sample).labels)
            quality.add(
                sample, image.proposals.mask_logits[0], classifier.name_masks(scores, image.proposals, words)[0]
            )
        figures = {f"pq_{name}": figure for name, figure in quality.figures().items()}
        for name, names in GROUPS.items():
            group = {category.id for category in self._vocabulary.categories if category.name in names}
            figures |= {
                f"miou_{name}": pixels.result(group),
                f"miou_{name}_interval": pixels.confidence_interval(group),
            }
        return figures


class _ImageIoU:
    """Mean IoU of categories that the truth shows, and its interval by bootstrap over images."""

    def __init__(self) -> None:
        self._images: list[dict[int, tuple[int, int, int]]] = []

    def add(self, found: np.ndarray, truth: np.ndarray) -> None:
        one = MeanIoU(NO_CATEGORY)
        one.add(found, truth)
        self._images.append(one.counts())

    def result(self, group: Collection[int]) -> float:
        return float(self._means(np.ones((1, len(self._images))), group)[0])

    def confidence_interval(self, group: Collection[int]) -> tuple[float, float]:
        return bootstrap_interval(lambda weights: self._means(weights, group), len(self._images), 0.95, 1000, 0)

    def _means(self, weights: np.ndarray, group: Collection[int]) -> np.ndarray:
        """(resamples,) of how often each image counts, (resamples, images)."""
        counts = np.array([[one.get(k, (0, 0, 0)) for k in sorted(group)] for one in self._images])  # (images, K, 3)
        inside, found, true = np.moveaxis(np.tensordot(weights, counts, axes=1), 2, 0)  # (resamples, K) each
        is_true = true > 0
        with np.errstate(invalid="ignore"):  # what is nowhere; and NaN where nothing of the group is
            shares = np.where(is_true, 100 * inside / (found + true - inside), 0)
            return shares.sum(axis=1) / is_true.sum(axis=1)


def variant(system: System, config: LMSegConfig) -> LMSegConfig:
    """The architecture of a system."""
    return replace(config, fusion=system.fusion or config.fusion, spatial=system.spatial, by_word=system.by_word)


def write_report(out: Path, facts: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """`ablation.md` and `ablation.json`, of what `runs/` holds."""
    rows = [row for name in SYSTEMS if (row := row_of(name, results, _METRICS)) is not None]
    write_json(out / "ablation.json", {"facts": facts, "rows": rows})
    write_bytes(out / "ablation.md", _markdown(rows, facts).encode())


def _markdown(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    lines = [
        "| system | trained parameters | seeds | " + " | ".join(_METRICS.values()) + " |",
        "|---" * (3 + len(_METRICS)) + "|",
    ]
    for row in rows:
        cells = " | ".join(cell(row[metric]) for metric in _METRICS)
        seeds = ", ".join(map(str, row["seeds"]))
        lines.append(f"| {SYSTEMS[row['system']].title} | {row['trained_parameters']:,} | {seeds} | {cells} |")
    loop, data = facts["training"]["loop"], facts["training"]["data"]
    lines.append(
        "\nIn percent: mean over the seeds ± half the range over them, in brackets 95 % of the first by bootstrap over "
        f"images. {facts['images']} images of split {facts['split']}; mIoU of the scores themselves, PQ of the "
        f"preset's proposals that they name; {loop['steps']} steps of {loop['batch_size']} views, of {data['scenes']} "
        f"scenes in {data['views']} each.\n"
    )
    return "\n".join(lines)
