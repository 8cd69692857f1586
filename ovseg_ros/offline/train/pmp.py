"""Train a prompt-guided mask generator (PMP): words are asked for, and only what they name is to be found."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovseg_ros.core.build import build_two_stage, load_clip, text_width
from ovseg_ros.core.build_masks import build_proposer
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.presets import (
    load_preset,
    preset_folder,
    require_weights,
    two_stage,
)
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.proposals.padded import PromptGuidedProposer
from ovseg_ros.core.sections import PromptGuidedSection
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.text_attention import in_float32
from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.core.weights.files import find_weights, read_weights
from ovseg_ros.core.weights.strict import check_fit
from ovseg_ros.offline.train.augmentation import AugmentationConfig
from ovseg_ros.offline.train.begin import begun_with
from ovseg_ros.offline.train.data import (
    DataConfig,
    RenderedData,
    SegmentedView,
    open_data,
    require_instances,
    require_seen,
)
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import MaskLossConfig
from ovseg_ros.offline.train.masks import Answer, MaskTask, require_whole_patches
from ovseg_ros.offline.train.questions import Question, QuestionConfig, about_categories, about_tabletop
from ovseg_ros.offline.train.validation import ValidationConfig, open_validation

_QUESTION_STREAM = 1
"""Ends the seed of a sample's words, apart from its view's."""


@dataclass(frozen=True, slots=True, config=STRICT)
class PmpTraining:
    """A stage that trains the prompt-guided mask generator of a preset.

    Attributes:
        preset: says which generator and which words' vectors, and names the file of the result in --out.
        data, augmentation, loop, loss: what on, in which views, how long, by what measure.
        questions: which words are asked for.
        begins_with: the "generator" of the preset, whose words say nothing yet; the preset's "trained" network; or such
            a network's file, a state of its training, the folder of its run, or another preset.
        validation: when and on what to measure what would be used; None = never.
    """

    preset: str
    data: DataConfig
    augmentation: AugmentationConfig
    loop: LoopConfig
    loss: MaskLossConfig = Field(default_factory=MaskLossConfig)
    questions: QuestionConfig = Field(default_factory=QuestionConfig)
    begins_with: Annotated[str, Field(min_length=1)] = "generator"
    validation: ValidationConfig | None = None
    kind: Literal["pmp"] = "pmp"

    def __post_init__(self) -> None:
        require_instances(self.data)
        require_seen(self.data)
        if self.questions.groups and not isinstance(self.data, RenderedData):
            raise ValueError("questions.groups needs data of kind rendered; of a data set write groups: 0")


def guided_section(preset: str) -> PromptGuidedSection:
    """What a preset says of its prompt-guided mask generator; ConfigError if it has none."""
    section = two_stage(preset).proposer
    if not isinstance(section, PromptGuidedSection):
        raise ConfigError(
            f"the proposer of the preset {preset} is of kind {section.kind}, not prompt_guided; name another, such as "
            "pmp_eomt_l, pmp_mask2former_b or tabletop_pmp"
        )
    return section


def guided_checkpoint(preset: str) -> str:
    """What a preset calls the file of its trained network; ConfigError if it has no guidance or no name for it."""
    checkpoint = guided_section(preset).checkpoint
    if checkpoint is None:
        raise ConfigError(f"the preset {preset} names no proposer.checkpoint; name there what to write")
    return checkpoint


def begun_guidance(preset: str, begins_with: str) -> Path | None:
    """The trained network that a training begins with; None for the generator alone."""
    return begun_with(preset, begins_with, "generator", guided_checkpoint)


def embed_questions(
    questions: Sequence[Question], text_encoder: TextEncoder, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Text vectors (B, M, D) of B questions, padded to the most words M, and (B, M) bool, where there is a word."""
    with in_float32(device):  # vectors are those of inference, whatever the training's precision
        vectors = [text_encoder.vectors(question.phrases).to(device) for question in questions]
    present = [row.new_ones(len(row), dtype=torch.bool) for row in vectors]
    return pad_sequence(vectors, batch_first=True), pad_sequence(present, batch_first=True)


