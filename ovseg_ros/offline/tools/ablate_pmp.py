"""`ovseg ablate pmp`: ways to let words take part in making masks (PMP's Table 3), on objects and groups of objects.

All variants begin with the bundled generator, learn alike, and keep all of it frozen that comes before the joint
blocks: what that makes is computed once, for a fixed set of crops. See docs/pmp.md.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.presets import (
    PresetConfig,
    load_preset,
    own_checkpoints,
    preset_folder,
    two_stage,
)
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.eomt.stem import Encoded
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.text_attention import in_float32
from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.weights.files import sha256_of
from ovseg_ros.offline.data.files import digest_of, write_json
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample
from ovseg_ros.offline.options import AblateOptions
from ovseg_ros.offline.tools.ablate_pmp_report import write_report
from ovseg_ros.offline.tools.ablation import (
    as_stored,
    chosen_seeds,
    chosen_systems,
    evaluation_samples,
    kept_results,
    rendered_stage,
    result_path,
)
from ovseg_ros.offline.tools.named_quality import NamedQuality, matching_names
from ovseg_ros.offline.tools.phrase_quality import PhraseQuality, askable, other_words, whole_questions
from ovseg_ros.offline.tools.prompt_strategies import STRATEGIES, NamedMasks, PromptedEoMT
from ovseg_ros.offline.train.augmentation import draw_view, whole_view
from ovseg_ros.offline.train.data import RenderedData, SegmentedView, open_data, segmented_view, to_pixels
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.loop import Task, run_loop
from ovseg_ros.offline.train.losses import BatchShare, MaskTargets, mask_set_loss
from ovseg_ros.offline.train.masks import to_targets
from ovseg_ros.offline.train.pmp import PmpTraining, build_network, embed_questions, guided_section
from ovseg_ros.offline.train.questions import Question, about_tabletop
from ovseg_ros.sim.categories import SEEN_THINGS, TABLETOP_SPECS, THINGS

TOLD_OTHERS = "pmp_other"
"""PMP that is told other words than those that are asked for, in training and after it."""
SYSTEMS = (*STRATEGIES, TOLD_OTHERS)
BUNDLED = "bundled"
"""The generator as it is before any of these trainings."""
_SEEDS, _STEPS, _SCENES = 2, 400, 120
_BATCH = 32


def ablate_pmp(options: AblateOptions) -> int:
    """Train and evaluate every variant, and write `ablation.md` and `ablation.json`; a stopped run goes on.

    `runs/NAME-SEED.json` is written for each training as soon as it is evaluated.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad option, recipe or preset, or damaged results in --out.
    """
    systems, out = chosen_systems(options, SYSTEMS), options.out
    stage, precision = rendered_stage(options, "pmp", PmpTraining)
    steps = options.steps or _STEPS
    assert isinstance(stage.data, RenderedData)  # as asked
    training = replace(
        stage,
        data=replace(stage.data, scenes=min(stage.data.scenes, _SCENES)),
        loop=replace(
            stage.loop, steps=steps, warmup_steps=min(stage.loop.warmup_steps, steps // 10), gradient_accumulation=1
        ),
    )
    facts = _facts(options, training, precision)
    wanted = [(BUNDLED, 0), *((system, seed) for seed in chosen_seeds(options, _SEEDS) for system in systems)]
    made = {(one["variant"], one["seed"]) for one in kept_results(out, facts)}
    missing = [key for key in wanted if key not in made]
    if missing:
        run = Run(options.data or out / "data", out, Engine("cpu", precision))
        bench = _Bench(options, training, run, digest_of(facts, 8))
        for variant, seed in missing:
            result = {"variant": variant, "seed": seed, "facts": facts, **bench.run(variant, seed)}
            write_json(result_path(out, variant, seed), result)
            print(f"{variant} seed {seed}: done", flush=True)
            write_report(out, facts, kept_results(out, facts))
    write_report(out, facts, kept_results(out, facts))
    return 0


def _facts(options: AblateOptions, training: PmpTraining, precision: str) -> dict[str, Any]:
    """What figures depend on, beside variant and seed."""
    preset, files = _untrained(training.preset), preset_folder(training.preset)
    return as_stored(
        {
            "split": options.split,
            "images": options.images,
            "precision": precision,
            "prompt": asdict(guided_section(training.preset).prompt),
            "merge": asdict(preset.merge),
            "training": asdict(training),
            "checkpoints": {name: sha256_of(files.own(name)) for name in own_checkpoints(preset)},
        }
    )


def _untrained(name: str) -> PresetConfig:
    """A preset before the training of its guidance."""
    preset, section = load_preset(name), replace(guided_section(name), checkpoint=None)
    return replace(preset, model=replace(two_stage(name), proposer=section))


@dataclass(frozen=True, slots=True)
class EncodedView:
    """A picture as the joint blocks get it.

    Attributes:
        tokens: (prefix + patches, C).
        encoded: what they are of; a stem's maps (C', h, w) in half precision, which are several times as large.
        view: its segments.
        segments: their ids and category names.
    """

    tokens: Tensor
    encoded: Encoded
    view: SegmentedView
    segments: tuple[tuple[int, str], ...]


def encode_views(network: PromptedEoMT, views: Sequence[SegmentedView], names: Sequence[str]) -> list[EncodedView]:
    """Pictures of one size through the frozen part of a network; `names` of the categories."""
    found: list[EncodedView] = []
    for start in tqdm(range(0, len(views), _BATCH), desc="tokens", unit="batch", mininterval=5):
        some = views[start : start + _BATCH]
        pixels = normalize(to_pixels([view.image for view in some], torch.device("cpu")), IMAGENET_MEAN, IMAGENET_STD)
        tokens, (grid, finer) = network.encode(pixels.contiguous(memory_format=torch.channels_last))
        for place, view in enumerate(some):
            segments = ((i, names[c]) for i, c in zip(view.ids.tolist(), view.categories.tolist(), strict=True))
            kept = Encoded(grid, [maps[place].half() for maps in finer])
            view = replace(view, image=view.image[:, :0])
            found.append(EncodedView(tokens[place].clone(), kept, view, tuple(segments)))
    return found


def stacked(views: Sequence[EncodedView]) -> tuple[Tensor, Encoded]:
    """Pictures of one size as `PromptedEoMT.encode` makes them."""
    finer = zip(*(view.encoded.finer for view in views), strict=True)
    encoded = Encoded(views[0].encoded.grid, [torch.stack([one.float() for one in maps]) for maps in finer])
    return torch.stack([view.tokens for view in views]), encoded


def training_views(dataset: PanopticDataset, training: PmpTraining) -> list[SegmentedView]:
    """Of every image one crop as a training begins with, and another one, mirrored if the first is not."""
    found = []
    for index in range(len(dataset)):
        sample, rng = dataset[index], np.random.default_rng([training.loop.seed, index])
        first, second = (draw_view(sample, training.augmentation, rng, 0.0) for _ in range(2))
        second = replace(second, flipped=not first.flipped)
        found += [segmented_view(sample, first), segmented_view(sample, second)]
    return found


class StrategyTask(Task):
    """One-to-one matched losses, after the last block, of what a sample's words name."""

    model: PromptedEoMT

    def __init__(
        self,
        name: str,
        network: PromptedEoMT,
        views: Sequence[EncodedView],
        training: PmpTraining,
        text_encoder: TextEncoder,
    ) -> None:
        """`name`: of a variant; one that is told other words draws them here."""
        self.name, self.model = name, network
        self._views, self._training, self._text_encoder = views, training, text_encoder
        self._questions = about_tabletop(training.questions)
        self._pool = askable(SEEN_THINGS) if name == TOLD_OTHERS else None

    def losses(self, step: int, samples: range, counts: Tensor) -> Mapping[str, Tensor]:
        """Of the whole batch: it is never split."""
        views, asked, told = [], [], []
        for sample in samples:
            rng = np.random.default_rng([self._training.loop.seed, step, sample])
            view = self._views[int(rng.integers(len(self._views)))]
            question = self._questions.draw(view.segments, rng)
            views.append(view)
            asked.append(question)
            if self._pool is not None:
                told.append(Question(tuple(other_words(question.phrases, self._pool, rng)), ()))
        named = self.model.decode(
            *stacked(views),
            guiding_words(self.model, asked, self._text_encoder),
            guiding_words(self.model, told, self._text_encoder) if told else None,
        )
        size = named.mask_logits.shape[-2:]
        targets = [
            to_targets(view.view, question.answers, size, torch.device("cpu"))
            for view, question in zip(views, asked, strict=True)
        ]
        return _losses(named, targets, self._training)


