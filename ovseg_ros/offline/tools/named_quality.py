"""Panoptic quality of classifiers on the same masks of the same tabletop images, so that only naming differs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier, MaskViews
from ovseg_ros.core.images import to_tensor
from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.offline.data.types import PanopticSample
from ovseg_ros.offline.train.fisa_data import likeliest, with_key_values
from ovseg_ros.offline.train.fisa_losses import best_segments
from ovseg_ros.offline.train.losses import soft_masks
from ovseg_ros.sim.categories import SEEN, UNSEEN

GROUPS = {"all": SEEN | UNSEEN, "seen": SEEN, "unseen": UNSEEN}
"""Categories of which figures are told, by the name of the group."""
_CERTAIN = 20.0
"""A logit beside which one of 0 has no probability."""


@dataclass(frozen=True, slots=True)
class ProposedImage:
    """What is proposed for an image.

    Attributes:
        sample: image and ground truth.
        pixels: (1, 3, H, W) in [0, 1].
        proposals: the masks to name.
        views: of those that a FISA reads, with what a frozen CLIP makes of them, in half precision.
    """

    sample: PanopticSample
    pixels: Tensor
    proposals: MaskProposals
    views: MaskViews


@torch.no_grad()
def propose_images(
    model: TwoStage, classifier: FisaClassifier, samples: Iterable[PanopticSample], vocabulary: Vocabulary
) -> list[ProposedImage]:
    """Images with a model's proposals, and the views that a FISA has of them."""
    prompt, images = model.prepare(vocabulary), []
    for sample in tqdm(samples, desc="evaluation images", unit="image", mininterval=5):
        pixels = to_tensor(sample.image, classifier.logit_scale.device)
        proposals = model.propose(pixels, prompt)
        views = classifier.views_of(pixels, likeliest(classifier, proposals)[None])
        views = with_key_values(classifier, replace(views, pixels=views.pixels.half()))
        images.append(ProposedImage(sample, pixels, proposals, views))
    return images


@torch.no_grad()
def panoptic_quality(
    classify: Callable[[ProposedImage], Tensor],
    images: Sequence[ProposedImage],
    vocabulary: Vocabulary,
    merge: MergeConfig,
) -> dict[str, Any]:
    """PQ after the panoptic merge, in percent over each of `GROUPS`.

    Args:
        classify: gives logits (1, Q, K + 1) for an image's proposals.

    Returns:
        Also "all_interval" and so on, of 95 % by bootstrap over images.
    """
    quality = NamedQuality(vocabulary, merge)
    for image in images:
        quality.add(image.sample, image.proposals.mask_logits[0], classify(image)[0])
    return quality.figures()


class NamedQuality:
    """Accumulates panoptic quality after the panoptic merge, one image at a time."""

    def __init__(self, vocabulary: Vocabulary, merge: MergeConfig) -> None:
        self._vocabulary, self._merge, self._quality = vocabulary, merge, PanopticQuality()

    def add(self, sample: PanopticSample, masks: Tensor, logits: Tensor) -> None:
        """Add an image with its masks (Q, h, w) and their names (Q, K + 1), logits."""
        truth = sample.segment_ids
        result = merge_panoptic(masks, logits, self._vocabulary, truth.shape, self._merge)
        found = {segment.id: segment.category_id for segment in result.segments}
        self._quality.add(result.segment_ids, found, truth, {s.id: s.category for s in sample.segments})

    def figures(self) -> dict[str, Any]:
        """As `panoptic_quality` returns them."""
        figures: dict[str, Any] = {}
        for name, names in GROUPS.items():
            group = {category.id for category in self._vocabulary.categories if category.name in names}
            figures |= {
                name: self._quality.result(group).pq,
                f"{name}_interval": self._quality.confidence_interval(group),
            }
        return figures


@torch.no_grad()
def rightly_named(
    classify: Callable[[ProposedImage], Tensor],
    right: Callable[[ProposedImage], Tensor],
    images: Sequence[ProposedImage],
    vocabulary: Vocabulary,
) -> dict[str, float | None]:
    """Of the masks that fit a segment, the share whose likeliest word is right, in percent, whatever the thresholds.

    Args:
        classify: as of `panoptic_quality`.
        right: the same of a perfect classifier, as `true_names`.

    Returns:
        "seen_named" and so on, by the group of the segment; None where there is no mask of it.
    """
    found = torch.cat([classify(image)[0, :, :-1].argmax(dim=-1) for image in images])
    truth = torch.cat([right(image)[0].argmax(dim=-1) for image in images])
    shares: dict[str, float | None] = {}
    for name, names in GROUPS.items():
        group = torch.tensor([category.name in names for category in vocabulary.categories] + [False])[truth]
        hits = (found == truth)[group]
        shares[f"{name}_named"] = 100 * float(hits.float().mean()) if len(hits) else None
    return shares


def true_names(classifier: FisaClassifier, categories: int, image: ProposedImage) -> Tensor:
    """Logits (1, Q, `categories` + 1) of a perfect classifier.

    Every mask that is read and overlaps a segment by more than half has that segment's name, all others have none.
    """
    masks = image.proposals.mask_logits[0]
    queries, is_read = classifier.top_masks(image.proposals)
    chosen = queries[is_read]  # of one image
    logits = masks.new_zeros(1, len(masks), categories + 1)
    logits[..., -1] = _CERTAIN
    logits[0, chosen] = matching_names(masks[chosen], image.sample, categories)
    return logits


def matching_names(masks: Tensor, sample: PanopticSample, categories: int) -> Tensor:
    """Logits (Q, `categories` + 1) by which each mask (Q, h, w) has the name of the segment that it overlaps by more
    than half, or none."""
    segments = sample.segments
    ids = torch.tensor([segment.id for segment in segments])
    truth = soft_masks(torch.from_numpy(sample.segment_ids), ids, masks.shape[-2:])
    logits = masks.new_zeros(len(masks), categories + 1)
    logits[:, -1] = _CERTAIN
    for query, best in enumerate(best_segments(masks, truth, 0.5).tolist()):
        if best >= 0:
            logits[query, segments[best].category] = 2 * _CERTAIN
    return logits
