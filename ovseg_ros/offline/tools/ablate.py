"""`ovseg ablate tabletop`: FISA's parts one by one, on the same masks of the same images (the paper's Table 3)."""

import copy
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.build import LoadedClip, build_classifier, build_fisa, load_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.masked_crops import MaskedCropConfig
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import (
    PresetFolder,
    fisa_section,
    load_preset,
    own_checkpoints,
    preset_folder,
    two_stage,
)
from ovseg_ros.core.sections import FisaSection
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.weights.files import sha256_of
from ovseg_ros.offline.data.files import digest_of, write_bytes, write_json
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.tools.ablation import (
    as_stored,
    chosen_seeds,
    chosen_systems,
    evaluation_samples,
    kept_results,
    rendered_stage,
    result_path,
)
from ovseg_ros.offline.tools.lora import add_low_rank
from ovseg_ros.offline.tools.named_quality import (
    ProposedImage,
    panoptic_quality,
    propose_images,
    rightly_named,
    true_names,
)
from ovseg_ros.offline.train.data import open_data
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.fisa import FisaTask, FisaTraining, build_untrained, learn
from ovseg_ros.offline.train.fisa_data import CollectedMasks, collect_masks, some_views, with_key_values
from ovseg_ros.offline.train.log import LOG_NAME
from ovseg_ros.offline.train.loop_config import Multiplier
from ovseg_ros.offline.train.words import SeenWords
from ovseg_ros.sim.categories import TABLETOP_SPECS

SYSTEMS = {
    "baseline": "baseline: frozen CLIP, mask attention",
    "seve": "+ SEVE, CLIP frozen",
    "seve_full": "+ SEVE, CLIP fully adapted",
    "seve_simo": "+ SEVE + SIMO (FISA)",
    "seve_lora": "+ SEVE, CLIP with LoRA",
}
"""What trains, with its line in the table."""
TITLES = {"masked_crops": "masked crops", **SYSTEMS, "oracle": "true names for the masks that fit (oracle)"}
_SEEDS = 3
_PARTS = 10
"""Of a training, whose losses are told."""
BACKBONE_RATE = 0.1
"""Learning rate of a fully adapted CLIP over that of the rest (FISA Sec. 5.3)."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of the table: a system with its depth of the adapter and its rank of LoRA, or a reference."""

    system: str
    convolutions: int
    rank: int = 0

    @property
    def name(self) -> str:
        """Short and unique, for files."""
        return f"{self.system}-r{self.rank}" if self.rank else f"{self.system}-c{self.convolutions}"

    @property
    def adapts_clip(self) -> bool:
        """Whether CLIP itself trains, all of it or by LoRA."""
        return self.system in ("seve_full", "seve_lora")

    def build(self, config: FisaConfig, clip: LoadedClip, files: PresetFolder, seed: int) -> FisaClassifier:
        """A preset's before its training, but for the parts that this system lacks, on a CLIP of its own."""
        architecture = replace(
            config,
            seve_layers=() if self.system == "baseline" else config.seve_layers,
            query_layers=config.query_layers if self.system == "seve_simo" else (),
            adapter_convolutions=self.convolutions,
            mirrored=False,
        )
        torch.manual_seed(seed)
        tower = copy.deepcopy(clip.tower)
        updates = add_low_rank(tower.visual, self.rank) if self.rank else []
        classifier = build_fisa(FisaSection(architecture), replace(clip, tower=tower), files)
        classifier.visual.requires_grad_(self.system == "seve_full")
        for update in updates:
            update.requires_grad_(True)
        return classifier


REFERENCES = (Variant("masked_crops", 0), Variant("masked_crops", 1), Variant("oracle", 0))
"""What does not train: masked crops as the preset `tabletop` has them, without mirroring and with, and true names."""


def variants(wanted: Sequence[str], options: AblateOptions, convolutions: int) -> list[list[Variant]]:
    """One group for each depth of the adapter, then LoRA with the preset's; each group runs with all seeds in turn."""
    systems = [system for system in wanted if system != "seve_lora"]
    found = [[Variant(system, count) for system in systems] for count in options.convolutions]
    if "seve_lora" in wanted:
        found.append([Variant("seve_lora", convolutions, rank) for rank in options.ranks])
    return found


