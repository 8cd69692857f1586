"""Train an LMSeg: every pixel against every word, each by itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovseg_ros.core.build import LoadedClip, build_scorer, load_clip, text_width
from ovseg_ros.core.build_masks import build_proposer
from ovseg_ros.core.classification.lmseg import LMSegClassifier
from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.joint.semantic import SemanticModel
from ovseg_ros.core.model import Proposer, TwoStage
from ovseg_ros.core.presets import load_preset, preset_folder, require_weights, scored_section, with_untrained_scorer
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer, ScoredWords, Scores
from ovseg_ros.core.sections import LMSegSection, SemanticSection, TwoStageSection
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.vocabulary import as_read
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.offline.train.augmentation import AugmentationConfig
from ovseg_ros.offline.train.data import (
    DataConfig,
    RenderedData,
    open_semantic,
    require_seen,
    shown_categories,
)
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.lmseg_data import IGNORED, AugmentedViews, LabelledViews, WholeViews
from ovseg_ros.offline.train.loop import Task, run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.pictures import compare_segments
from ovseg_ros.offline.train.validation import Validation, ValidationConfig, open_validation

_WORD_STREAM = 3
"""Ends the seed of a step's words."""


@dataclass(frozen=True, slots=True, config=STRICT)
class LMSegTraining:
    """A stage that trains the scorer of a preset, whichever use the preset makes of it.

    Attributes:
        preset: says which encoders and scorer, and names the file of the result in --out.
        data, loop: what on, how long. Instances do not count.
        augmentation: the views. None, of rendered data only: whole ones; their features are computed once, if no
            encoder learns.
        max_words: most words that an image is compared with; None: all of the data's.
        others: which they are beside those that it shows, if not all: for a step at "random", or for each image those
            of the highest cosines, "likeliest".
        synonyms: how often a category is called by a synonym.
        ignored_is_negative: whether pixels without a category fit no word, as CAT-Seg has it; else they do not count.
        validation: when and on what to measure what would be used; None = never.
    """

    preset: str
    data: DataConfig
    loop: LoopConfig
    augmentation: AugmentationConfig | None = None
    max_words: Annotated[int, Field(ge=1, le=65_535)] | None = None
    others: Literal["random", "likeliest"] = "random"
    synonyms: Share = 0.0
    ignored_is_negative: bool = False
    validation: ValidationConfig | None = None
    kind: Literal["lmseg"] = "lmseg"

    def __post_init__(self) -> None:
        require_seen(self.data)
        if self.augmentation is None and not isinstance(self.data, RenderedData):
            raise ValueError("data of kind panoptic needs an augmentation; only rendered views are taken whole")


class Sentences(NamedTuple):
    """What words are read by.

    Attributes:
        encoder: vectors of phrases, of which the encoder keeps those that it knows; used where it stays as it is.
        encode: sentences -> (N, D) with gradients; None where the text tower stays as it is.
    """

    encoder: TextEncoder
    encode: Callable[[Sequence[str]], Tensor] | None


