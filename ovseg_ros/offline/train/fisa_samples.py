"""The tabletop's masks as FISA reads them: proposals of the frozen generator, cropped, and what CLIP remembers of them.

CLIP's image path does not depend on what FISA learns, so each crop goes through it once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.classification.fisa.clip_tower import LayerMemory
from ovseg_ros.core.classification.fisa.mask_views import crop_images
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.offline.data.tabletop_views import TabletopViews
from ovseg_ros.offline.train.fisa_losses import assign_proposals

_CROPS_AT_ONCE = 64
NO_SEGMENT = -1
"""Category of a proposal that fits no segment."""


@dataclass(frozen=True, slots=True)
class MaskSamples:
    """Masks of one or more images of one size.

    Attributes:
        crops: (S, 3, s, s) half, in [0, 1].
        windows: (S, 4) float, where they lie in their image, pixels.
        mask_logits: (S, h, w) half, of the whole image.
        image_size: (height, width) of the images.
        memory: what mask tokens read of the crops, layer by layer, half; empty if CLIP itself trains.
    """

    crops: Tensor
    windows: Tensor
    mask_logits: Tensor
    image_size: tuple[int, int]
    memory: tuple[LayerMemory, ...] = ()

    def __len__(self) -> int:
        return len(self.crops)

    def read(self, classifier: FisaClassifier, chosen: Tensor | slice) -> tuple[LayerMemory, ...]:
        """What mask tokens read of some of the crops: remembered, or computed with gradients."""
        if not self.memory:
            return tuple(classifier.remember_views(self.crops[chosen].float()))
        return tuple(LayerMemory(keys[chosen].float(), values[chosen].float()) for keys, values in self.memory)


@dataclass(frozen=True, slots=True)
class TrainingSamples:
    """Masks to learn from.

    Attributes:
        masks: the proposals.
        truth: (S, h, w) half in [0, 1], the segment that each fits; zeros where it fits none.
        categories: names of the segments; None where it fits none.
    """

    masks: MaskSamples
    truth: Tensor
    categories: tuple[str | None, ...]


def collect_samples(classifier: FisaClassifier, images: Tensor, mask_logits: Sequence[Tensor]) -> MaskSamples:
    """Crops of masks, before CLIP has seen them.

    Args:
        classifier: of the view "crops".
        images: (B, 3, H, W) in [0, 1].
        mask_logits: B tensors (M, h, w); M may differ and be 0.

    Raises:
        ConfigError: the classifier looks at whole images.
    """
    if classifier.config.view != "crops":
        raise ConfigError(f"masks are collected for fisa.view crops, but this preset's is {classifier.config.view}")
    size = (images.shape[-2], images.shape[-1])
    masks = torch.cat(list(mask_logits))  # (S, h, w)
    owners = torch.cat([torch.full((len(group),), index) for index, group in enumerate(mask_logits)])
    windows = classifier.windows(masks[None], size)
    side = classifier.crop_size
    return MaskSamples(
        crops=crop_images(images, windows, owners, side).half(),
        windows=windows,
        mask_logits=masks.half(),
        image_size=size,
    )


def join(groups: Sequence[MaskSamples]) -> MaskSamples:
    """All samples of several, one after the other, without their memories."""
    return MaskSamples(
        crops=torch.cat([group.crops for group in groups]),
        windows=torch.cat([group.windows for group in groups]),
        mask_logits=torch.cat([group.mask_logits for group in groups]),
        image_size=groups[0].image_size,
    )


@torch.no_grad()
def remember(classifier: FisaClassifier, samples: MaskSamples) -> MaskSamples:
    """The same samples with what mask tokens read of their crops, by the CLIP as it is now."""
    parts: list[tuple[LayerMemory, ...]] = []
    starts = range(0, len(samples), _CROPS_AT_ONCE)
    for start in tqdm(starts, desc="read crops", unit="batch", mininterval=5, disable=len(starts) < 10):
        crops = samples.crops[start : start + _CROPS_AT_ONCE].float()
        parts.append(tuple(LayerMemory(*(part.half() for part in layer)) for layer in classifier.remember_views(crops)))
    layers = tuple(
        LayerMemory(torch.cat([part.keys for part in layer]), torch.cat([part.values for part in layer]))
        for layer in zip(*parts, strict=True)
    )
    return MaskSamples(samples.crops, samples.windows, samples.mask_logits, samples.image_size, layers)


@torch.no_grad()
def training_samples(
    classifier: FisaClassifier, generator: nn.Module, views: TabletopViews, *, min_iou: float, keep_unmatched: bool
) -> TrainingSamples:
    """Proposals of every view that fit a segment, and what they show.

    Args:
        classifier: says which proposals are worth reading.
        generator: frozen, images -> MaskProposals, in evaluation mode.
        views: of seen categories only.
        min_iou: see `FisaLossConfig`.
        keep_unmatched: also keep those that fit no segment.
    """
    groups, truths, categories = [], [], []
    for index in tqdm(range(len(views)), desc="proposals", unit="view", mininterval=5):
        pixels = torch.from_numpy(views.images[index]).permute(2, 0, 1)[None].float() / 255
        proposals = generator(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD))
        queries, is_read = classifier.choose(proposals)
        masks = proposals.mask_logits[0, queries[0][is_read[0]]]  # (M, h, w)
        truth = soft_masks(views.segment_ids[index], len(views.labels[index]), masks.shape[-2:])
        segment = assign_proposals(masks, truth, min_iou)
        if not keep_unmatched:
            masks, segment = masks[segment != NO_SEGMENT], segment[segment != NO_SEGMENT]
        fitting = torch.cat([truth, truth.new_zeros(1, *truth.shape[1:])])  # the last row, -1, is of no segment
        groups.append(collect_samples(classifier, pixels, [masks]))
        truths.append(fitting[segment].half())
        categories += [None if number == NO_SEGMENT else views.labels[index][number] for number in segment.tolist()]
    return TrainingSamples(join(groups), torch.cat(truths), tuple(categories))


def soft_masks(segment_ids: np.ndarray, count: int, size: Sequence[int]) -> Tensor:
    """(N, h, w): the share of every cell that each segment 1 to N covers, from ids (H, W)."""
    ids = torch.from_numpy(segment_ids.astype(np.int64))
    one_hot = ids[None] == torch.arange(1, count + 1)[:, None, None]
    return F.adaptive_avg_pool2d(one_hot.float()[None], (size[0], size[1]))[0]
