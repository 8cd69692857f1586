"""`ovseg ablate tabletop`: FISA's parts one by one, on the same masks of the same images (the paper's Table 3)."""

import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ovseg_ros.core.classification.masked_crops import MaskedCropClassifier, MaskedCropConfig
from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.presets import load_preset, own_checkpoint
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.files import sha256_of, write_bytes, write_json
from ovseg_ros.offline.data.tabletop_views import TabletopViews, load_or_render
from ovseg_ros.offline.evaluate.fisa import (
    EvaluationImages,
    NamedQuality,
    fisa_quality,
    module_quality,
    oracle_quality,
)
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.fisa_parts import FisaParts, load_parts
from ovseg_ros.offline.train.fisa_samples import TrainingSamples
from ovseg_ros.offline.train.fisa_tabletop import FisaTrainingConfig, collect, train_fisa
from ovseg_ros.offline.train.loop_config import Multiplier
from ovseg_ros.offline.train.run import load_recipe
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN
from ovseg_ros.sim.scene import SPLITS

NOTHING: tuple[int, ...] = ()
SYSTEMS: dict[str, dict[str, Any]] = {
    "baseline": {"seve_layers": NOTHING, "query_layers": NOTHING},
    "seve": {"query_layers": NOTHING},
    "seve_full": {"query_layers": NOTHING, "clip_training": "full"},
    "seve_simo": {},
}
"""What each system changes of the preset's FISA; "baseline" is mask attention on the frozen CLIP."""

DESCRIPTIONS = {
    "first": "the first classifier (masked crops)",
    "baseline": "baseline: frozen CLIP, mask attention",
    "seve": "+ SEVE, CLIP frozen",
    "seve_full": "+ SEVE, CLIP fully adapted",
    "seve_simo": "+ SEVE + SIMO (FISA)",
    "seve_lora": "+ SEVE, CLIP with LoRA",
    "oracle": "true names for the masks that fit (oracle)",
}
LORA_RANKS = (4, 16, 64)
BACKBONE_RATE = 0.1
"""Learning rate of a fully adapted CLIP over that of the rest (FISA Sec. 5.3)."""


@dataclass(frozen=True, slots=True)
class AblationConfig:
    """What is compared, and on what.

    Attributes:
        recipe: training recipe with a `fisa` section.
        seeds: trainings of every system, seeds 0 to `seeds` - 1.
        systems: of `SYSTEMS` and "seve_lora".
        convolutions: of the distribution adapter, for each system but "seve_lora", which has the preset's.
        ranks: of LoRA.
        split, images: evaluation data, one view of each of the first scenes.
        steps: of each training, instead of the recipe's; None = the recipe's.
    """

    recipe: str = "tabletop_fisa"
    seeds: int = 3
    systems: tuple[str, ...] = (*SYSTEMS, "seve_lora")
    convolutions: tuple[int, ...] = (2, 0, 1, 3)
    ranks: tuple[int, ...] = LORA_RANKS
    split: str = "test"
    images: int = 100
    steps: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.systems) - {*SYSTEMS, "seve_lora"})
        if unknown:
            raise ConfigError(f"unknown systems {', '.join(unknown)}; choose of {', '.join(SYSTEMS)}, seve_lora")
        if self.split not in SPLITS:
            raise ConfigError(f"unknown split {self.split!r}; expected one of {', '.join(SPLITS)}")


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of the table."""

    system: str
    convolutions: int
    rank: int = 0

    @property
    def name(self) -> str:
        """Short and unique, for files."""
        return f"{self.system}-r{self.rank}" if self.rank else f"{self.system}-c{self.convolutions}"

    def changes(self) -> dict[str, Any]:
        """Of the preset's FISA configuration."""
        kept = {"adapter_convolutions": self.convolutions}
        if self.rank:
            return {"query_layers": NOTHING, "clip_training": "lora", "lora_rank": self.rank, **kept}
        return {**SYSTEMS[self.system], **kept}

    def training(self, config: FisaTrainingConfig, seed: int) -> FisaTrainingConfig:
        """The recipe's, with this variant's learning rates and a seed."""
        slower = (Multiplier("visual.", BACKBONE_RATE),) if self.system == "seve_full" else ()
        return replace(config, loop=replace(config.loop, seed=seed, multipliers=slower))