class LMSegTask(Task):
    """Binary cross-entropy of every pixel and word (LMSeg's and CAT-Seg's)."""

    model: LMSegScorer

    def __init__(
        self,
        config: LMSegTraining,
        scorer: LMSegScorer,
        sentences: Sentences,
        views: LabelledViews,
        categories: Sequence[DatasetCategory],
    ) -> None:
        """`scorer`: trained in place. `categories`: K, in the order of the labels of `views`."""
        self.name, self.model = "lmseg", scorer
        self._config, self._sentences, self._views = config, sentences, views
        self._phrases = [[as_read(phrase) for phrase in (c.name, *c.synonyms)] for c in categories]
        self._proposer: Proposer | None = None

    def counts(self, step: int, samples: range) -> Tensor:
        """(len(samples), K + 1): whether each category is shown, and how many pixels count."""
        return torch.stack([self._counted(labels) for labels in self._views.labels(step, samples)])

    def losses(self, step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        counts = counts.cpu()  # words are chosen there
        shown = counts[:, :-1] > 0  # (B, K)
        chosen = self._chosen(step, shown.any(dim=0).numpy())  # (k,)
        labels = torch.stack(self._views.labels(step, samples)).to(self.model.embed.weight.device)  # (n, H, W)
        words, most = self._words(step, chosen), self._config.max_words
        required = None
        if self._config.others == "likeliest" and most is not None:
            required = shown[samples.start : samples.stop, torch.from_numpy(chosen)].to(labels.device)
        else:
            most = None
        scores = self.model.score(self._views.encoded(step, samples), words, most=most, required=required)
        pixels = float(counts[:, -1].sum()) * (len(samples) / len(counts))
        return {"bce": self._cross_entropy(scores, labels, chosen) / max(1.0, pixels * scores.logits.shape[1])}

    def pictures(self) -> dict[str, np.ndarray]:
        words = self._words(0, np.arange(len(self._phrases)))
        rows = []
        for view in self._views.shown():
            scores = self.model(view.image[None].to(words.vectors.device), words)
            logits = F.interpolate(scores.logits, view.labels.shape, mode="bilinear", align_corners=False)[0]
            best, place = logits.max(dim=0)
            found = torch.where(best > 0, scores.words[0][place], IGNORED)
            rows.append(compare_segments(view.image, view.labels + 1, found + 1))
        return {"categories": np.concatenate(rows)}

    def system(self) -> PanopticSegmenter:
        preset, device = load_preset(self._config.preset), self.model.embed.weight.device
        model, files = preset.model, preset_folder(self._config.preset)
        words = self._sentences.encoder.anew()  # as the tower that reads them may be learning
        if isinstance(model, SemanticSection):
            components = model.max_instances if model.instances == "components" else None
            return PanopticSegmenter(SemanticModel(self.model, words, max_components=components), preset.merge, device)
        assert isinstance(model, TwoStageSection) and isinstance(model.classifier, LMSegSection)
        if self._proposer is None:
            width = text_width(model.clip, files)
            self._proposer = build_proposer(model.proposer, model.input_size, files, width)[0]
        classifier = LMSegClassifier(self.model, model.classifier.void_correction)
        return PanopticSegmenter(TwoStage(self._proposer, classifier, words, model.input_size), preset.merge, device)

    def result(self) -> dict[str, Tensor]:
        return self.model.trained_state_dict()

    def _counted(self, labels: Tensor) -> Tensor:
        present = torch.zeros(len(self._phrases) + 1)
        counted = labels[labels != IGNORED]
        present[counted.unique()] = 1
        present[-1] = labels.numel() if self._config.ignored_is_negative else len(counted)
        return present

    def _chosen(self, step: int, shown: np.ndarray) -> np.ndarray:
        """The categories that a step's words are, ascending; those that its images show before others."""
        count, most = len(shown), self._config.max_words
        if most is None or most >= count or self._config.others == "likeliest":
            return np.arange(count)
        order = np.random.default_rng([self._config.loop.seed, step, _WORD_STREAM]).permutation(count)
        return np.sort(order[np.argsort(~shown[order], kind="stable")][:most])

    def _words(self, step: int, chosen: np.ndarray) -> ScoredWords:
        """The words of a step: each category by its name or a synonym."""
        generator = np.random.default_rng([self._config.loop.seed, step, _WORD_STREAM, 1])
        draws = generator.random((len(self._phrases), 3))[chosen]
        called = [self._called(self._phrases[k], *draw) for k, draw in zip(chosen, draws[:, :2].tolist(), strict=True)]
        encoder, encode = self._sentences
        if encode is None:
            vectors = encoder.vectors(called)
        else:  # gradients of one sentence each
            descriptions = encoder.described()
            told = [encoder.sentences(phrase, descriptions) for phrase in called]
            vectors = encode(
                [some[int(draw * len(some))] for some, draw in zip(told, draws[:, 2].tolist(), strict=True)]
            )
        places = torch.arange(len(chosen), device=vectors.device)
        return self.model.words(vectors, places, places, places)

    def _called(self, phrases: Sequence[str], by_synonym: float, which: float) -> str:
        if by_synonym >= self._config.synonyms or len(phrases) == 1:
            return phrases[0]
        return phrases[1 + int(which * (len(phrases) - 1))]

    def _cross_entropy(self, scores: Scores, labels: Tensor, chosen: np.ndarray) -> Tensor:
        """The sum over pixels that count and over words; softplus(z) - z y, so that no one-hot targets are made."""
        logits = scores.logits.float()  # in reduced precision, a sum over pixels would lose most of them
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)  # (n, k, H, W)
        # Of each category its place among the scores of each image; of those that are not looked at, and of pixels
        # without a category, none.
        places = torch.full((len(labels), len(self._phrases) + 1), -1, device=labels.device)
        categories = torch.from_numpy(chosen).to(labels.device)[scores.words]  # (n, k)
        places.scatter_(1, categories, torch.arange(logits.shape[1], device=labels.device).expand_as(categories))
        columns = torch.where(labels == IGNORED, len(self._phrases), labels).flatten(1)
        place = places.gather(1, columns).view_as(labels)  # (n, H, W)
        all_negative = F.softplus(logits).sum(dim=1)  # (n, H, W)
        own = logits.gather(1, place.clamp(min=0)[:, None])[:, 0]
        each = all_negative - torch.where(place >= 0, own, 0)
        return each.sum() if self._config.ignored_is_negative else each[labels != IGNORED].sum()


