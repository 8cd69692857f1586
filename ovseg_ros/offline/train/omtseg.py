"""Train an OMTSeg: all categories are named in one text, in a new order at each step."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from ovseg_ros.core.build import build_omtseg_network, build_tokenizer
from ovseg_ros.core.config import STRICT, Share
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import BLACK, IMAGENET_MEAN, IMAGENET_STD, normalize, pad
from ovseg_ros.core.joint.omtseg.config import MASK_STRIDE, STRIDE, OMTSegConfig
from ovseg_ros.core.joint.omtseg.model import OMTSeg
from ovseg_ros.core.joint.omtseg.network import OBJECT, OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import Tokenizer, write_text
from ovseg_ros.core.presets import load_preset, preset_folder, require_weights
from ovseg_ros.core.sections import OMTSegSection
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.core.vocabulary import as_read
from ovseg_ros.offline.train.augmentation import AugmentationConfig
from ovseg_ros.offline.train.data import (
    DataConfig,
    SegmentedView,
    open_data,
    require_instances,
    require_seen,
    shown_categories,
    to_pixels,
)
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig, Weight
from ovseg_ros.offline.train.losses import BatchShare, MaskLossConfig, MaskTargets, mask_set_loss
from ovseg_ros.offline.train.masks import Answer, MaskTask, require_whole_patches
from ovseg_ros.offline.train.validation import Validation, ValidationConfig, open_validation

_TEXT_STREAM = 2
"""Ends the seed of a step's text."""
_NAMES_TOLD = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, config=STRICT)
class OMTSegTraining:
    """A stage that trains the OMTSeg of a preset.

    Attributes:
        preset: says which network and tokens, and names the file of the result in --out.
        data, augmentation, loop: what on, in which views, how long. Views are padded to multiples of 32 pixels.
        loss: of masks and objectness; the class weight is objectness's.
        word_weight: of the words' cross-entropy.
        separators: most signs after a name; each time 1 or more. Of a text that is longer so than the network has
            positions for (`trained_words`), as many are left out.
        synonyms: how often a category is called by a synonym.
        validation: when and on what to measure what would be used; None = never.
    """

    preset: str
    data: DataConfig
    augmentation: AugmentationConfig
    loop: LoopConfig
    loss: MaskLossConfig = Field(default_factory=MaskLossConfig)
    word_weight: Weight = 2.0
    separators: Annotated[int, Field(ge=1, le=16)] = 3
    synonyms: Share = 0.0
    validation: ValidationConfig | None = None
    kind: Literal["omtseg"] = "omtseg"

    def __post_init__(self) -> None:
        require_instances(self.data)
        require_seen(self.data)


def omtseg_section(preset: str) -> OMTSegSection:
    """What a preset says of its OMTSeg; ConfigError if its model is another."""
    model = load_preset(preset).model
    if not isinstance(model, OMTSegSection):
        raise ConfigError(
            f"the model of the preset {preset} is of kind {model.kind}, not omtseg; name another, such as omtseg_l or "
            "tabletop_omtseg"
        )
    return model


def omtseg_checkpoint(preset: str) -> str:
    """What a preset calls the file of its trained network; ConfigError if it has no name for it."""
    checkpoint = omtseg_section(preset).checkpoint
    if checkpoint is None:
        raise ConfigError(f"the preset {preset} names no model.checkpoint; name there what to write")
    return checkpoint


