"""Train EoMT on a data set with panoptic ground truth, by the recipe of its authors."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig, annealed_mask_probabilities
from ovseg_ros.core.weights.strict import save_half
from ovseg_ros.offline.data.open import open_dataset
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample
from ovseg_ros.offline.train.augmentation import View
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import MaskLossConfig, MaskTargets, mask_set_loss
from ovseg_ros.offline.train.panoptic_stream import PanopticDataConfig, PanopticStream
from ovseg_ros.offline.train.pictures import compare_segments, label_map
from ovseg_ros.offline.train.pretrained_vit import load_pretrained_vit


@dataclass(frozen=True, slots=True)
class EoMTPanopticConfig:
    """A training of EoMT on panoptic ground truth.

    Attributes:
        architecture: its number of classes is the data set's.
        data, loop, loss: what on, how long, by what measure.
        checkpoint: file of the result, in --out.
        encoder_weights: pretrained ViT to begin with, as `load_pretrained_vit` takes it; null = random weights.
        annealing_starts, annealing_ends: for each joint block, the steps between which its mask annealing falls from 1
            to 0; empty = evenly over the run.
    """

    architecture: EoMTConfig
    data: PanopticDataConfig
    loop: LoopConfig
    checkpoint: str
    encoder_weights: str | None = None
    loss: MaskLossConfig = field(default_factory=lambda: MaskLossConfig(points=12_544))
    annealing_starts: tuple[int, ...] = ()
    annealing_ends: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        counts = {len(self.annealing_starts), len(self.annealing_ends)}
        if counts not in ({0}, {self.architecture.joint_blocks}):
            raise ValueError(
                f"annealing_starts and annealing_ends need {self.architecture.joint_blocks} steps each, one for each "
                f"joint block, got {len(self.annealing_starts)} and {len(self.annealing_ends)}"
            )
        if any(start >= end for start, end in zip(self.annealing_starts, self.annealing_ends, strict=True)):
            raise ValueError("each of annealing_starts must lie before the same block's end in annealing_ends")

    def mask_probabilities(self, step: int) -> Tensor:
        """(L2,) float in [0, 1]: masking probability of every joint block, (1 - t)^0.9 while its annealing lasts."""
        if not self.annealing_starts:
            return annealed_mask_probabilities(step / self.loop.steps, self.architecture.joint_blocks)
        starts = torch.tensor(self.annealing_starts, dtype=torch.float32)
        ends = torch.tensor(self.annealing_ends, dtype=torch.float32)
        return (1 - ((step - starts) / (ends - starts)).clamp(0, 1)) ** 0.9


@dataclass(frozen=True, slots=True)
class SegmentedView:
    """A view of a training image: `image` uint8 (3, H, W), `segment_ids` int32 (H, W), and of the segments to find
    `ids` and `classes`, (N,) int64 each. Crowds are not to be found."""

    image: Tensor
    segment_ids: Tensor
    ids: Tensor
    classes: Tensor


def segmented_view(sample: PanopticSample, view: View) -> SegmentedView:
    """A view of a sample; its segments are those that show in it."""
    segment_ids = view.of_segments(sample.segment_ids)
    present = set(np.unique(segment_ids).tolist())
    segments = [segment for segment in sample.segments if segment.id in present and not segment.is_crowd]
    return SegmentedView(
        image=torch.from_numpy(view.of_image(sample.image)).permute(2, 0, 1),
        segment_ids=torch.from_numpy(segment_ids),
        ids=torch.tensor([segment.id for segment in segments], dtype=torch.int64),
        classes=torch.tensor([segment.category for segment in segments], dtype=torch.int64),
    )


def to_targets(view: SegmentedView, device: torch.device) -> MaskTargets:
    """Boolean masks in the view's full resolution."""
    masks = view.segment_ids.to(device)[None] == view.ids.to(device)[:, None, None]  # (N, H, W)
    return MaskTargets(masks, view.classes.to(device))


def open_panoptic(config: PanopticDataConfig, root: Path | None) -> PanopticDataset:
    """The data set to train on.

    Raises:
        ConfigError: it is unknown, or has no panoptic ground truth.
        DatasetError: it is missing or malformed.
    """
    dataset = open_dataset(config.dataset, root, config.split)
    if not isinstance(dataset, PanopticDataset):
        raise ConfigError(
            f"{config.dataset} has no panoptic ground truth; choose a data set whose name ends in _panoptic"
        )
    return dataset


def train_eomt_panoptic(config: EoMTPanopticConfig, data: Path | None, out: Path, *, engine: Engine) -> EoMT:
    """Train, resuming from the folder `eomt` in `out`, and write the checkpoint.

    Args:
        data: the data set's folder; None = below `$OVSEG_DATASETS`.

    Raises:
        ConfigError: the data set has another number of categories than the architecture, or the image another size.
    """
    dataset = open_panoptic(config.data, data)
    if config.architecture.num_classes != len(dataset.categories):
        raise ConfigError(
            f"the architecture has {config.architecture.num_classes} classes, but {dataset.name} has "
            f"{len(dataset.categories)}; set architecture.num_classes to {len(dataset.categories)}"
        )
    patch = config.architecture.patch_size
    if any(side % patch for side in config.data.jitter.size):
        raise ConfigError(f"data.jitter.size {config.data.jitter.size} must be multiples of the patch size {patch}")
    torch.manual_seed(config.loop.seed)
    model = EoMT(config.architecture)
    if config.encoder_weights is not None:
        load_pretrained_vit(model.encoder, config.encoder_weights)
    stream = PanopticStream(dataset, config.data, config.loop, segmented_view)

    def views_at(step: int) -> list[SegmentedView]:
        return stream.batch(step, engine.samples(config.loop.batch_size))

    def losses_at(step: int) -> dict[str, Tensor]:
        views = views_at(step)
        targets = [to_targets(view, engine.device) for view in views]
        count = engine.mean(torch.tensor(float(sum(len(view.ids) for view in views)), device=engine.device))
        images = to_input([view.image for view in views], engine.device)
        predictions = model.forward_masked(images, config.mask_probabilities(step))
        return mask_set_loss(predictions, targets, config.loss, count=max(1.0, float(count)))

    def pictures_at(step: int) -> dict[str, np.ndarray]:
        view = views_at(step)[0]
        proposals = model(to_input([view.image], engine.device))
        assert proposals.class_logits is not None  # EoMT always has them
        found = label_map(proposals.mask_logits[0], proposals.class_logits[0], config.data.jitter.size)
        return {"segments": compare_segments(view.image, view.segment_ids, found)}

    try:
        run_loop(
            model,
            losses_at,
            config.loop,
            out / "eomt",
            name="eomt",
            engine=engine,
            pictures_at=pictures_at,
        )
    finally:
        stream.close()
    if engine.is_main:
        save_half(model, out / config.checkpoint)
    return model


def to_input(images: list[Tensor], device: torch.device) -> Tensor:
    """uint8 views (3, H, W) -> (B, 3, H, W), normalised for the mask generator."""
    return normalize(torch.stack(images).to(device).float() / 255, IMAGENET_MEAN, IMAGENET_STD)
