"""Views of images with the proposals that fit their segments: what threads prepare of them, and what the device does.

Threads decode, cut out and unpack, a sample by itself. Proposals are moved into the view, truth is pooled and both are
compared on the device, where that is little work; which are trained on is read back once, for all samples together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovseg_ros.offline.data.types import VOID, PanopticSample
from ovseg_ros.offline.train.augmentation import View
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, fitted, overlaps
from ovseg_ros.offline.train.losses import pooled_masks
from ovseg_ros.offline.train.proposal_cache import to_logits

MASK_STRIDE = 4
"""Pixels of a view to one of its masks."""


@dataclass(frozen=True, slots=True)
class RawView:
    """A view of a training image as threads prepare it.

    Attributes:
        image: (3, H, W), uint8 or float in [0, 1].
        segments: (H, W) int16 or larger, 1 to N; 0 = nothing to find.
        categories: (N,) int64, of the segments, also of those that do not show.
        levels: (M, h, w) int8, as `ProposalCache.read` has them: the masks of the whole image.
        view: of the image.
    """

    image: Tensor
    segments: Tensor
    categories: Tensor
    levels: Tensor
    view: View

    def pinned(self) -> "RawView":
        """The same in page-locked memory, from where a GPU copies while the processor goes on."""
        image, segments, categories, levels = (
            part.pin_memory() for part in (self.image, self.segments, self.categories, self.levels)
        )
        return RawView(image, segments, categories, levels, self.view)


@dataclass(frozen=True, slots=True)
class ProposedView:
    """A view of a training image, and its M proposals that are trained on, on a device.

    Attributes:
        image: as of `RawView`.
        masks, truth: both (M, H / 4, W / 4): logits, and the segment that each fits, zeros where it fits none.
        categories: (M,) int64 of that segment.
        fits: how many of the M fit a segment.
        best: the largest IoU of any proposal with a segment; 0 without any.
    """

    image: Tensor
    masks: Tensor
    truth: Tensor
    categories: Tensor
    fits: int
    best: float


def raw_view(sample: PanopticSample, view: View, levels: Tensor) -> RawView:
    """A view of a sample; crowds are not to be found."""
    wanted = [segment for segment in sample.segments if not segment.is_crowd]
    ids = np.array([VOID, *(segment.id for segment in wanted)], dtype=np.int32)
    order = np.argsort(ids)
    places = order[np.searchsorted(ids[order], sample.segment_ids).clip(max=len(ids) - 1)]
    kind = np.int16 if len(ids) < 1 << 15 else np.int32
    numbers = np.where(ids[places] == sample.segment_ids, places, 0).astype(kind)
    return RawView(
        image=torch.from_numpy(view.of_image(sample.image)).permute(2, 0, 1),
        segments=torch.from_numpy(view.of_segments(numbers)),
        categories=torch.tensor([segment.category for segment in wanted], dtype=torch.int64),
        levels=levels,
        view=view,
    )


@torch.no_grad()
def proposed_views(
    views: Sequence[RawView], config: FisaLossConfig, none: int, device: torch.device
) -> list[ProposedView]:
    """Views with their proposals, assigned many to one to the segments that show; waits for the device once.

    `none` is K, the category of proposals that fit no segment.
    """
    if not views:
        return []
    with torch.autocast(device.type, enabled=False):  # IoUs are of whole numbers
        found = [_compared(view, config, device) for view in views]
        told = torch.cat([one.verdicts for one in found], dim=1).cpu()  # the one wait
        split = told.split([one.verdicts.shape[1] for one in found], dim=1)
        return [
            _taken(view, one, verdicts, none, device) for view, one, verdicts in zip(views, found, split, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Compared:
    """All Q masks of a view, the truth of its N segments, and the segment (Q,) that each fits, -1 = none.

    `verdicts` are (3, Q): whether it is trained on, whether it fits one, and its largest IoU with any.
    """

    masks: Tensor
    truth: Tensor
    segment: Tensor
    verdicts: Tensor


def _compared(view: RawView, config: FisaLossConfig, device: torch.device) -> _Compared:
    masks = view.view.of_masks(to_logits(view.levels.to(device, non_blocking=True)), MASK_STRIDE)
    truth = pooled_masks(view.segments.to(device, non_blocking=True), len(view.categories), MASK_STRIDE)
    overlap, segment = overlaps(masks, truth)
    fits = overlap > config.min_iou
    # Those that the view cut off show nothing.
    counts = fits if config.none_weight == 0 else (masks >= 0).flatten(1).any(dim=1)
    verdicts = torch.stack([counts.to(overlap), fits.to(overlap), overlap])
    return _Compared(masks, truth, torch.where(fits, segment, -1), verdicts)


def _taken(view: RawView, found: _Compared, verdicts: Tensor, none: int, device: torch.device) -> ProposedView:
    counts, fits, overlap = verdicts
    rows = counts.nonzero()[:, 0].to(device, non_blocking=True)
    segment = found.segment[rows]
    truth, categories = fitted(segment, found.truth, view.categories.to(device, non_blocking=True), none)
    return ProposedView(
        image=view.image.to(device, non_blocking=True),
        masks=found.masks[rows],
        truth=truth,
        categories=categories,
        fits=int(fits.sum()),
        best=max(overlap.tolist(), default=0.0),
    )