class OMTSegTask(MaskTask):
    """Losses before the decoder's first layer and after each, of every segment of a view."""

    model: OMTSegNetwork

    def __init__(self, config: OMTSegTraining, network: OMTSegNetwork, tokenizer: Tokenizer, run: Run) -> None:
        """`network`: trained in place. Errors as of `train_omtseg`."""
        require_whole_patches(config.augmentation, MASK_STRIDE)
        dataset = open_data(config.data, run)
        super().__init__("omtseg", network, config, dataset, run.engine.device)
        self._config = config
        categories = shown_categories(config.data, dataset)
        self._place_of = {category.index: place for place, category in enumerate(categories)}
        self._names = [[tokenizer.tokens(as_read(phrase)) for phrase in (c.name, *c.synonyms)] for c in categories]
        self._tokenizer = tokenizer
        self._require_room()
        unknown = [c.name for c, name in zip(categories, self._names, strict=True) if tokenizer.unknown in name[0]]
        if unknown and run.engine.is_main:
            told = ", ".join(unknown[:_NAMES_TOLD])
            logger.warning("the preset's tokenizer does not know all words of %d names, such as %s", len(unknown), told)

    def text(self, step: int) -> tuple[Tensor, Tensor]:
        """The text of a step: ids (L,), and (K,) the place of each shown category's name, in the data's order."""
        generator = np.random.default_rng([self._config.loop.seed, step, _TEXT_STREAM])
        order = generator.permutation(len(self._names))
        counts = generator.integers(1, self._config.separators + 1, len(order))
        chosen = [self._called(phrases, generator) for phrases in self._names]
        names = [chosen[k] for k in order]
        spare = np.arange(len(order)).repeat(counts - 1)  # the names of all separators that need not be
        excess = self._length(names) + len(spare) - self.model.config.trained_words
        if excess > 0:
            np.subtract.at(counts, generator.choice(spare, excess, replace=False), 1)
        return self._written(names, counts.tolist(), order)

    def system(self) -> PanopticSegmenter:
        config, section = load_preset(self._config.preset), omtseg_section(self._config.preset)
        model = OMTSeg(self.model, self._tokenizer, unknown_likeness=section.unknown_likeness)
        return PanopticSegmenter(model, config.merge, self._device)

    def result(self) -> dict[str, Tensor]:
        section = omtseg_section(self._config.preset)
        return self.model.trained_state(encoder_is_public=section.encoder_weights is not None)

    def _called(self, phrases: list[list[int]], generator: np.random.Generator) -> list[int]:
        """The name, or sometimes one of the synonyms."""
        by_synonym, which = generator.random() < self._config.synonyms, generator.integers(max(1, len(phrases) - 1))
        return phrases[1 + which] if by_synonym and len(phrases) > 1 else phrases[0]

    def _written(self, names: list[list[int]], separators: list[int], order: np.ndarray) -> tuple[Tensor, Tensor]:
        written = write_text(names, self._tokenizer, separators)
        places = np.empty(len(order), np.int64)
        places[order] = written.places
        return torch.tensor(written.ids, device=self._device), torch.from_numpy(places).to(self._device)

    def _length(self, names: list[list[int]]) -> int:
        """Tokens of the shortest text of these names."""
        return len(write_text(names, self._tokenizer).ids)

    def _require_room(self) -> None:
        """ConfigError if a text that a step may write is longer than the network is trained with, at its shortest."""
        longest = [max(phrases if self._config.synonyms else phrases[:1], key=len) for phrases in self._names]
        length, room = self._length(longest), self.model.config.trained_words
        if length > room:
            called = "names or synonyms" if self._config.synonyms else "names"
            raise ConfigError(
                f"the data's {len(longest)} {called} make up to {length} tokens, but architecture.trained_words of the "
                f"preset {self._config.preset} is {room}; raise it, or train on fewer categories"
            )

    def _answers(self, view: SegmentedView, step: int, sample: int) -> Sequence[Answer]:
        ids, categories = view.ids.tolist(), view.categories.tolist()
        return [(self._place_of[category], (segment,)) for segment, category in zip(ids, categories, strict=True)]

    def _predict(self, views: Sequence[SegmentedView], step: int, samples: range, batch: int) -> list[QueryPrediction]:
        return self._named(views, self.text(step))

    def _predict_whole(self, view: SegmentedView) -> QueryPrediction:
        names = [phrases[0] for phrases in self._names]
        return self._named([view], self._written(names, [1] * len(names), np.arange(len(names))))[-1]

    def _named(self, views: Sequence[SegmentedView], text: tuple[Tensor, Tensor]) -> list[QueryPrediction]:
        ids, places = text
        predictions, _ = self.model(self._pixels(views), self.model.embed(ids), places)
        rows, columns = self.model.mask_size(*views[0].segment_ids.shape)
        return [replace(one, mask_logits=one.mask_logits[..., :rows, :columns]) for one in predictions]

    def _compared(
        self, predictions: list[QueryPrediction], targets: list[MaskTargets], share: BatchShare
    ) -> dict[str, Tensor]:
        objects = [MaskTargets(one.masks, torch.full_like(one.classes, OBJECT), one.classes) for one in targets]
        return mask_set_loss(predictions, objects, self._loss, share, word_weight=self._config.word_weight)

    def _pixels(self, views: Sequence[SegmentedView]) -> Tensor:
        pixels = to_pixels([view.image for view in views], self._device)
        height, width = (side + -side % STRIDE for side in pixels.shape[-2:])
        return normalize(pad(pixels, (height, width), BLACK), IMAGENET_MEAN, IMAGENET_STD)


def build_untrained(
    preset: str, seed: int, architecture: OMTSegConfig | None = None
) -> tuple[OMTSegNetwork, Tokenizer]:
    """A preset's network as a training begins with it, its public encoder frozen, and its tokens.

    Args:
        architecture: in place of the preset's.

    Raises:
        ConfigError, CheckpointError: the preset is malformed or of another kind, or weights are missing or do not fit.
    """
    section, files = omtseg_section(preset), preset_folder(preset)
    require_weights(preset, load_preset(preset))
    torch.manual_seed(seed)
    untrained = replace(section, checkpoint=None, architecture=architecture or section.architecture)
    network = build_omtseg_network(untrained, files)
    if section.encoder_weights is not None:
        network.freeze_encoder()
    return network, build_tokenizer(section, files)


def learn(
    network: OMTSegNetwork,
    tokenizer: Tokenizer,
    config: OMTSegTraining,
    run: Run,
    folder: Path,
    validation: Validation | None = None,
) -> OMTSegTask:
    """Train in place, going on from the state in `folder`."""
    task = OMTSegTask(config, network, tokenizer, run)
    try:
        run.begins()
        run_loop(task, config.loop, folder, engine=run.engine, validation=validation)
    finally:
        task.stream.close()
    return task


def train_omtseg(config: OMTSegTraining, run: Run) -> None:
    """Train, going on from the folder `omtseg` in --out, and write what was trained under the name that the preset has.

    Raises:
        ConfigError: the preset is malformed, no OMTSeg or has no name for its checkpoint, or the data's names are too
            long for it.
        CheckpointError, DatasetError: for missing or ill-fitting weights and bad data.
    """
    checkpoint, validation = omtseg_checkpoint(config.preset), open_validation(config.validation, config.data, run)
    network, tokenizer = build_untrained(config.preset, config.loop.seed)
    task = learn(network, tokenizer, config, run, run.out / "omtseg", validation)
    run.save(checkpoint, task.result())