def ablate_tabletop(config: AblationConfig, *, data: Path, out: Path) -> int:
    """Train and evaluate every variant, and write `ablation.md` and `ablation.json`; a stopped run goes on.

    Args:
        data: rendered views.
        out: gets `runs/NAME-SEED.json` for each training as soon as it is evaluated.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad recipe or preset, or results of other settings in `out`.
    """
    recipe = load_recipe(config.recipe)
    if recipe.fisa is None or recipe.preset is None:
        raise ConfigError(f"the recipe {config.recipe} has no preset or no fisa section to ablate")
    training = recipe.fisa
    if config.steps is not None:
        training = replace(training, loop=replace(training.loop, steps=config.steps))
    parts = load_parts(recipe.preset)
    facts = _facts(config, training, parts, recipe.preset)
    bench = _Bench(parts, training, config, data, out, facts)
    for group in variants(config, parts.config.adapter_convolutions):
        for seed in range(config.seeds):
            for variant in group:
                bench.run(variant, seed)
    write_report(out, facts)
    return 0


def variants(config: AblationConfig, convolutions: int) -> list[list[Variant]]:
    """One group for each depth of the adapter, then LoRA with the preset's; each group runs with all seeds in turn."""
    systems = [system for system in config.systems if system in SYSTEMS]
    found = [[Variant(system, count) for system in systems] for count in config.convolutions]
    if "seve_lora" in config.systems:
        found.append([Variant("seve_lora", convolutions, rank) for rank in config.ranks])
    return found


class _Bench:
    """The shared features, made when the first variant needs them, and the results so far."""

    def __init__(
        self,
        parts: FisaParts,
        training: FisaTrainingConfig,
        config: AblationConfig,
        data: Path,
        out: Path,
        facts: dict[str, Any],
    ) -> None:
        self._parts, self._training, self._config = parts, training, config
        self._data, self._out, self._facts = data, out, facts
        self._samples: TrainingSamples | None = None
        self._images: EvaluationImages | None = None
        self._engine = Engine("cpu")
        self._text: TextEmbeddings = parts.text_encoder.encode(Vocabulary.build(list(TABLETOP_SPECS)))

    def run(self, variant: Variant, seed: int) -> None:
        """Train and evaluate, unless that was done already."""
        path = result_path(self._out, variant.name, seed)
        if path.exists() and _read(path)["facts"] == self._facts:
            return
        images, samples = self._evaluation_images(), self._training_samples()
        torch.manual_seed(seed)
        classifier = self._parts.classifier(**variant.changes())
        if classifier.config.clip_training != "frozen":
            samples = replace(samples, masks=replace(samples.masks, memory=()))
        began = time.monotonic()
        folder = self._out / "training" / f"{variant.name}-{seed}-{_digest(self._facts)}"
        plan = variant.training(self._training, seed)
        train_fisa(classifier, self._parts.text_encoder, samples, plan, folder, engine=self._engine)
        seconds = time.monotonic() - began
        quality = fisa_quality(classifier, images, self._text, self._parts.preset.merge)
        trained = sum(value.numel() for value in classifier.trained_state_dict().values())
        self._write(path, variant, seed, quality, trained_parameters=trained, training_seconds=round(seconds, 1))

    def _evaluation_images(self) -> EvaluationImages:
        if self._images is None:
            classifier = self._parts.classifier(**SYSTEMS["baseline"]).eval()
            views = load_or_render(self._data, self._config.split, scenes=self._config.images, views=1)
            views = first_views(views, self._config.images)
            shown = {label for labels in views.labels for label in labels}
            for kind, names in (("seen", SEEN), ("unseen", UNSEEN)):
                if not shown & names:
                    raise ConfigError(
                        f"the first {len(views)} images of split {self._config.split} show no {kind} category; "
                        "evaluate more of them, or the split val or test"
                    )
            self._images = EvaluationImages.collect(classifier, self._parts.generator, views)
            self._references(self._images)
        return self._images

    def _training_samples(self) -> TrainingSamples:
        if self._samples is None:
            classifier = self._parts.classifier(**SYSTEMS["baseline"]).eval()
            self._samples = collect(classifier, self._parts.generator, self._training, self._data)
        return self._samples

    def _references(self, images: EvaluationImages) -> None:
        """The classifier before FISA, as the preset `tabletop` sets it and without mirroring, and a perfect one."""
        clip = self._parts.preset.clip
        settings = load_preset("tabletop").classifier
        assert clip is not None and settings is not None  # as the bundled presets have it
        for convolutions, mirrored in enumerate((False, settings.mirrored)):
            variant = Variant("first", convolutions)
            path = result_path(self._out, variant.name, 0)
            if not path.exists() or _read(path)["facts"] != self._facts:
                config: MaskedCropConfig = replace(settings, mirrored=mirrored)
                module = MaskedCropClassifier(self._parts.tower, clip.image_size, clip.patch_size, config)
                quality = module_quality(module, images, self._text, self._parts.preset.merge)
                self._write(path, variant, 0, quality, mirrored=mirrored)
        path = result_path(self._out, "oracle-c0", 0)
        if not path.exists() or _read(path)["facts"] != self._facts:
            quality = oracle_quality(images, self._text, self._parts.preset.merge)
            self._write(path, Variant("oracle", 0), 0, quality)

    def _write(self, path: Path, variant: Variant, seed: int, quality: NamedQuality, **more: object) -> None:
        facts = {"variant": asdict(variant), "seed": seed, "facts": self._facts, **more}
        write_json(path, {**facts, **asdict(quality)})
        print(f"{variant.name} seed {seed}: PQ seen {quality.seen:.1f}, unseen {quality.unseen:.1f}", flush=True)
        write_report(self._out, self._facts)


