"""Panoptic quality of classifiers on the same masks of the same tabletop images, so that only naming differs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.metrics.panoptic_quality import PanopticQuality
from ovseg_ros.core.types import MaskClassification, MaskProposals, TextEmbeddings
from ovseg_ros.offline.data.tabletop_views import TabletopViews
from ovseg_ros.offline.train.fisa_losses import assign_proposals
from ovseg_ros.offline.train.fisa_samples import NO_SEGMENT, MaskSamples, collect_samples, join, remember, soft_masks
from ovseg_ros.sim.categories import SEEN, UNSEEN

_CERTAIN = 20.0
"""A logit beside which one of 0 has no probability."""


@dataclass(frozen=True, slots=True)
class EvaluationImages:
    """Images, the frozen generator's proposals for each, and the crops that a FISA reads of them.

    Attributes:
        views: the images and their ground truth.
        proposals: for each image.
        queries: for each image, the proposals that are read, (M,).
        masks: samples of all images, one image after the other.
    """

    views: TabletopViews
    proposals: list[MaskProposals]
    queries: list[Tensor]
    masks: MaskSamples

    @classmethod
    @torch.no_grad()
    def collect(cls, classifier: FisaClassifier, generator: nn.Module, views: TabletopViews) -> "EvaluationImages":
        """Run the generator, and CLIP's image path as it is now, over every image once."""
        proposals, queries, samples = [], [], []
        for index in tqdm(range(len(views)), desc="evaluation images", unit="image", mininterval=5):
            pixels = image_tensor(views, index)
            proposed = generator(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD))
            chosen, is_read = classifier.choose(proposed)
            proposals.append(proposed)
            queries.append(chosen[0][is_read[0]])
            samples.append(collect_samples(classifier, pixels, [proposed.mask_logits[0, queries[-1]]]))
        return cls(views, proposals, queries, remember(classifier, join(samples)))


@dataclass(frozen=True, slots=True)
class NamedQuality:
    """PQ in percent over the seen and over the unseen categories, with 95 % bootstrap intervals over images."""

    seen: float
    unseen: float
    seen_interval: tuple[float, float]
    unseen_interval: tuple[float, float]


@torch.no_grad()
def fisa_quality(
    classifier: FisaClassifier, images: EvaluationImages, text: TextEmbeddings, merge: MergeConfig
) -> NamedQuality:
    """PQ of a FISA, without mirroring; CLIP's image path is run again only if it trained."""
    classifier.eval()
    masks = images.masks
    if classifier.config.clip_training != "frozen":
        masks = remember(classifier, masks)
    ends = torch.tensor([len(chosen) for chosen in images.queries]).cumsum(0).tolist()

    def classify(index: int) -> MaskClassification:
        queries = images.queries[index]
        rows = slice(ends[index] - len(queries), ends[index])
        adapted = classifier.adapter(masks.mask_logits[rows].float()[None])[0]
        inside = classifier.inside_crops(adapted, masks.windows[rows], masks.image_size)  # (M, 1, P)
        embeddings = classifier.read(masks.read(classifier, rows), inside, classifier.remember_text(text))
        is_read = torch.ones(1, len(queries), dtype=torch.bool)
        embeddings = embeddings.transpose(0, 1)  # (1, M, D)
        return classifier.classify(embeddings, images.proposals[index], queries[None], is_read, text)

    return panoptic_quality(classify, images, text, merge)


@torch.no_grad()
def module_quality(
    classifier: nn.Module, images: EvaluationImages, text: TextEmbeddings, merge: MergeConfig
) -> NamedQuality:
    """PQ of any classifier: (images, proposals, text) -> MaskClassification."""
    classifier.eval()

    def classify(index: int) -> MaskClassification:
        found: MaskClassification = classifier(image_tensor(images.views, index), images.proposals[index], text)
        return found

    return panoptic_quality(classify, images, text, merge)


@torch.no_grad()
def oracle_quality(images: EvaluationImages, text: TextEmbeddings, merge: MergeConfig) -> NamedQuality:
    """PQ if every mask that is read and overlaps a segment by more than half had that segment's name, all others none.

    What a perfect classifier would reach on these masks.
    """
    names = [category.name for category in text.vocabulary.categories]

    def classify(index: int) -> MaskClassification:
        masks, chosen = images.proposals[index].mask_logits[0], images.queries[index]
        labels = images.views.labels[index]
        truth = soft_masks(images.views.segment_ids[index], len(labels), masks.shape[-2:])
        logits = masks.new_zeros(1, len(masks), len(names) + 1)
        logits[..., -1] = _CERTAIN
        for query, segment in zip(chosen.tolist(), assign_proposals(masks[chosen], truth, 0.5).tolist(), strict=True):
            if segment != NO_SEGMENT:
                logits[0, query, names.index(labels[segment])] = 2 * _CERTAIN
        return MaskClassification(logits)

    return panoptic_quality(classify, images, text, merge)


def panoptic_quality(
    classify: Callable[[int], MaskClassification], images: EvaluationImages, text: TextEmbeddings, merge: MergeConfig
) -> NamedQuality:
    """PQ of what `classify` says of each image's proposals, after the panoptic merge."""
    quality = PanopticQuality()
    ids = {category.name: category.id for category in text.vocabulary.categories}
    for index, proposals in enumerate(images.proposals):
        truth = images.views.segment_ids[index].astype("int64")
        classification = classify(index)
        result = merge_panoptic(proposals.mask_logits[0], classification.logits[0], text.vocabulary, truth.shape, merge)
        labels = {number: ids[label] for number, label in enumerate(images.views.labels[index], start=1)}
        found = {segment.id: segment.category_id for segment in result.segments}
        quality.add(result.segment_ids, found, truth, labels)
    seen, unseen = ({ids[name] for name in names} for names in (SEEN, UNSEEN))
    return NamedQuality(
        seen=quality.result(seen).pq,
        unseen=quality.result(unseen).pq,
        seen_interval=quality.confidence_interval(seen),
        unseen_interval=quality.confidence_interval(unseen),
    )


def image_tensor(views: TabletopViews, index: int) -> Tensor:
    """(1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(views.images[index]).permute(2, 0, 1)[None].float() / 255
