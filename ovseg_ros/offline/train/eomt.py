"""Train EoMT: masks with a data set's categories as its closed set, or masks of things and stuff without names."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.presets import EoMTSection, load_preset
from ovseg_ros.core.proposals.eomt.network import EoMT, QueryPrediction, annealed_mask_probabilities
from ovseg_ros.core.weights.files import find_weights, read_weights
from ovseg_ros.core.weights.strict import check_fit
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.offline.train.augmentation import AugmentationConfig, view_sizes
from ovseg_ros.offline.train.data import (
    DataConfig,
    PanopticStream,
    SegmentedView,
    open_data,
    segmented_view,
    to_pixels,
)
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.loop import Task, run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig, StepCount
from ovseg_ros.offline.train.losses import BatchShare, MaskLossConfig, MaskTargets, mask_set_loss, soft_masks
from ovseg_ros.offline.train.pictures import compare_segments, label_map

THING, STUFF = 0, 1
"""Classes of a class-agnostic training. Names are left to the classifier, so that unseen objects live."""

_MIN_CELLS = 2
"""A soft mask is a target if it covers at least this many of the logits' pixels."""


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class PresetNetwork:
    """The EoMT of a preset: architecture and checkpoint."""

    preset: str
    kind: Literal["preset"] = "preset"


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class EoMTTraining:
    """A stage that trains an EoMT.

    Attributes:
        network: architecture, and the file of the result in --out.
        data, augmentation, loop, loss: what on, in which views, how long, by what measure.
        classes: what the closed set is: the data's "categories", or "thing_or_stuff".
        encoder_weights: pretrained ViT to begin with, as `load_pretrained_vit` takes it; null = random weights.
        annealing_starts, annealing_ends: for each joint block, the steps between which its mask annealing falls from 1
            to 0; empty = evenly over the run.
    """

    network: Annotated[PresetNetwork | EoMTSection, Field(discriminator="kind")]
    data: DataConfig
    augmentation: AugmentationConfig
    loop: LoopConfig
    loss: MaskLossConfig = Field(default_factory=MaskLossConfig)
    classes: Literal["categories", "thing_or_stuff"] = "categories"
    encoder_weights: str | None = None
    annealing_starts: tuple[StepCount, ...] = ()
    annealing_ends: tuple[StepCount, ...] = ()
    kind: Literal["eomt"] = "eomt"

    def __post_init__(self) -> None:
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
    proposer = load_preset(config.preset).model.proposer
    if not isinstance(proposer, EoMTSection):
        raise ConfigError(
            f"the mask generator of the preset {config.preset} is of kind {proposer.kind}, which is trained "
            "elsewhere; name a preset whose proposer is of kind eomt"
        )
    return proposer


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


def class_map(classes: str, categories: Sequence[DatasetCategory]) -> tuple[Tensor, int]:
    """The class of every category, (K,) int64, and the number of classes."""
    if classes == "thing_or_stuff":
        return torch.tensor([THING if category.is_thing else STUFF for category in categories]), 2
    return torch.arange(len(categories)), len(categories)


def to_targets(view: SegmentedView, class_of: Tensor, size: Sequence[int] | None) -> MaskTargets:
    """The masks of a view as a loss compares them, on the device of `class_of`.

    Args:
        class_of: (K,) int64, the class of every category.
        size: (height, width) of the mask logits, whose pixels are all compared; None where points are.

    Returns:
        For points, boolean masks in the view's full resolution. For all pixels, soft masks of the logits' size, of the
        segments that cover enough of it.
    """
    ids, wanted = view.segment_ids.to(class_of.device), view.ids.to(class_of.device)
    classes = class_of[view.categories.to(class_of.device)]
    if size is None:
        return MaskTargets(ids[None] == wanted[:, None, None], classes)
    masks = soft_masks(ids, wanted, size)  # (N, h, w)
    present = masks.sum(dim=(1, 2)) >= _MIN_CELLS
    return MaskTargets(masks[present], classes[present])


