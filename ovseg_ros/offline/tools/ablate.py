"""`ovseg ablate tabletop`: FISA's parts one by one, on the same masks of the same images (the paper's Table 3)."""

import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_ros.core.build import LoadedClip, build_classifier, load_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.masked_crops import MaskedCropConfig
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.model import Classifier, TwoStage
from ovseg_ros.core.presets import ClassifierSection, FisaSection, load_preset, own_checkpoints, preset_folder
from ovseg_ros.core.types import TextEmbeddings
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.files import digest_of, read_json, sha256_of, write_bytes, write_json
from ovseg_ros.offline.data.tabletop_views import load_or_render
from ovseg_ros.offline.evaluate.fisa import ProposedImage, panoptic_quality, propose_images, true_names
from ovseg_ros.offline.tools.lora import add_low_rank
from ovseg_ros.offline.train.data import RenderedData, open_rendered
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.fisa import FisaTraining, build_untrained, fisa_section, learn
from ovseg_ros.offline.train.fisa_data import (
    CollectedMasks,
    MaskSamples,
    collect_masks,
    fisa_of,
    some_crops,
    with_key_values,
)
from ovseg_ros.offline.train.loop_config import Multiplier
from ovseg_ros.offline.train.run import load_recipe
from ovseg_ros.offline.train.seen_words import SeenWords
from ovseg_ros.offline.train.task import Run
from ovseg_ros.sim.categories import SEEN, TABLETOP_SPECS, UNSEEN
from ovseg_ros.sim.scene import SPLITS

SYSTEMS = {
    "baseline": "baseline: frozen CLIP, mask attention",
    "seve": "+ SEVE, CLIP frozen",
    "seve_full": "+ SEVE, CLIP fully adapted",
    "seve_simo": "+ SEVE + SIMO (FISA)",
    "seve_lora": "+ SEVE, CLIP with LoRA",
}
"""What trains, with its line in the table."""
TITLES = {
    "masked_crops": "masked crops",
    **SYSTEMS,
    "oracle": "true names for the masks that fit (oracle)",
}
BACKBONE_RATE = 0.1
"""Learning rate of a fully adapted CLIP over that of the rest (FISA Sec. 5.3)."""
_REMEDY = "delete it and it is made again"


@dataclass(frozen=True, slots=True)
class AblationConfig:
    """What is compared, and on what.

    Attributes:
        recipe: training recipe with a stage of kind fisa on rendered data.
        seeds: trainings of every system, seeds 0 to `seeds` - 1.
        systems: of `SYSTEMS`.
        convolutions: of the distribution adapter, for each system but "seve_lora", which has the preset's.
        ranks: of LoRA.
        split, images: evaluation data, one view of each of the first scenes.
        steps: of each training, instead of the recipe's; None = the recipe's.
    """

    recipe: str = "tabletop_fisa"
    seeds: int = 3
    systems: tuple[str, ...] = tuple(SYSTEMS)
    convolutions: tuple[int, ...] = (2, 0, 1, 3)
    ranks: tuple[int, ...] = (4, 16, 64)
    split: str = "test"
    images: int = 100
    steps: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.systems) - set(SYSTEMS))
        if unknown:
            raise ConfigError(f"unknown systems {', '.join(unknown)}; choose of {', '.join(SYSTEMS)}")
        if self.split not in SPLITS:
            raise ConfigError(f"unknown split {self.split!r}; expected one of {', '.join(SPLITS)}")


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

    def architecture(self, config: FisaConfig) -> FisaConfig:
        """A preset's, but for the parts that this system lacks; without mirroring."""
        return replace(
            config,
            seve_layers=() if self.system == "baseline" else config.seve_layers,
            query_layers=config.query_layers if self.system == "seve_simo" else (),
            adapter_convolutions=self.convolutions,
            mirrored=False,
        )

    def training(self, config: FisaTraining, seed: int) -> FisaTraining:
        """The recipe's, with this system's learning rates and a seed."""
        slower = (Multiplier("visual.", BACKBONE_RATE),) if self.system == "seve_full" else ()
        return replace(config, loop=replace(config.loop, seed=seed, multipliers=slower))