def _losses(named: NamedMasks, targets: Sequence[MaskTargets], training: PmpTraining) -> dict[str, Tensor]:
    if named.present is None:
        return mask_set_loss([QueryPrediction(named.mask_logits, named.word_logits)], list(targets), training.loss)
    masks = [len(target.classes) for target in targets]
    parts = [  # image by image, without the masks of padding
        mask_set_loss(
            [QueryPrediction(named.mask_logits[i][shown][None], named.word_logits[i][shown][None])],
            [target],
            training.loss,
            BatchShare(range(i, i + 1), masks),
        )
        for i, (target, shown) in enumerate(zip(targets, named.present, strict=True))
    ]
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def guiding_words(network: PromptedEoMT, questions: Sequence[Question], text_encoder: TextEncoder) -> GuidingWords:
    """The words of B questions, made ready."""
    assert network.guidance is not None
    with in_float32(torch.device("cpu")):  # a mixed precision is the masks' alone
        vectors, present = embed_questions(questions, text_encoder, torch.device("cpu"))
    return network.guidance.prepare(vectors, present=None if bool(present.all()) else present)


@torch.no_grad()
def evaluate(
    network: PromptedEoMT,
    images: Sequence[tuple[PanopticSample, EncodedView]],
    text_encoder: TextEncoder,
    preset: PresetConfig,
    *,
    told_others: bool = False,
) -> dict[str, Any]:
    """How well a network's masks fit what is asked of images.

    Args:
        told_others: whether what makes the masks is told other words than those that are asked for.

    Returns:
        "iou": sums as `PhraseQuality` keeps them; "pq_matching" and "pq": panoptic quality under all words, with the
        names of the segments that masks match, and with those of the word head.
    """
    phrases, vocabulary = PhraseQuality(), Vocabulary.build(TABLETOP_SPECS)
    matching, own = (NamedQuality(vocabulary, preset.merge) for _ in range(2))
    pool, things = askable(THINGS), frozenset(THINGS)
    for number, (sample, encoded) in enumerate(tqdm(images, desc="evaluation", unit="image", mininterval=5)):
        rng = np.random.default_rng(number)

        @cache
        def ask(
            questions: tuple[tuple[str, ...], ...],
            encoded: EncodedView = encoded,
            rng: np.random.Generator = rng,
        ) -> tuple[Tensor, Tensor]:
            asked = [Question(words, ()) for words in questions]
            told = [Question(tuple(other_words(words, pool, rng)), ()) for words in questions] if told_others else []
            with torch.autocast("cpu", dtype=torch.bfloat16):
                named = network.decode(
                    *stacked([encoded] * len(asked)),
                    guiding_words(network, asked, text_encoder),
                    guiding_words(network, told, text_encoder) if told else None,
                )
            return named.mask_logits.float(), named.word_logits

        shown = [(segment, name) for segment, name in encoded.segments if name in things]
        phrases.add(ask, shown, sample.segment_ids)
        masks, words = ask((whole_questions()["instances"],))
        matching.add(sample, masks[0], matching_names(masks[0], sample, len(TABLETOP_SPECS)))
        own.add(sample, masks[0], words[0])
    return {"iou": phrases.sums, "pq_matching": matching.figures(), "pq": own.figures()}


