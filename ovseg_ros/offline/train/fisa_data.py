"""What FISA learns from: batches of masks to name, in jittered views of a data set, or in crops collected before."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier, MaskViews
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import to_tensor
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.text_attention import KeyValues
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.offline.data.tabletop_views import TabletopViews
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample
from ovseg_ros.offline.train.augmentation import OUTSIDE_LOGIT, AugmentationConfig, View
from ovseg_ros.offline.train.data import PanopticData, PanopticStream, segmented_view, to_pixels
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, assign, soft_masks
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.proposal_cache import CacheKey, ProposalCache, weights_hash
from ovseg_ros.offline.train.seen_words import SeenWords
from ovseg_ros.offline.train.task import Run

MASK_STRIDE = 4
"""Pixels of a jittered view to one of its masks."""
_CROPS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class MaskBatch:
    """N masks to name, in B images of up to M masks each, on the device that reads them.

    Attributes:
        views: what CLIP looks at.
        masks: (B, M, h, w) logits.
        is_mask: (B, M) bool, which of them there are.
        truth: (N, h, w) in [0, 1], the segment that each fits.
        categories: (N,) int64 in [0, K], of that segment; K = it fits none.
        text: the K words.
    """

    views: MaskViews
    masks: Tensor
    is_mask: Tensor
    truth: Tensor
    categories: Tensor
    text: TextEmbeddings


class MaskSource(ABC):
    """Batches of masks.

    Attributes:
        samples_shown: how many of a batch's samples make a picture.
    """

    samples_shown: int

    @abstractmethod
    def batch(self, step: int, samples: range) -> MaskBatch:
        """These samples of a step's batch."""

    def close(self) -> None:  # noqa: B027, not all have something to close
        """Let go of what reads."""


class JitteredViews(MaskSource):
    """Views of a data set, on proposals that are computed beforehand; SEVE attends all of its words."""

    samples_shown = 1

    def __init__(
        self,
        model: TwoStage,
        dataset: PanopticDataset,
        data: PanopticData,
        augmentation: AugmentationConfig,
        loop: LoopConfig,
        loss: FisaLossConfig,
        run: Run,
    ) -> None:
        """Computes what `model` proposes for the images that will be shown, divided over processes, kept in --out.

        Raises:
            DatasetError: a damaged image, unless such are skipped.
            TrainingError: proposals cannot be written.
        """
        self._classifier, self._engine = fisa_of(model), run.engine
        self._text = model.text_encoder.encode(dataset.vocabulary())
        key = CacheKey(weights_hash(model.proposer), f"{dataset.name}/{dataset.split}", model.input_size)
        cache = ProposalCache(run.out / "proposals", key)

        def prepare(sample: PanopticSample, view: View) -> ProposedView:
            proposals = cache.read(sample.name)
            return proposed_view(sample, view, proposals, self._classifier, loss, len(dataset.categories))

        self._stream = PanopticStream(dataset, data, augmentation, loop, prepare)
        prompt = model.prepare(dataset.vocabulary())
        order = [self._stream.index_of(turn) for turn in range(len(dataset))]
        begin, end = 0, min(loop.steps * loop.batch_size, len(order))
        while begin < end:
            unusable = cache.fill(
                dataset,
                order[begin:end][self._engine.rank :: self._engine.world],
                lambda image: model.propose(to_tensor(image, self._engine.device), prompt),
                threads=data.workers,
                skip_damaged=data.on_error == "skip",
                quiet=not self._engine.is_main,
            )
            # Each of these is replaced by the image whose turn is next.
            share = self._engine.mean(torch.tensor(float(unusable), device=self._engine.device))
            begin, end = end, min(end + round(float(share) * self._engine.world), len(order))

    def batch(self, step: int, samples: range) -> MaskBatch:
        """See `MaskSource`."""
        device = self._engine.device
        views = self._stream.batch(step, samples)
        masks, is_mask = (part.to(device) for part in pad_masks([view.masks for view in views]))
        return MaskBatch(
            views=self._classifier.look(to_pixels([view.image for view in views], device), masks),
            masks=masks,
            is_mask=is_mask,
            truth=torch.cat([view.truth for view in views]).to(device),
            categories=torch.cat([view.categories for view in views]).to(device),
            text=self._text,
        )

    def close(self) -> None:
        """See `MaskSource`."""
        self._stream.close()


@dataclass(frozen=True, slots=True)
class ProposedView:
    """A view of a training image and the proposals in it that are trained on.

    Attributes:
        image: (3, H, W), as in `SegmentedView`.
        masks: (M, H / 4, W / 4) logits; M may be 0.
        truth: (M, H / 4, W / 4) in [0, 1], the segment that each proposal fits; zeros where it fits none.
        categories: (M,) int64, of that segment; K where it fits none.
    """

    image: Tensor
    masks: Tensor
    truth: Tensor
    categories: Tensor


def proposed_view(
    sample: PanopticSample,
    view: View,
    proposals: MaskProposals,
    classifier: FisaClassifier,
    config: FisaLossConfig,
    none: int,
) -> ProposedView:
    """A view of a sample with the likeliest proposals, assigned many to one to the segments that show in it.

    Args:
        classifier: says how many proposals are worth reading.
        none: K, the category of proposals that fit no segment.
    """
    shown = segmented_view(sample, view)
    masks = view.of_masks(likeliest(classifier, proposals), MASK_STRIDE)
    masks = masks[(masks >= 0).flatten(1).any(dim=1)]  # those that the view cut off show nothing
    truth = soft_masks(shown.segment_ids, shown.ids, masks.shape[-2:])
    return ProposedView(shown.image, *assign(masks, truth, shown.categories, none, config))


