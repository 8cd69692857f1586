"""What trainings of mask generators share: what is to be found in a view, compared with the masks of every layer."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.offline.data.types import PanopticDataset
from ovseg_ros.offline.train.augmentation import AugmentationConfig, view_sizes
from ovseg_ros.offline.train.data import DataConfig, PanopticStream, SegmentedView, segmented_view, to_pixels
from ovseg_ros.offline.train.loop import Task
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import BatchShare, MaskLossConfig, MaskTargets, mask_set_loss, soft_masks
from ovseg_ros.offline.train.pictures import compare_segments, label_map

Answer = tuple[int, tuple[int, ...]]
"""A mask to find: its class, and the ids of the segments that it consists of."""

_MIN_CELLS = 2
"""A soft mask is a target if it covers at least this many of the logits' pixels."""


def to_targets(
    view: SegmentedView, answers: Sequence[Answer], size: Sequence[int] | None, device: torch.device
) -> MaskTargets:
    """Masks to find in a view as a loss compares them.

    Args:
        size: (height, width) of the mask logits, whose pixels are all compared; None where points are.

    Returns:
        For points, boolean masks in the view's full resolution. For all pixels, soft masks of the logits' size, of the
        answers that cover enough of it.
    """
    classes = torch.tensor([index for index, _ in answers], dtype=torch.int64, device=device)
    ids = torch.tensor([segment for _, meant in answers for segment in meant], dtype=torch.int64, device=device)
    owners = [number for number, (_, meant) in enumerate(answers) for _ in meant]
    segment_ids = view.segment_ids.to(device)
    each = segment_ids[None] == ids[:, None, None] if size is None else soft_masks(segment_ids, ids, size)
    masks = torch.zeros(len(classes), *each.shape[1:], device=device)
    masks.index_add_(0, torch.tensor(owners, dtype=torch.int64, device=device), each.float())
    if size is None:
        return MaskTargets(masks > 0, classes)
    present = masks.sum(dim=(1, 2)) >= _MIN_CELLS
    return MaskTargets(masks[present], classes[present])


def require_whole_patches(augmentation: AugmentationConfig, patch_size: int) -> None:
    """ConfigError unless the sides of all views are multiples of a patch's, `patch_size` pixels."""
    for size in view_sizes(augmentation):
        if any(side % patch_size for side in size):
            raise ConfigError(
                f"views of size {size} must be multiples of {patch_size} pixels, as patches or masks are; change the "
                "sizes in augmentation"
            )


class MaskTraining(Protocol):
    """What a stage that trains a mask generator says, whatever its kind."""

    @property
    def data(self) -> DataConfig: ...
    @property
    def augmentation(self) -> AugmentationConfig: ...
    @property
    def loop(self) -> LoopConfig: ...
    @property
    def loss(self) -> MaskLossConfig: ...


class MaskTask(Task):
    """One-to-one matched losses of what the heads say after each layer.

    Attributes:
        stream: of the views.
    """

    model: MaskNetwork | OMTSegNetwork

    def __init__(
        self,
        name: str,
        model: MaskNetwork | OMTSegNetwork,
        config: MaskTraining,
        dataset: PanopticDataset,
        device: torch.device,
    ) -> None:
        self.name, self.model = name, model
        self._loss, self._device = config.loss, device
        # Many small convolutions, which read colours side by side faster.
        convolutional = isinstance(model, EoMT) and model.has_convolutions
        self._layout = torch.channels_last if convolutional else torch.contiguous_format
        self._soft: dict[tuple[int, range], list[MaskTargets]] = {}
        self.stream = PanopticStream(dataset, config.data, config.augmentation, config.loop, segmented_view)

    @abstractmethod
    def _answers(self, view: SegmentedView, step: int, sample: int) -> Sequence[Answer]:
        """What is to be found in the view of a sample; not the same twice, but of the same step."""

    @abstractmethod
    def _predict(self, views: Sequence[SegmentedView], step: int, samples: range, batch: int) -> list[QueryPrediction]:
        """What the heads say of these samples of a batch after every layer, their classes those of the answers."""

    @abstractmethod
    def _predict_whole(self, view: SegmentedView) -> QueryPrediction:
        """What the network says of a view in the end, for pictures."""

    def counts(self, step: int, samples: range) -> Tensor:
        views = self.stream.batch(step, samples)
        answers = [self._answers(view, step, sample) for view, sample in zip(views, samples, strict=True)]
        if self._loss.points:
            return torch.tensor([[float(len(wanted))] for wanted in answers])
        size = self.model.mask_size(*views[0].segment_ids.shape)
        targets = [to_targets(view, wanted, size, self._device) for view, wanted in zip(views, answers, strict=True)]
        # Kept until the share's losses: they took time, and are small.
        self._soft = {place: kept for place, kept in self._soft.items() if place[0] == step}
        self._soft[step, samples] = targets
        return torch.tensor([[float(len(target.classes))] for target in targets])

    def losses(self, step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        views = self.stream.batch(step, samples)
        predictions = self._predict(views, step, samples, len(counts))
        targets = self._soft.get((step, samples)) or [
            to_targets(view, self._answers(view, step, sample), None, self._device)
            for view, sample in zip(views, samples, strict=True)
        ]
        share = BatchShare(samples, [int(count) for count in counts[:, 0].tolist()])
        return self._compared(predictions, targets, share)

    def _compared(
        self, predictions: list[QueryPrediction], targets: list[MaskTargets], share: BatchShare
    ) -> dict[str, Tensor]:
        """The losses of a share's predictions."""
        return mask_set_loss(predictions, targets, self._loss, share)

    def pictures(self) -> dict[str, np.ndarray]:
        rows = []
        for view in self.stream.shown():
            prediction = self._predict_whole(view)
            found = label_map(prediction.mask_logits[0], prediction.class_logits[0], view.segment_ids.shape)
            rows.append(compare_segments(view.image, view.segment_ids, found))
        return {"segments": np.concatenate(rows)}

    def _pixels(self, views: Sequence[SegmentedView]) -> Tensor:
        """(B, 3, H, W), normalised."""
        pixels = to_pixels([view.image for view in views], self._device).contiguous(memory_format=self._layout)
        return normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)