class EoMTTask(Task):
    """One-to-one matched losses before each joint block and after the last."""

    model: EoMT

    def __init__(self, config: EoMTTraining, run: Run) -> None:
        """Errors as of `train_eomt`."""
        architecture, dataset = network_of(config.network).architecture, open_data(config.data, run)
        class_of, classes = class_map(config.classes, dataset.categories)
        if architecture.num_classes != classes:
            raise ConfigError(
                f"the architecture has {architecture.num_classes} classes, but {dataset.name} has {classes}; set "
                f"architecture.num_classes to {classes}"
            )
        for size in view_sizes(config.augmentation):
            if any(side % architecture.patch_size for side in size):
                raise ConfigError(f"views of size {size} must be multiples of the patch size {architecture.patch_size}")
        given, blocks = (len(config.annealing_starts), len(config.annealing_ends)), architecture.joint_blocks
        if given not in ((0, 0), (blocks, blocks)):
            raise ConfigError(
                f"annealing_starts and annealing_ends need {blocks} steps each, one for each joint block, got "
                f"{given[0]} and {given[1]}"
            )
        torch.manual_seed(config.loop.seed)
        self.name, self.model = "eomt", EoMT(architecture)
        if config.encoder_weights is not None:
            load_pretrained_vit(self.model.encoder, config.encoder_weights)
        self._config, self._engine, self._class_of = config, run.engine, class_of.to(run.engine.device)
        self._soft: dict[tuple[int, range], list[MaskTargets]] = {}
        self.stream = PanopticStream(dataset, config.data, config.augmentation, config.loop, segmented_view)

    def counts(self, step: int, samples: range) -> Tensor:
        views, network = self.stream.batch(step, samples), self.model.config
        if self._config.loss.points:
            return torch.tensor([[float(len(view.ids))] for view in views])
        size = [side // network.patch_size * 2**network.upscale_blocks for side in views[0].segment_ids.shape]
        targets = [to_targets(view, self._class_of, size) for view in views]
        # Kept until the share's losses: they took time, and are small.
        self._soft = {place: kept for place, kept in self._soft.items() if place[0] == step}
        self._soft[step, samples] = targets
        return torch.tensor([[float(len(target.classes))] for target in targets])

    def losses(self, step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        probabilities = self._config.mask_probabilities(step, self.model.config.joint_blocks)
        draws = torch.zeros(len(probabilities), len(counts), self.model.config.num_queries, device=self._engine.device)
        for block in torch.nonzero(probabilities)[:, 0].tolist():
            draws[block] = torch.rand(draws.shape[1:], device=draws.device)
        shown = draws[:, samples.start : samples.stop]
        views = self.stream.batch(step, samples)
        predictions = self._predict(views, probabilities, shown)
        targets = self._soft.get((step, samples)) or [to_targets(view, self._class_of, None) for view in views]
        share = BatchShare(samples, [int(count) for count in counts[:, 0].tolist()])
        return mask_set_loss(predictions, targets, self._config.loss, share)

    def pictures(self) -> dict[str, np.ndarray]:
        rows = []
        for view in self.stream.shown():
            prediction = self._predict([view], torch.zeros(self.model.config.joint_blocks), None)[-1]
            found = label_map(prediction.mask_logits[0], prediction.class_logits[0], view.segment_ids.shape)
            rows.append(compare_segments(view.image, view.segment_ids, found))
        return {"segments": np.concatenate(rows)}

    def _predict(
        self, views: Sequence[SegmentedView], mask_probabilities: Tensor, draws: Tensor | None
    ) -> list[QueryPrediction]:
        pixels = to_pixels([view.image for view in views], self._engine.device)
        if self.model.config.convolutional_stem:  # many small convolutions, which read colours side by side faster
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return self.model.forward_masked(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD), mask_probabilities, draws)


def train_eomt(config: EoMTTraining, run: Run) -> EoMT:
    """Train, going on from the folder `eomt` in --out, and write the checkpoint.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: the network's classes are not as many as the data's, or views or annealing do not fit it.
        CheckpointError, DatasetError: for missing or ill-fitting weights and bad data.
    """
    task = EoMTTask(config, run)
    try:
        run_loop(task, config.loop, run.out / "eomt", engine=run.engine)
    finally:
        task.stream.close()
    run.save(network_of(config.network).checkpoint, task.model.state_dict())
    return task.model