def variants(config: AblationConfig, convolutions: int) -> list[list[Variant]]:
    """One group for each depth of the adapter, then LoRA with the preset's; each group runs with all seeds in turn."""
    systems = [system for system in config.systems if system != "seve_lora"]
    found = [[Variant(system, count) for system in systems] for count in config.convolutions]
    if "seve_lora" in config.systems:
        found.append([Variant("seve_lora", convolutions, rank) for rank in config.ranks])
    return found


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
    for stage in load_recipe(config.recipe).stages:
        match stage:
            case FisaTraining(data=RenderedData() as rendered):
                loop = replace(stage.loop, steps=config.steps or stage.loop.steps)
                bench = _Bench(config, replace(stage, loop=loop), rendered, Run(data, out, Engine("cpu")))
                bench.run_references()
                for group in variants(config, bench.fisa.architecture.adapter_convolutions):
                    for seed in range(config.seeds):
                        for variant in group:
                            bench.run(variant, seed)
                write_report(out, bench.facts)
                return 0
    raise ConfigError(f"the recipe {config.recipe} has no stage of kind fisa on rendered data to ablate")


class _Bench:
    """The networks and features that all variants share, made when the first one needs them.

    Attributes:
        fisa: what the recipe's preset says of its FISA, untrained.
        facts: what figures depend on, beside variant and seed.
    """

    def __init__(self, config: AblationConfig, training: FisaTraining, data: RenderedData, run: Run) -> None:
        self._config, self._training, self._data, self._run = config, training, data, run
        self._preset, self._files = load_preset(training.preset), preset_folder(training.preset)
        self.fisa = replace(fisa_section(training.preset), checkpoint=None)
        frozen = own_checkpoints(replace(self._preset, model=replace(self._preset.model, classifier=self.fisa)))
        facts = {
            "split": config.split,
            "images": config.images,
            "fisa": asdict(self.fisa.architecture),
            "merge": asdict(self._preset.merge),
            "training": asdict(training),
            "checkpoints": {name: sha256_of(self._files.own(name)) for name in frozen},
        }
        self.facts: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists, as they come back from a file
        self._vocabulary = Vocabulary.build(TABLETOP_SPECS)

    def run(self, variant: Variant, seed: int) -> None:
        """Train and evaluate, unless that was done already."""
        if self._is_done(variant, seed):
            return
        images, samples = self._images, self._samples
        if variant.adapts_clip:  # what it makes of crops changes
            samples = replace(samples, views=replace(samples.views, key_values=None))
        classifier = self.classifier(variant, seed)
        began = time.monotonic()
        training = variant.training(self._training, seed)
        folder = self._run.out / "training" / f"{variant.name}-{seed}-{digest_of(self.facts, 8)}"
        learn(classifier, CollectedMasks(samples, self._words, training.loop), training, folder, self._run.engine)
        seconds = round(time.monotonic() - began, 1)
        trained = sum(value.numel() for value in classifier.trained_state_dict().values())
        if variant.adapts_clip:
            images = [replace(image, crops=with_key_values(classifier, image.crops)) for image in images]
        words = classifier.eval().prepare(self._text)

        def classify(image: ProposedImage) -> Tensor:
            return classifier(image.pixels, image.proposals, words, some_crops(image.crops, slice(None)))

        self._write(variant, seed, classify, images, trained_parameters=trained, training_seconds=seconds)

    def run_references(self) -> None:
        """Masked crops as the preset `tabletop` sets them and without mirroring, and a perfect classifier."""
        section = load_preset("tabletop").model.classifier
        assert isinstance(section, MaskedCropConfig)  # as the package has it
        for number, mirrored in enumerate((False, section.mirrored)):
            variant = Variant("masked_crops", number)
            if not self._is_done(variant, 0):
                crops = self._build(replace(section, mirrored=mirrored), self._clip).eval()
                named = partial(_classify, crops, crops.prepare(self._text))
                self._write(variant, 0, named, self._images, mirrored=mirrored)
        if not self._is_done(Variant("oracle", 0), 0):
            perfect = partial(true_names, fisa_of(self._model), self._vocabulary)
            self._write(Variant("oracle", 0), 0, perfect, self._images)

    def classifier(self, variant: Variant, seed: int) -> FisaClassifier:
        """A variant before its training, on a CLIP of its own."""
        torch.manual_seed(seed)
        tower = copy.deepcopy(self._clip.tower)
        updates = add_low_rank(tower.visual, variant.rank) if variant.rank else []
        section = FisaSection(variant.architecture(self.fisa.architecture))
        classifier = self._build(section, replace(self._clip, tower=tower))
        assert isinstance(classifier, FisaClassifier)
        classifier.visual.requires_grad_(variant.system == "seve_full")
        for update in updates:
            update.requires_grad_(True)
        return classifier

    def _build(self, section: ClassifierSection, clip: LoadedClip) -> Classifier:
        return build_classifier(section, clip, self._files, (), self._model.text_encoder)

    @cached_property
    def _model(self) -> TwoStage:
        return build_untrained(self._training.preset, self._run.engine.device, 0)

    @cached_property
    def _clip(self) -> LoadedClip:
        return load_clip(self._preset.model.clip, self._files, self._run.engine.device)

    @cached_property
    def _text(self) -> TextEmbeddings:
        return self._model.text_encoder.encode(self._vocabulary)

    @cached_property
    def _words(self) -> SeenWords:
        return SeenWords(self._model.text_encoder, self._training.synonyms)

    @cached_property
    def _samples(self) -> MaskSamples:
        views = open_rendered(self._data, self._run)
        samples = collect_masks(self._model, views, self._words, self._training.loss)
        return replace(samples, views=with_key_values(fisa_of(self._model), samples.views))

    @cached_property
    def _images(self) -> list[ProposedImage]:
        split, count = self._config.split, self._config.images
        views = load_or_render(self._run.data or self._run.out / "data", split, scenes=count, views=1)
        count = min(count, len(views))  # shards hold more scenes than asked for
        shown = {label for labels in views.labels[:count] for label in labels}
        for kind, names in (("seen", SEEN), ("unseen", UNSEEN)):
            if not shown & names:
                raise ConfigError(
                    f"the first {count} images of split {split} show no {kind} category; evaluate more of them, or the "
                    "split val or test"
                )
        return propose_images(self._model, views, self._vocabulary, count)

    def _is_done(self, variant: Variant, seed: int) -> bool:
        path = result_path(self._run.out, variant.name, seed)
        return path.exists() and read_json(path, _REMEDY).get("facts") == self.facts

    def _write(
        self,
        variant: Variant,
        seed: int,
        classify: Callable[[ProposedImage], Tensor],
        images: Sequence[ProposedImage],
        **more: object,
    ) -> None:
        """Evaluate, and keep and tell the result."""
        quality = panoptic_quality(classify, images, self._vocabulary, self._preset.merge)
        facts = {"variant": asdict(variant), "seed": seed, "facts": self.facts, **more}
        write_json(result_path(self._run.out, variant.name, seed), {**facts, **asdict(quality)})
        print(f"{variant.name} seed {seed}: PQ seen {quality.seen:.1f}, unseen {quality.unseen:.1f}", flush=True)
        write_report(self._run.out, self.facts)