class PmpTask(MaskTask):
    """Losses, before the first guided layer and after each, of what a sample's words name.

    Attributes:
        questions: what is asked for.
    """

    model: MaskNetwork

    def __init__(
        self, config: PmpTraining, network: MaskNetwork, text_encoder: TextEncoder, run: Run, *, name: str = "pmp"
    ) -> None:
        """`network`: with guidance, trained in place. Errors as of `train_pmp`."""
        require_whole_patches(config.augmentation, network.patch_size)
        dataset = open_data(config.data, run)
        super().__init__(name, network, config, dataset, run.engine.device)
        self.questions = (
            about_tabletop(config.questions)
            if isinstance(config.data, RenderedData)
            else about_categories(dataset.categories, config.questions)
        )
        self._text_encoder, self._seed, self._preset = text_encoder, config.loop.seed, config.preset
        self._whole: TwoStage | None = None
        self._names = [category.name for category in dataset.categories]

    def question(self, view: SegmentedView, step: int, sample: int) -> Question:
        """What a step asks for in the view of a sample."""
        return self.questions.draw(
            self._segments(view), np.random.default_rng([self._seed, step, sample, _QUESTION_STREAM])
        )

    def _segments(self, view: SegmentedView) -> list[tuple[int, str]]:
        return [(i, self._names[c]) for i, c in zip(view.ids.tolist(), view.categories.tolist(), strict=True)]

    def _answers(self, view: SegmentedView, step: int, sample: int) -> Sequence[Answer]:
        return self.question(view, step, sample).answers

    def _predict(self, views: Sequence[SegmentedView], step: int, samples: range, batch: int) -> list[QueryPrediction]:
        return self._guided(
            views, [self.question(view, step, sample) for view, sample in zip(views, samples, strict=True)]
        )

    def _predict_whole(self, view: SegmentedView) -> QueryPrediction:
        return self._guided([view], [self.questions.ask(self.questions.whole, self._segments(view))])[-1]

    def system(self) -> PanopticSegmenter:
        if self._whole is None:
            untrained = replace(guided_section(self._preset), checkpoint=None)
            section = replace(two_stage(self._preset), proposer=untrained)
            self._whole = build_two_stage(section, preset_folder(self._preset), self._device)
        assert isinstance(self._whole.proposer, PromptGuidedProposer)
        self._whole.proposer.hold(self.model)
        return PanopticSegmenter(self._whole, load_preset(self._preset).merge, self._device)

    def _guided(self, views: Sequence[SegmentedView], asked: Sequence[Question]) -> list[QueryPrediction]:
        """Of every layer, with the words' logits in place of the classes'."""
        assert self.model.guidance is not None
        vectors, present = embed_questions(asked, self._text_encoder, self._device)
        words = self.model.guidance.prepare(vectors, present=present)
        named = []
        for prediction in self.model.forward_layers(self._pixels(views), words):
            assert prediction.word_logits is not None  # there is guidance
            named.append(QueryPrediction(prediction.mask_logits, prediction.word_logits))
        return named


def build_network(
    preset: str, device: torch.device, seed: int, begins_with: str = "generator"
) -> tuple[MaskNetwork, TextEncoder]:
    """A preset's mask generator, with untrained guidance unless `begins_with` says so, and what embeds its words.

    Raises:
        ConfigError, CheckpointError: the preset is malformed or has no guidance, or weights are missing or do not fit.
    """
    model, files = two_stage(preset), preset_folder(preset)
    require_weights(preset, load_preset(preset))
    torch.manual_seed(seed)
    untrained = replace(guided_section(preset), checkpoint=None)
    width = text_width(model.clip, files)
    proposer, _ = build_proposer(untrained, model.input_size, files, width, guided_learns=True)
    assert isinstance(proposer, PromptGuidedProposer)
    if (path := begun_guidance(preset, begins_with)) is not None:
        state, wanted = read_weights(find_weights(str(path))), proposer.network.state_dict()
        check_fit(wanted, state, path)
        proposer.network.load_state_dict(state)
    clip = load_clip(model.clip, model.templates, files, device, model.descriptions)
    return proposer.network, clip.text_encoder


def train_pmp(config: PmpTraining, run: Run) -> None:
    """Train, going on from the folder `pmp` in --out, and write the network under the name that the preset has.

    Raises:
        ConfigError: the preset is malformed, has no guidance or no name for its checkpoint, or views do not fit it.
        CheckpointError, DatasetError: for missing or ill-fitting weights and bad data.
    """
    checkpoint, validation = guided_checkpoint(config.preset), open_validation(config.validation, config.data, run)
    network, text_encoder = build_network(config.preset, run.engine.device, config.loop.seed, config.begins_with)
    task = PmpTask(config, network.requires_grad_(True), text_encoder, run)
    try:
        run.begins()
        run_loop(task, config.loop, run.out / "pmp", engine=run.engine, validation=validation)
    finally:
        task.stream.close()
    run.save(checkpoint, task.result())