class _Bench:
    """The tokens that all variants share, and the training and evaluation of one."""

    def __init__(self, options: AblateOptions, training: PmpTraining, run: Run, digest: str) -> None:
        """`digest`: of the settings; ends the names of training folders."""
        self._training, self._run, self._digest = training, run, digest
        self._preset = _untrained(training.preset)
        samples = evaluation_samples(options, run)
        network, self._text_encoder = self._build("none", 0)
        dataset = open_data(training.data, run)
        names = [category.name for category in dataset.categories]
        self._views = encode_views(network, training_views(dataset, training), names)
        augmentation = training.augmentation
        whole = [segmented_view(one, whole_view(one.segment_ids.shape, augmentation)) for one in samples]
        self._images = list(zip(samples, encode_views(network, whole, names), strict=True))

    def run(self, variant: str, seed: int) -> dict[str, Any]:
        """The figures of a variant."""
        strategy = {BUNDLED: "none", TOLD_OTHERS: "pmp"}.get(variant, variant)
        network, _ = self._build(strategy, seed)
        facts: dict[str, Any] = {}
        if variant != BUNDLED:
            facts = self._learn(network, variant, seed)
        network.eval()
        figures = evaluate(network, self._images, self._text_encoder, self._preset, told_others=variant == TOLD_OTHERS)
        if variant == "pmp":
            facts["told_others"] = evaluate(network, self._images, self._text_encoder, self._preset, told_others=True)
        return {**facts, "figures": figures}

    def _build(self, strategy: str, seed: int) -> tuple[PromptedEoMT, TextEncoder]:
        network, text_encoder = build_network(self._training.preset, torch.device("cpu"), seed)
        if not isinstance(network, EoMT):
            raise ConfigError(f"the generator of the preset {self._training.preset} is no EoMT, which this compares")
        return PromptedEoMT(network, STRATEGIES[strategy]), text_encoder

    def _learn(self, network: PromptedEoMT, variant: str, seed: int) -> dict[str, Any]:
        network.requires_grad_(False)
        trained = network.trained_parameters()
        for parameter in trained:
            parameter.requires_grad_(True)
        training = replace(self._training, loop=replace(self._training.loop, seed=seed))
        folder = self._run.out / "training" / f"{variant}-{seed}-{self._digest}"
        began = time.monotonic()
        task = StrategyTask(variant, network, self._views, training, self._text_encoder)
        run_loop(task, training.loop, folder, engine=self._run.engine)
        seconds = round(time.monotonic() - began, 1)
        return {"trained_parameters": sum(map(Tensor.numel, trained)), "training_seconds": seconds}