def _classify(classifier: Classifier, words: Any, image: ProposedImage) -> Tensor:
    logits: Tensor = classifier(image.pixels, image.proposals, words)
    return logits


def result_path(out: Path, name: str, seed: int) -> Path:
    """Where a training's figures are."""
    return out / "runs" / f"{name}-{seed}.json"


def write_report(out: Path, facts: dict[str, Any]) -> None:
    """The table of all results so far that were made with these settings."""
    groups: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for path in sorted((out / "runs").glob("*.json")):
        result = read_json(path, _REMEDY)
        if result.get("facts") == facts:
            variant = Variant(**result["variant"])
            place = (list(TITLES).index(variant.system), variant.convolutions, variant.rank)
            groups.setdefault(place, []).append(result)
    rows = [_row(sorted(groups[key], key=lambda result: int(result["seed"]))) for key in sorted(groups)]
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
        title = TITLES[row["system"]] + (f", rank {row['rank']}" if row["rank"] else "")
        title += ", mirrored too" if row["mirrored"] else ""
        trains = row["system"] in SYSTEMS
        depth, trained = (row["convolutions"], f"{row['trained_parameters']:,}") if trains else ("", "")
        lines.append(
            f"| {title} | {depth} | {trained} | {row['seeds']} "
            f"| {row['seen']:.1f} | {row['unseen']:.1f} | {spread} | {low:.1f} to {high:.1f} |"
        )
    loop = facts["training"]["loop"]
    return "\n".join(lines) + (
        f"\n\n{facts['images']} images of split {facts['split']}; {loop['steps']} steps of {loop['batch_size']} masks. "
        "The interval is the first seed's (percentile bootstrap).\n"
    )
