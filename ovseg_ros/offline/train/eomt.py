"""Train EoMT: masks with a data set's categories as its closed set, or masks of things and stuff without names."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.presets import EoMTSection, load_preset
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig, annealed_mask_probabilities
from ovseg_ros.offline.data.types import DatasetCategory
from ovseg_ros.offline.train.augmentation import AugmentationConfig, view_sizes
from ovseg_ros.offline.train.data import Batches, DataConfig, SegmentedView, open_batches, segmented_view, to_pixels
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import MaskLossConfig, MaskTargets, mask_set_loss
from ovseg_ros.offline.train.pictures import compare_segments, label_map
from ovseg_ros.offline.train.pretrained_vit import load_pretrained_vit
from ovseg_ros.offline.train.task import Run, Task

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
    data: Annotated[DataConfig, Field(discriminator="kind")]
    augmentation: Annotated[AugmentationConfig, Field(discriminator="kind")]
    loop: LoopConfig
    loss: MaskLossConfig = Field(default_factory=MaskLossConfig)
    classes: Literal["categories", "thing_or_stuff"] = "categories"
    encoder_weights: str | None = None
    annealing_starts: tuple[int, ...] = ()
    annealing_ends: tuple[int, ...] = ()
    kind: Literal["eomt"] = "eomt"

    def __post_init__(self) -> None:
        if len(self.annealing_starts) != len(self.annealing_ends):
            raise ValueError(
                "annealing_starts and annealing_ends need as many steps, one for each joint block, got "
                f"{len(self.annealing_starts)} and {len(self.annealing_ends)}"
            )
        if any(start >= end for start, end in zip(self.annealing_starts, self.annealing_ends, strict=True)):
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
    match config:
        case EoMTSection():
            return config
        case PresetNetwork():
            proposer = load_preset(config.preset).model.proposer
            if not isinstance(proposer, EoMTSection):
                raise ConfigError(
                    f"the mask generator of the preset {config.preset} is of kind {proposer.kind}, which is trained "
                    "elsewhere; name a preset whose proposer is of kind eomt"
                )
            return proposer


def class_map(classes: str, categories: Sequence[DatasetCategory]) -> tuple[Tensor, int]:
    """The class of every category, (K,) int64, and the number of classes."""
    if classes == "thing_or_stuff":
        return torch.tensor([THING if category.is_thing else STUFF for category in categories]), 2
    return torch.arange(len(categories)), len(categories)


def to_targets(view: SegmentedView, class_of: Tensor, size: tuple[int, int] | None) -> MaskTargets:
    """The masks of a view as a loss compares them, on the device of `class_of`.

    Args:
        class_of: (K,) int64, the class of every category.
        size: (height, width) of the mask logits, whose pixels are all compared; None where points are.

    Returns:
        For points, boolean masks in the view's full resolution. For all pixels, soft masks of the logits' size, of the
        segments that cover enough of it.
    """
    ids, wanted = view.segment_ids.to(class_of.device), view.ids.to(class_of.device)
    masks, classes = ids[None] == wanted[:, None, None], class_of[view.categories.to(class_of.device)]  # (N, H, W)
    if size is None:
        return MaskTargets(masks, classes)
    masks = F.adaptive_avg_pool2d(masks.float()[:, None], size)[:, 0]  # (N, h, w), N may be 0
    present = masks.sum(dim=(1, 2)) >= _MIN_CELLS
    return MaskTargets(masks[present], classes[present])


def to_input(views: Sequence[SegmentedView], device: torch.device) -> Tensor:
    """Views -> (B, 3, H, W), normalised for the mask generator."""
    return normalize(to_pixels([view.image for view in views], device), IMAGENET_MEAN, IMAGENET_STD)


class EoMTTask(Task):
    """One-to-one matched losses before each joint block and after the last."""

    model: EoMT

    def __init__(
        self, config: EoMTTraining, model: EoMT, batches: Batches[SegmentedView], class_of: Tensor, engine: Engine
    ) -> None:
        """`class_of`: (K,) int64, the class of each of the batches' categories."""
        self.name, self.model = "eomt", model
        self._config, self._batches, self._engine = config, batches, engine
        self._class_of = class_of.to(engine.device)

    def losses(self, step: int, samples: range) -> dict[str, Tensor]:
        """See `Task`."""
        at_hand = self._batches.at_hand(samples)
        views = self._batches.batch(step, at_hand)
        targets = [to_targets(view, self._class_of, self._compared_size(view)) for view in views]
        masks = torch.tensor(float(sum(len(target.classes) for target in targets)), device=self._engine.device)
        count = float(self._engine.mean(masks)) * len(samples) / len(at_hand)
        shown = slice(at_hand.index(samples.start), at_hand.index(samples.start) + len(samples))
        probabilities = self._config.mask_probabilities(step, self.model.config.joint_blocks)
        predictions = self.model.forward_masked(self._to_input(views[shown]), probabilities)
        return mask_set_loss(predictions, targets[shown], self._config.loss, count=max(1.0, count))

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """See `Task`."""
        view = self._batches.batch(step, range(1))[0]
        unmasked = torch.zeros(self.model.config.joint_blocks)
        prediction = self.model.forward_masked(self._to_input([view]), unmasked)[-1]
        size = (view.image.shape[1], view.image.shape[2])
        found = label_map(prediction.mask_logits[0], prediction.class_logits[0], size)
        return {"segments": compare_segments(view.image, view.segment_ids, found)}

    def _to_input(self, views: Sequence[SegmentedView]) -> Tensor:
        """(B, 3, H, W), normalised for the mask generator."""
        pixels = to_pixels([view.image for view in views], self._engine.device)
        if self.model.config.convolutional_stem:  # many small convolutions, which read colours side by side faster
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)

    def _compared_size(self, view: SegmentedView) -> tuple[int, int] | None:
        """Of the mask logits of a view; None where points of the masks are compared."""
        if self._config.loss.points:
            return None
        network = self.model.config
        rows, columns = (side // network.patch_size * 2**network.upscale_blocks for side in view.image.shape[1:])
        return rows, columns


def train_eomt(config: EoMTTraining, run: Run) -> EoMT:
    """Train, going on from the folder `eomt` in --out, and write the checkpoint.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: the network's classes are not as many as the data's, or views or annealing do not fit it.
        CheckpointError, DatasetError: for missing or ill-fitting weights and bad data.
    """
    network = network_of(config.network)
    _check_fit(config, network.architecture)
    batches = open_batches(config.data, config.augmentation, config.loop, segmented_view, run)
    try:
        class_of, classes = class_map(config.classes, batches.categories)
        if network.architecture.num_classes != classes:
            raise ConfigError(
                f"the architecture has {network.architecture.num_classes} classes, but {batches.name} has {classes}; "
                f"set architecture.num_classes to {classes}"
            )
        torch.manual_seed(config.loop.seed)
        model = EoMT(network.architecture)
        if config.encoder_weights is not None:
            load_pretrained_vit(model.encoder, config.encoder_weights)
        task = EoMTTask(config, model, batches, class_of, run.engine)
        run_loop(task, config.loop, run.out / "eomt", engine=run.engine)
    finally:
        batches.close()
    run.save(network.checkpoint, model.state_dict())
    return model


def _check_fit(config: EoMTTraining, architecture: EoMTConfig) -> None:
    patch, blocks = architecture.patch_size, architecture.joint_blocks
    for size in view_sizes(config.augmentation):
        if any(side % patch for side in size):
            raise ConfigError(f"views of size {size} must be multiples of the patch size {patch}")
    if config.annealing_starts and len(config.annealing_starts) != blocks:
        raise ConfigError(
            f"annealing_starts and annealing_ends need {blocks} steps each, one for each joint block, "
            f"got {len(config.annealing_starts)}"
        )
