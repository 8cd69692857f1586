"""Train EoMT: masks with a data set's categories as its closed set, or masks of things and stuff without names."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from ovseg_ros.core.build_masks import padding_of
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.joint.closed_set import ClosedSet
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.presets import load_preset, two_stage
from ovseg_ros.core.proposals.eomt.network import EoMT, annealed_mask_probabilities
from ovseg_ros.core.proposals.eomt.stem import PretrainedStem
from ovseg_ros.core.proposals.padded import PaddedProposer
from ovseg_ros.core.sections import EoMTSection
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.core.weights.files import find_weights, read_weights
from ovseg_ros.core.weights.strict import check_fit
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.offline.train.augmentation import AugmentationConfig, CropsConfig
from ovseg_ros.offline.train.begin import begin_with, read_eomt
from ovseg_ros.offline.train.data import DataConfig, SegmentedView, open_data, require_instances
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig, StepCount
from ovseg_ros.offline.train.losses import MaskLossConfig
from ovseg_ros.offline.train.masks import Answer, MaskTask, require_whole_patches
from ovseg_ros.offline.train.pretrained_stem import load_pretrained_stem
from ovseg_ros.offline.train.state import has_state
from ovseg_ros.offline.train.validation import STUFF, THING, ValidationConfig, open_validation


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class PresetNetwork:
    """The EoMT of a preset: architecture, classes and checkpoint."""

    preset: str
    kind: Literal["preset"] = "preset"


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class EoMTTraining:
    """A stage that trains an EoMT.

    Attributes:
        network: architecture, and the file of the result in --out. `num_classes` is the data's, whatever it says.
        data, augmentation, loop, loss: what on, in which views, how long, by what measure.
        classes: what the closed set is: the data's "categories", or "thing_or_stuff".
        begins_with: a whole EoMT to begin with, as `read_eomt` takes it; its classes may be others. null = random
            weights, but for the encoder's.
        encoder_weights: pretrained ViT to begin with, as `load_pretrained_vit` takes it; null = random weights.
        stem_weights: pretrained weights of an efficientnet_lite0 stem, as `stem_weights_file` takes them.
        annealing_starts, annealing_ends: for each joint block, the steps between which its mask annealing falls from 1
            to 0; empty = evenly over the run.
        validation: when and on what to measure what would be used; None = never.
    """

    network: Annotated[PresetNetwork | EoMTSection, Field(discriminator="kind")]
    data: DataConfig
    augmentation: AugmentationConfig
    loop: LoopConfig
    loss: MaskLossConfig = Field(default_factory=MaskLossConfig)
    classes: Literal["categories", "thing_or_stuff"] = "categories"
    begins_with: Annotated[str, Field(min_length=1)] | None = None
    encoder_weights: str | None = None
    stem_weights: str | None = None
    annealing_starts: tuple[StepCount, ...] = ()
    annealing_ends: tuple[StepCount, ...] = ()
    validation: ValidationConfig | None = None
    kind: Literal["eomt"] = "eomt"

    def __post_init__(self) -> None:
        require_instances(self.data)
        for name, weights in (("encoder_weights", self.encoder_weights), ("stem_weights", self.stem_weights)):
            if self.begins_with is not None and weights is not None:
                raise ValueError(f"begins_with brings a whole EoMT; leave either begins_with or {name} out")
        if any(start >= end for start, end in zip(self.annealing_starts, self.annealing_ends, strict=False)):
            raise ValueError("each of annealing_starts must lie before the same block's end in annealing_ends")

    def mask_probabilities(self, step: int, joint_blocks: int) -> Tensor:
        """(L2,) float in [0, 1]: masking probability of every joint block, (1 - t)^0.9 while its annealing lasts."""
        if not self.annealing_starts:
            return annealed_mask_probabilities(step / self.loop.steps, joint_blocks)
        starts = torch.tensor(self.annealing_starts, dtype=torch.float32)
        ends = torch.tensor(self.annealing_ends, dtype=torch.float32)
        return (1 - ((step - starts) / (ends - starts)).clamp(0, 1)) ** 0.9


def network_of(config: PresetNetwork | EoMTSection) -> EoMTSection:
    """Architecture and checkpoint of what is to be trained.

    Raises:
        ConfigError: the preset is missing or malformed, or its mask generator is not an EoMT of this package.
    """
    if isinstance(config, EoMTSection):
        return config
    proposer = two_stage(config.preset).proposer
    if not isinstance(proposer, EoMTSection):
        raise ConfigError(
            f"the mask generator of the preset {config.preset} is of kind {proposer.kind}, which is trained "
            "elsewhere; name a preset whose proposer is of kind eomt"
        )
    return proposer


def network_for(config: PresetNetwork | EoMTSection, dataset: str, classes: int) -> EoMTSection:
    """Architecture and checkpoint of what is to be trained on a data set of so many classes.

    Raises:
        ConfigError: as of `network_of`, or the network is a preset's, which has its classes, and they are not as many.
    """
    section = network_of(config)
    if isinstance(config, PresetNetwork) and section.architecture.num_classes != classes:
        raise ConfigError(
            f"the EoMT of the preset {config.preset} has {section.architecture.num_classes} classes, but {dataset} has "
            f"{classes}; to train it with these, give the stage a network of kind eomt with the preset's architecture "
            f"and a checkpoint of its own, and begins_with: {config.preset}"
        )
    return replace(section, architecture=replace(section.architecture, num_classes=classes))


def with_own_padding(config: EoMTTraining) -> EoMTSection:
    """As `network_of`; a network that is no preset's has seen beside images what its training's views have there."""
    section = network_of(config.network)
    if isinstance(config.network, PresetNetwork) or isinstance(config.augmentation, CropsConfig):
        return section
    return replace(section, padding=config.augmentation.padding)


def load_pretrained_vit(encoder: VisionTransformer, source: str) -> None:
    """Fill `encoder` with timm's weights; patch and position embeddings are resampled to its sizes.

    Args:
        source: hub repository such as "timm/vit_large_patch14_reg4_dinov2.lvd142m" in the local cache, folder, or file
            in timm's format.

    Raises:
        CheckpointError: if the file is missing or unreadable, or naming the keys that do not fit.
    """
    if encoder.pos_embed is None:
        raise CheckpointError(
            f"{source} was to fill a ViT without position embeddings (dinov3), which takes no weights in timm's "
            f"format; leave dinov3 or the pretrained weights out"
        )
    files = find_weights(source)
    state = read_weights(files)
    if {"patch_embed.proj.weight", "pos_embed"} - state.keys():
        raise CheckpointError(
            f"{files.where} is not a plain ViT of timm: it has no patch_embed.proj.weight or pos_embed, but "
            f"{', '.join(sorted(state)[:8])}"
        )
    with torch.no_grad():
        try:
            state = checkpoint_filter_fn(state, encoder)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the weights in {files.where} cannot be made to fit this ViT: {error}") from error
    wanted = encoder.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    check_fit(wanted, state, files.where)
    encoder.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()})


def class_map(classes: str, categories: Sequence[DatasetCategory]) -> tuple[Tensor, list[tuple[str, ...]]]:
    """The class of every category, (K,) int64, and the names of every class."""
    if classes == "thing_or_stuff":
        return torch.tensor([THING if category.is_thing else STUFF for category in categories]), [
            ("thing",),
            ("stuff",),
        ]
    return torch.arange(len(categories)), [(category.name, *category.synonyms) for category in categories]


def each_segment(view: SegmentedView, class_of: Tensor) -> list[Answer]:
    """Every segment of a view by itself; `class_of` (K,) int64 is the class of every category."""
    classes = class_of[view.categories].tolist()
    return [(index, (segment,)) for index, segment in zip(classes, view.ids.tolist(), strict=True)]


class EoMTTask(MaskTask):
    """Losses before each joint block and after the last."""

    model: EoMT

    def __init__(self, config: EoMTTraining, run: Run) -> None:
        """Errors as of `train_eomt`."""
        dataset = open_data(config.data, run)
        class_of, classes = class_map(config.classes, dataset.categories)
        architecture = network_for(config.network, dataset.name, len(classes)).architecture
        require_whole_patches(config.augmentation, architecture.patch_size)
        given, blocks = (len(config.annealing_starts), len(config.annealing_ends)), architecture.joint_blocks
        if given not in ((0, 0), (blocks, blocks)):
            raise ConfigError(
                f"annealing_starts and annealing_ends need {blocks} steps each, one for each joint block, got "
                f"{given[0]} and {given[1]}"
            )
        torch.manual_seed(config.loop.seed)
        model = EoMT(architecture)
        if config.begins_with is not None:
            told = begin_with(model, read_eomt(config.begins_with), classes)
            if run.engine.is_main and not has_state(run.out / "eomt"):
                print(told)
        if config.encoder_weights is not None:
            load_pretrained_vit(model.encoder, config.encoder_weights)
        if config.stem_weights is not None:
            stem = model.encoder.patch_embed.proj
            if not isinstance(stem, PretrainedStem):
                raise ConfigError(
                    "stem_weights are given, but the architecture has no pretrained_stem; set it to "
                    "efficientnet_lite0, or leave stem_weights out"
                )
            load_pretrained_stem(stem, config.stem_weights)
        super().__init__("eomt", model, config, dataset, run.engine.device)
        self._config, self._class_of, self._classes = config, class_of, classes

    def _answers(self, view: SegmentedView, step: int, sample: int) -> list[Answer]:
        return each_segment(view, self._class_of)

    def _predict(self, views: Sequence[SegmentedView], step: int, samples: range, batch: int) -> list[QueryPrediction]:
        probabilities = self._config.mask_probabilities(step, self.model.config.joint_blocks)
        draws = torch.zeros(len(probabilities), batch, self.model.config.num_queries, device=self._device)
        for block in torch.nonzero(probabilities)[:, 0].tolist():
            draws[block] = torch.rand(draws.shape[1:], device=draws.device)
        return self.model.forward_masked(self._pixels(views), probabilities, draws[:, samples.start : samples.stop])

    def _predict_whole(self, view: SegmentedView) -> QueryPrediction:
        return self.model.forward_masked(self._pixels([view]), torch.zeros(self.model.config.joint_blocks))[-1]

    def system(self) -> PanopticSegmenter:
        """The network alone, its classes being the words."""
        section, preset = with_own_padding(self._config), self._config.network
        merge, size = MergeConfig(), section.architecture.image_size
        if isinstance(preset, PresetNetwork):
            merge, size = load_preset(preset.preset).merge, two_stage(preset.preset).input_size
        proposer = PaddedProposer(self.model, size, padding_color=padding_of(section), pads=section.pads)
        return PanopticSegmenter(ClosedSet(proposer, self._classes, size), merge, self._device)


def train_eomt(config: EoMTTraining, run: Run) -> EoMT:
    """Train, going on from the folder `eomt` in --out, and write the checkpoint.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: a preset's classes are not as many as the data's, or views or annealing do not fit the network.
        CheckpointError, DatasetError: for missing or ill-fitting weights and bad data.
    """
    validation = open_validation(config.validation, config.data, run, named=config.classes == "categories")
    task = EoMTTask(config, run)
    try:
        run.begins()
        run_loop(task, config.loop, run.out / "eomt", engine=run.engine, validation=validation)
    finally:
        task.stream.close()
    run.save(network_of(config.network).checkpoint, task.result())
    return task.model