def likeliest(classifier: FisaClassifier, proposals: MaskProposals) -> Tensor:
    """The masks (M, h, w) of one image that a classifier reads."""
    queries, is_read = classifier.top_masks(proposals)
    return proposals.mask_logits[0, queries[0][is_read[0]]]


def pad_masks(groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B tensors (M, h, w) as one, filled up with empty masks: (B, most, h, w), and (B, most) bool: which are masks.

    There is at least one row, so that every parameter takes part even if no image has a mask.
    """
    most = max(1, *(len(group) for group in groups)) if groups else 1
    masks = groups[0].new_full((len(groups), most, *groups[0].shape[1:]), OUTSIDE_LOGIT)
    is_mask = torch.zeros(len(groups), most, dtype=torch.bool)
    for index, group in enumerate(groups):
        masks[index, : len(group)] = group
        is_mask[index, : len(group)] = True
    return masks, is_mask


@dataclass(frozen=True, slots=True)
class MaskSamples:
    """S masks and what they are to learn; in half precision, but for the categories.

    Attributes:
        views: a crop around each.
        masks, truth, categories: as in `ProposedView`.
    """

    views: MaskViews
    masks: Tensor
    truth: Tensor
    categories: Tensor


class CollectedMasks(MaskSource):
    """Masks drawn from all that were collected before, and the seen words under changing names."""

    samples_shown = 6

    def __init__(self, samples: MaskSamples, words: SeenWords, loop: LoopConfig) -> None:
        self._samples, self._words, self._loop = samples, words, loop

    def batch(self, step: int, samples: range) -> MaskBatch:
        """See `MaskSource`."""
        rng = np.random.default_rng([self._loop.seed, step])
        drawn = rng.integers(len(self._samples.masks), size=self._loop.batch_size)
        chosen = torch.from_numpy(drawn[samples.start : samples.stop])
        masks = self._samples.masks[chosen].float()[None]  # (1, N, h, w)
        return MaskBatch(
            views=some_crops(self._samples.views, chosen),
            masks=masks,
            is_mask=masks.new_ones(masks.shape[:2], dtype=torch.bool),
            truth=self._samples.truth[chosen],
            categories=self._samples.categories[chosen],
            text=self._words.draw(rng),
        )


@torch.no_grad()
def collect_masks(model: TwoStage, views: TabletopViews, words: SeenWords, config: FisaLossConfig) -> MaskSamples:
    """Every proposal of every view that counts, cropped.

    Args:
        model: its FISA says which proposals are worth reading, and how they are cropped.
        views: of seen categories only.

    Raises:
        ConfigError: the FISA looks at whole images.
    """
    classifier = fisa_of(model)
    if classifier.config.view != "crops":
        raise ConfigError(f"masks are collected for fisa.view crops, but this preset's is {classifier.config.view}")
    prompt, device = model.prepare(words.vocabulary), classifier.logit_scale.device
    groups, crops = [], []
    for index in tqdm(range(len(views)), desc="proposals", unit="view", mininterval=5):
        pixels = to_tensor(views.images[index], device)
        masks = likeliest(classifier, model.propose(pixels, prompt))
        named = torch.tensor([words.index_of(label) for label in views.labels[index]], device=device)
        ids = torch.from_numpy(views.segment_ids[index]).to(device)
        truth = soft_masks(ids, torch.arange(1, len(named) + 1, device=device), masks.shape[-2:])
        groups.append(assign(masks, truth, named, len(words.vocabulary.categories), config))
        crops.append(classifier.look(pixels, groups[-1][0][None]))
    masks, truth, categories = (torch.cat(parts) for parts in zip(*groups, strict=True))
    windows = torch.cat([view.windows for view in crops if view.windows is not None])
    joined = MaskViews(torch.cat([view.pixels.half() for view in crops]), crops[0].image_size, windows)
    return MaskSamples(joined, masks.half(), truth.half(), categories)


@torch.no_grad()
def with_key_values(classifier: FisaClassifier, views: MaskViews) -> MaskViews:
    """Crops with what CLIP, as it is now, makes of them, in half precision."""
    parts, batches = [], views.pixels.split(_CROPS_AT_ONCE)
    for crops in tqdm(batches, desc="read crops", unit="batch", mininterval=5, disable=len(batches) < 10):
        layers = classifier.key_values(crops.float()) if len(crops) else ()
        parts.append([KeyValues(keys.half(), values.half()) for keys, values in layers])
    joined = (KeyValues(*map(torch.cat, zip(*layer, strict=True))) for layer in zip(*parts, strict=True))
    return replace(views, key_values=tuple(joined))


def some_crops(views: MaskViews, chosen: Tensor | slice) -> MaskViews:
    """Some crops in single precision."""
    assert views.windows is not None  # they are crops
    key_values = views.key_values and tuple(
        KeyValues(keys[chosen].float(), values[chosen].float()) for keys, values in views.key_values
    )
    return MaskViews(views.pixels[chosen].float(), views.image_size, views.windows[chosen], key_values)


def fisa_of(model: TwoStage) -> FisaClassifier:
    """The classifier of a model whose preset says that it is a FISA."""
    assert isinstance(model.classifier, FisaClassifier)
    return model.classifier