def ablate_tabletop(options: AblateOptions) -> int:
    """Train and evaluate every variant, and write `ablation.md` and `ablation.json`; a stopped run goes on.

    `runs/NAME-SEED.json` is written for each training as soon as it is evaluated.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad option, recipe or preset, or damaged results in --out.
    """
    systems = chosen_systems(options, SYSTEMS)
    out = options.out
    training, precision = rendered_stage(options, "fisa", FisaTraining)
    facts = _facts(options, training, precision)
    depth = fisa_section(training.preset).architecture.adapter_convolutions
    wanted = [(reference, 0) for reference in REFERENCES]
    for group in variants(systems, options, depth):
        wanted += [(variant, seed) for seed in chosen_seeds(options, _SEEDS) for variant in group]
    results = _results(out, facts)
    missing = [key for key in wanted if key not in results]
    if missing:
        weighty = [facts[name] for name in ("fisa", "training", "precision", "checkpoints")]  # weights depend on these
        run = Run(options.data or out / "data", out, Engine("cpu", precision))
        bench = _Bench(options, training, run, digest_of(weighty, 8))
        for variant, seed in missing:
            result = {"variant": asdict(variant), "seed": seed, "facts": facts, **bench.run(variant, seed)}
            write_json(result_path(out, variant.name, seed), result)
            told = f"PQ seen {result['seen']:.1f}, unseen {result['unseen']:.1f}"
            print(f"{variant.name} seed {seed}: {told}", flush=True)
            write_report(out, facts, _results(out, facts))
    write_report(out, facts, _results(out, facts))
    return 0


class _Bench:
    """The networks and features that all variants share, and the training and evaluation of one."""

    def __init__(self, options: AblateOptions, training: FisaTraining, run: Run, digest: str) -> None:
        """`digest`: of what weights depend on; ends the names of training folders."""
        self._digest = digest
        device, self._training, self._run = run.engine.device, training, run
        section = two_stage(training.preset)
        preset, self._files = load_preset(training.preset), preset_folder(training.preset)
        self._clip = load_clip(section.clip, section.templates, self._files, device, section.descriptions)
        model, self._reader = build_untrained(training.preset, device, training.loop.seed)
        vocabulary = Vocabulary.build(TABLETOP_SPECS)
        self._text = model.text_encoder.encode(vocabulary)
        self._images = propose_images(model, self._reader, evaluation_samples(options, run), vocabulary)
        self._vocabulary, self._merge = vocabulary, preset.merge
        self._right = partial(true_names, self._reader, len(TABLETOP_SPECS))
        self._words = SeenWords(model.text_encoder, training.synonyms)
        masks = collect_masks(model, self._reader, open_data(training.data, run), self._words, training.loss)
        self._masks = replace(masks, views=with_key_values(self._reader, masks.views))

    def run(self, variant: Variant, seed: int) -> dict[str, Any]:
        """The figures of a variant."""
        match variant.system:
            case "oracle":
                return self._quality(self._right, self._images)
            case "masked_crops":
                return self._masked_crops(mirrored=bool(variant.convolutions))
        return self._trained(variant, seed)

    def _quality(self, classify: Callable[[ProposedImage], Tensor], images: Sequence[ProposedImage]) -> dict[str, Any]:
        quality = panoptic_quality(classify, images, self._vocabulary, self._merge)
        return quality | rightly_named(classify, self._right, images, self._vocabulary)

    def _masked_crops(self, *, mirrored: bool) -> dict[str, Any]:
        section = two_stage("tabletop").classifier
        if not isinstance(section, MaskedCropConfig):
            raise ConfigError(f"the preset tabletop has a classifier of kind {section.kind}, not masked_crops")
        section = replace(section, mirrored=mirrored and section.mirrored)
        classifier = build_classifier(section, self._clip, self._files, ()).eval()
        words = classifier.prepare(self._text)

        def classify(image: ProposedImage) -> Tensor:
            return classifier(image.pixels, image.proposals, words)

        return {"mirrored": section.mirrored, **self._quality(classify, self._images)}

    def _trained(self, variant: Variant, seed: int) -> dict[str, Any]:
        classifier = variant.build(self._reader.config, self._clip, self._files, seed)
        images, masks = self._images, self._masks
        if variant.adapts_clip:
            masks = replace(masks, views=replace(masks.views, key_values=None))
        slower = (Multiplier("visual.", BACKBONE_RATE),) if variant.system == "seve_full" else ()
        loop = replace(self._training.loop, seed=seed, multipliers=slower)
        training = replace(self._training, loop=loop)
        folder = self._run.out / "training" / f"{variant.name}-{seed}-{self._digest}"
        task = FisaTask(classifier, CollectedMasks(masks, self._words, loop), training.loss, folder.name)
        learn(task, loop, folder, self._run.engine)
        trained = sum(value.numel() for value in classifier.trained_state_dict().values())
        if variant.adapts_clip:
            images = [replace(image, views=with_key_values(classifier, image.views)) for image in images]
        words = classifier.eval().prepare(self._text)

        def classify(image: ProposedImage) -> Tensor:
            return classifier(image.pixels, image.proposals, words, some_views(image.views, slice(None)))

        return {"trained_parameters": trained, **told_by(folder / LOG_NAME), **self._quality(classify, images)}


