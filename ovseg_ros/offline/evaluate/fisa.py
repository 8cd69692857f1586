"""Panoptic quality of classifiers on the same masks of the same tabletop images, so that only naming differs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from ovseg_ros.offline.data.tabletop_views import TabletopViews
from ovseg_ros.offline.train.fisa_data import likeliest, with_key_values
from ovseg_ros.offline.train.fisa_losses import best_segments, soft_masks
from ovseg_ros.sim.categories import SEEN, UNSEEN

_CERTAIN = 20.0
"""A logit beside which one of 0 has no probability."""


@dataclass(frozen=True, slots=True)
class ProposedImage:
    """An image, its ground truth, and what is proposed for it.

    Attributes:
        pixels: (1, 3, H, W) in [0, 1].
        segment_ids: (H, W) int64; 0 = void.
        labels: the category names of segments 1, 2, ...
        proposals: the masks to name.
        crops: of those that a FISA reads, with what a frozen CLIP makes of them, in half precision.
    """

    pixels: Tensor
    segment_ids: Tensor
    labels: list[str]
    proposals: MaskProposals
    crops: MaskViews


@dataclass(frozen=True, slots=True)
class NamedQuality:
    """PQ in percent over the seen and over the unseen categories, with 95 % bootstrap intervals over images."""

    seen: float
    unseen: float
    seen_interval: tuple[float, float]
    unseen_interval: tuple[float, float]


@torch.no_grad()
def propose_images(
    model: TwoStage, classifier: FisaClassifier, views: TabletopViews, vocabulary: Vocabulary
) -> list[ProposedImage]:
    """Views with a model's proposals, and the crops that a FISA reads of them."""
    prompt, images = model.prepare(vocabulary), []
    for index in tqdm(range(len(views)), desc="evaluation images", unit="image", mininterval=5):
        pixels = to_tensor(views.images[index], torch.device("cpu"))
        proposals = model.propose(pixels, prompt)
        crops = classifier.look(pixels, likeliest(classifier, proposals)[None])
        crops = with_key_values(classifier, MaskViews(crops.pixels.half(), crops.image_size, crops.windows))
        ids = torch.from_numpy(views.segment_ids[index]).long()
        images.append(ProposedImage(pixels, ids, views.labels[index], proposals, crops))
    return images


@torch.no_grad()
def panoptic_quality(
    classify: Callable[[ProposedImage], Tensor],
    images: Sequence[ProposedImage],
    vocabulary: Vocabulary,
    merge: MergeConfig,
) -> NamedQuality:
    """PQ after the panoptic merge; `classify` gives logits (1, Q, K + 1) for an image's proposals."""
    quality = PanopticQuality()
    ids = {category.name: category.id for category in vocabulary.categories}
    for image in images:
        truth, masks = image.segment_ids.numpy(), image.proposals.mask_logits[0]
        result = merge_panoptic(masks, classify(image)[0], vocabulary, truth.shape, merge)
        labels = {number: ids[label] for number, label in enumerate(image.labels, start=1)}
        quality.add(result.segment_ids, {s.id: s.category_id for s in result.segments}, truth, labels)
    seen, unseen = ({ids[name] for name in names} for names in (SEEN, UNSEEN))
    intervals = quality.confidence_interval(seen), quality.confidence_interval(unseen)
    return NamedQuality(quality.result(seen).pq, quality.result(unseen).pq, *intervals)


def true_names(classifier: FisaClassifier, vocabulary: Vocabulary, image: ProposedImage) -> Tensor:
    """Logits (1, Q, K + 1) of a perfect classifier.

    Every mask that is read and overlaps a segment by more than half has that segment's name, all others have none.
    """
    names = [category.name for category in vocabulary.categories]
    masks = image.proposals.mask_logits[0]
    queries, is_read = classifier.top_masks(image.proposals)
    chosen = queries[0][is_read[0]]
    truth = soft_masks(image.segment_ids, torch.arange(1, len(image.labels) + 1), masks.shape[-2:])
    logits = masks.new_zeros(1, len(masks), len(names) + 1)
    logits[..., -1] = _CERTAIN
    for query, segment in zip(chosen.tolist(), best_segments(masks[chosen], truth, 0.5).tolist(), strict=True):
        if segment >= 0:
            logits[0, query, names.index(image.labels[segment])] = 2 * _CERTAIN
    return logits