def lmseg_checkpoint(preset: str) -> str:
    """What a preset calls the file of its trained scorer; ConfigError if it has no scorer, or no name for it."""
    checkpoint = scored_section(preset)[1].checkpoint
    if checkpoint is None:
        raise ConfigError(f"the preset {preset} names no checkpoint of its scorer; name there what to write")
    return checkpoint


def build_untrained(preset: str, device: torch.device, seed: int) -> tuple[LMSegScorer, LoadedClip]:
    """A preset's scorer as a training begins with it, and its CLIP; errors as of `train_lmseg`."""
    model, section = scored_section(preset)
    require_weights(preset, with_untrained_scorer(preset))
    files = preset_folder(preset)
    clip = load_clip(model.clip, model.templates, files, device, model.descriptions)
    torch.manual_seed(seed)
    return build_scorer(replace(section, checkpoint=None), clip, files).to(device), clip


def open_views(config: LMSegTraining, scorer: LMSegScorer, run: Run) -> tuple[LabelledViews, list[DatasetCategory]]:
    """What a training sees, and the categories that its labels stand for."""
    dataset = open_semantic(config.data, run)
    categories = shown_categories(config.data, dataset)
    places = {category.index: place for place, category in enumerate(categories)}
    if config.augmentation is not None:
        return AugmentedViews(dataset, places, config.data, config.augmentation, config.loop, scorer), categories
    return WholeViews(dataset, places, config.loop, scorer), categories


def learn(
    scorer: LMSegScorer,
    clip: LoadedClip,
    config: LMSegTraining,
    run: Run,
    folder: Path,
    validation: Validation | None = None,
) -> LMSegTask:
    """Train in place, going on from the state in `folder`; `clip`: the one around which the scorer was built."""
    views, categories = open_views(config, scorer, run)
    sentences = Sentences(clip.text_encoder, clip.encode if scorer.text is not None else None)
    task = LMSegTask(config, scorer, sentences, views, categories)
    try:
        run.begins()
        run_loop(task, config.loop, folder, engine=run.engine, validation=validation)
    finally:
        views.close()
    return task


def train_lmseg(config: LMSegTraining, run: Run) -> None:
    """Train, going on from the folder `lmseg` in --out, and write what was trained under the name that the preset has.

    Raises:
        ConfigError: the preset is malformed, has no scorer or no name for its checkpoint, or does not fit the data.
        CheckpointError, DatasetError: for missing or ill-fitting weights and bad data.
    """
    checkpoint, validation = lmseg_checkpoint(config.preset), open_validation(config.validation, config.data, run)
    scorer, clip = build_untrained(config.preset, run.engine.device, config.loop.seed)
    task = learn(scorer, clip, config, run, run.out / "lmseg", validation)
    run.save(checkpoint, task.result())