def told_by(log: Path) -> dict[str, Any]:
    """Of a training's log, its "training_seconds", and "losses", the mean of naming's over each tenth of the lines;
    0 and none of what did not train."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    parts = np.array_split([line["class"] for line in lines], max(1, min(_PARTS, len(lines))))
    return {
        "training_seconds": lines[-1]["seconds"] if lines else 0.0,
        "losses": [float(part.mean()) for part in parts if len(part)],
    }


def _facts(options: AblateOptions, training: FisaTraining, precision: str) -> dict[str, Any]:
    """What figures depend on, beside variant and seed."""
    preset, fisa = load_preset(training.preset), replace(fisa_section(training.preset), checkpoint=None)
    frozen = own_checkpoints(replace(preset, model=replace(two_stage(training.preset), classifier=fisa)))
    files = preset_folder(training.preset)
    facts = {
        "split": options.split,
        "images": options.images,
        "fisa": asdict(fisa.architecture),
        "merge": asdict(preset.merge),
        "training": asdict(training),
        "precision": precision,
        "checkpoints": {name: sha256_of(files.own(name)) for name in frozen},
    }
    return as_stored(facts)


def _results(out: Path, facts: dict[str, Any]) -> dict[tuple[Variant, int], dict[str, Any]]:
    """What was made with these settings, by variant and seed."""
    return {(Variant(**one["variant"]), int(one["seed"])): one for one in kept_results(out, facts)}


def write_report(out: Path, facts: dict[str, Any], results: Mapping[tuple[Variant, int], dict[str, Any]]) -> None:
    """The table of results."""
    order = list(TITLES)
    lines = sorted({variant for variant, _ in results}, key=lambda v: (order.index(v.system), v.convolutions, v.rank))
    rows = [_row([results[key] for key in sorted(results, key=lambda key: key[1]) if key[0] == line]) for line in lines]
    write_json(out / "ablation.json", {"facts": facts, "rows": rows})
    write_bytes(out / "ablation.md", _markdown(rows, facts).encode())


def _row(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The seeds of one variant together."""
    first = group[0]
    row = {**first["variant"], "seeds": len(group), "trained_parameters": first.get("trained_parameters", 0)}
    row["mirrored"] = first.get("mirrored", False)
    for name in ("seen", "unseen"):
        values = [result[name] for result in group]
        row[name] = statistics.mean(values)
        row[f"{name}_over_seeds"] = values
        row[f"{name}_ci95_of_first_seed"] = first[f"{name}_interval"]
        named = [share for result in group if (share := result.get(f"{name}_named")) is not None]  # older ones lack it
        row[f"{name}_named"] = statistics.mean(named) if named else None
    curves = [result["losses"] for result in group if result.get("losses")]
    row["losses"] = [statistics.mean(part) for part in zip(*curves, strict=True)]
    return row


def _markdown(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    lines = [
        "| system | adapter convolutions | trained parameters | seeds | PQ seen | PQ unseen | unseen, over seeds "
        "| unseen, 95 % interval over images | masks named rightly, seen | unseen |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    curves = ["| system | adapter convolutions | mean loss of naming in each tenth of the steps |", "|---|---|---|"]
    for row in rows:
        low, high = row["unseen_ci95_of_first_seed"]
        spread = f"{min(row['unseen_over_seeds']):.1f} to {max(row['unseen_over_seeds']):.1f}"
        title = TITLES[row["system"]] + (f", rank {row['rank']}" if row["rank"] else "")
        title += ", mirrored too" if row["mirrored"] else ""
        trains = row["system"] in SYSTEMS
        depth, trained = (row["convolutions"], f"{row['trained_parameters']:,}") if trains else ("", "")
        lines.append(
            f"| {title} | {depth} | {trained} | {row['seeds']} "
            f"| {row['seen']:.1f} | {row['unseen']:.1f} | {spread} | {low:.1f} to {high:.1f} "
            f"| {_percent(row['seen_named'])} | {_percent(row['unseen_named'])} |"
        )
        if row["losses"]:
            curves.append(f"| {title} | {depth} | {', '.join(f'{loss:.3f}' for loss in row['losses'])} |")
    loop, samples = facts["training"]["loop"], "masks" if facts["fisa"]["view"] == "crops" else "images"
    about = (
        f"{facts['images']} images of split {facts['split']}; {loop['steps']} steps of {loop['batch_size']} {samples}. "
        "The interval is the first seed's (percentile bootstrap). Named rightly: of the masks that fit a segment, "
        "those whose likeliest word is right."
    )
    return "\n".join([*lines, "", about, "", *curves]) + "\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1f}"