def first_views(views: TabletopViews, count: int) -> TabletopViews:
    """The first views, since shards hold more scenes than asked for."""
    return TabletopViews(views.images[:count], views.segment_ids[:count], views.labels[:count], views.textures[:count])


def result_path(out: Path, name: str, seed: int) -> Path:
    """Where a training's figures are."""
    return out / "runs" / f"{name}-{seed}.json"


def write_report(out: Path, facts: dict[str, Any]) -> None:
    """The table of all results so far that were made with these settings."""
    results = [_read(path) for path in sorted((out / "runs").glob("*.json"))]
    results = [result for result in results if result["facts"] == facts]
    rows = [_row(group) for group in _grouped(results)]
    write_json(out / "ablation.json", {"facts": facts, "rows": rows})
    write_bytes(out / "ablation.md", _markdown(rows, facts).encode())


def _grouped(results: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The seeds of each variant together, systems in the order of `DESCRIPTIONS`."""
    groups: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    order = list(DESCRIPTIONS)
    for result in results:
        variant = result["variant"]
        key = (order.index(variant["system"]), variant["convolutions"], variant["rank"])
        groups.setdefault(key, []).append(result)
    return [sorted(groups[key], key=lambda result: int(result["seed"])) for key in sorted(groups)]


def _row(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first = group[0]
    row = {**first["variant"], "seeds": len(group), "trained_parameters": first.get("trained_parameters", 0)}
    row["mirrored"] = first.get("mirrored", False)
    for name in ("seen", "unseen"):
        values = [result[name] for result in group]
        row[name] = statistics.mean(values)
        row[f"{name}_over_seeds"] = values
        row[f"{name}_ci95_of_first_seed"] = first[f"{name}_interval"]
    return row


def _markdown(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    lines = [
        "| system | adapter convolutions | trained parameters | seeds | PQ seen | PQ unseen | unseen, over seeds "
        "| unseen, 95 % interval over images |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["unseen_ci95_of_first_seed"]
        spread = f"{min(row['unseen_over_seeds']):.1f} to {max(row['unseen_over_seeds']):.1f}"
        title = DESCRIPTIONS[row["system"]] + (f", rank {row['rank']}" if row["rank"] else "")
        is_reference = row["system"] in ("first", "oracle")  # nothing of them trains here
        depth = "" if is_reference else row["convolutions"]
        trained = "" if is_reference else f"{row['trained_parameters']:,}"
        title += ", mirrored too" if row["mirrored"] else ""
        lines.append(
            f"| {title} | {depth} | {trained} | {row['seeds']} "
            f"| {row['seen']:.1f} | {row['unseen']:.1f} | {spread} | {low:.1f} to {high:.1f} |"
        )
    note = (
        f"\n{facts['images']} images of split {facts['split']}; {facts['training']['loop']['steps']} steps of "
        f"{facts['training']['loop']['batch_size']} masks. The interval is the first seed's (percentile bootstrap).\n"
    )
    return "\n".join(lines) + "\n" + note


def _facts(config: AblationConfig, training: FisaTrainingConfig, parts: FisaParts, preset: str) -> dict[str, Any]:
    """What the figures depend on, beside variant and seed."""
    names = (parts.preset.eomt_checkpoint, parts.preset.clip_checkpoint)
    facts = {
        "split": config.split,
        "images": config.images,
        "fisa": asdict(parts.config),
        "merge": asdict(parts.preset.merge),
        "training": asdict(training),
        "checkpoints": {name: sha256_of(own_checkpoint(preset, name)) for name in names if name is not None},
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists, as they come back from a file
    return plain


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"facts", "variant", "seed"} <= content.keys():
            raise ValueError("it lacks facts, variant or seed")
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the result {path} ({error}); delete it and it is made again") from error
    return content
