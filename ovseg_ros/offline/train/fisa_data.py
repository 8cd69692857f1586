"""What FISA learns from: batches of masks to name, in jittered views of a data set, or in views collected before."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from ovseg_ros.core.classification.fisa.classifier import FisaClassifier, MaskViews
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import to_tensor
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.text_attention import KeyValues
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample
from ovseg_ros.offline.train.augmentation import OUTSIDE_LOGIT, AugmentationConfig, View
from ovseg_ros.offline.train.data import PanopticData, PanopticStream, to_pixels
from ovseg_ros.offline.train.engine import Run
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, assign, overlaps
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.losses import soft_masks
from ovseg_ros.offline.train.proposal_cache import ProposalCache, weights_hash, words_hash
from ovseg_ros.offline.train.proposed_views import ProposedView, RawView, proposed_views, raw_view
from ovseg_ros.offline.train.words import SeenWords

CROPS_SHOWN = 6
"""Of an image, in pictures."""
_PIXELS_AT_ONCE = 64 * 64 * 64
_IMAGES_WITHOUT_FIT = 100
"""After so many without a proposal that fits, there is nothing to learn."""


@dataclass(frozen=True, slots=True)
class MaskBatch:
    """N masks to name, in B images of up to M masks each, on the device that reads them.

    Attributes:
        views: what CLIP looks at.
        masks: (B, M, h, w) logits.
        is_mask: (B, M) bool, which of them there are.
        truth: (N, h, w) in [0, 1], the segment that each fits; zeros where it fits none.
        categories: (N,) int64 in [0, K], of that segment; K = it fits none.
        text: the K words.
    """

    views: MaskViews
    masks: Tensor
    is_mask: Tensor
    truth: Tensor
    categories: Tensor
    text: TextEmbeddings


class JitteredViews:
    """Views of a data set, on proposals that are computed beforehand; SEVE attends all of its words."""

    def __init__(
        self,
        model: TwoStage,
        classifier: FisaClassifier,
        dataset: PanopticDataset,
        data: PanopticData,
        augmentation: AugmentationConfig,
        loop: LoopConfig,
        loss: FisaLossConfig,
        run: Run,
    ) -> None:
        """Computes what `model` proposes for the images that will be shown, divided over processes, kept in --out.

        Errors as of `ProposalCache.fill`.
        """
        engine, self._classifier, self._device = run.engine, classifier, run.engine.device
        self._loss, self._none = loss, len(dataset.categories)
        self._ready: dict[tuple[int, range], list[ProposedView]] = {}
        self._best, self._begun_at, self._fits = 0.0, -1, False
        made = (f"{key}{value}" for key, value in dataset.scenes.items())  # other seeds have the same names
        images = "/".join([dataset.name, dataset.split, *made])
        vocabulary = dataset.vocabulary()
        self._text, prompt = model.text_encoder.encode(vocabulary), model.prepare(vocabulary)
        words = None if prompt.proposer is None else words_hash(vocabulary)  # where these masks depend on them
        cache = ProposalCache(
            run.out / "proposals",
            weights_hash(model.proposer),
            images,
            model.input_size,
            max_masks=classifier.config.max_masks,
            min_objectness=classifier.config.min_objectness,
            words=words,
        )

        def prepare(sample: PanopticSample, view: View) -> RawView:
            raw = raw_view(sample, view, cache.read(sample.name))
            return raw.pinned() if self._device.type == "cuda" else raw

        @torch.inference_mode()
        def propose(image: np.ndarray) -> Tensor:
            return likeliest(classifier, model.propose(to_tensor(image, self._device), prompt))

        self._stream = PanopticStream(dataset, data, augmentation, loop, prepare)
        order = [self._stream.index_of(turn) for turn in range(len(dataset))]
        begin, end = 0, min(loop.steps * loop.batch_size, len(order))
        while begin < end:
            unusable = cache.fill(
                dataset,
                order[begin:end][engine.rank :: engine.world],
                propose,
                threads=data.workers,
                skip_damaged=data.on_error == "skip",
                quiet=not engine.is_main,
            )
            # Each of these is replaced by the image whose turn is next.
            replaced = engine.sum(torch.tensor(float(unusable), device=self._device))
            begin, end = end, min(end + round(float(replaced)), len(order))

    def batch(self, step: int, samples: range) -> MaskBatch:
        """These samples, which are views, of a step's batch."""
        ready = self._ready.pop((step, samples), None)
        return self._join(ready or self._compare(self._stream.batch(step, samples)))

    def shown(self) -> Iterator[MaskBatch]:
        """For pictures: one whole image at a time, always the same."""
        for view in self._stream.shown():
            yield self._join(self._compare([view]))

    def _join(self, views: Sequence["ProposedView"]) -> MaskBatch:
        masks, is_mask = pad_masks([view.masks for view in views])
        pixels = to_pixels([view.image for view in views], self._device)
        truth = torch.cat([view.truth for view in views])
        categories = torch.cat([view.categories for view in views])
        return MaskBatch(self._classifier.views_of(pixels, masks), masks, is_mask, truth, categories, self._text)

    def _compare(self, views: Sequence[RawView]) -> list[ProposedView]:
        return proposed_views(views, self._loss, self._none, self._device)

    def counts(self, step: int, samples: range) -> Tensor:
        """(len(samples), 2): masks of each sample that fit a segment, and others. The device is waited for here, once;
        what it made stays there for `batch`."""
        views = self._compare(self._stream.batch(step, samples))
        self._ready = {at: ready for at, ready in self._ready.items() if at[0] == step}
        self._ready[step, samples] = views
        self._best = max([self._best, *(view.best for view in views)])
        return torch.tensor([[float(view.fits), float(len(view.categories) - view.fits)] for view in views])

    def require_fits(self, step: int, images: int, masks: float) -> None:
        """Tell a step's images and masks that fit, of all processes; ConfigError if the first images have none."""
        self._begun_at = step if self._begun_at < 0 else self._begun_at
        self._fits |= masks > 0
        seen = (step + 1 - self._begun_at) * images
        if not self._fits and seen >= _IMAGES_WITHOUT_FIT:
            raise ConfigError(_no_fit(self._loss.min_iou, self._best, seen))

    def close(self) -> None:
        """End the threads that read."""
        self._stream.close()


def likeliest(classifier: FisaClassifier, proposals: MaskProposals) -> Tensor:
    """The masks (M, h, w) of one image that a classifier reads."""
    queries, is_read = classifier.top_masks(proposals)
    return proposals.mask_logits[0, queries[is_read]]


def pad_masks(groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B tensors (M, h, w) as one, filled up with empty masks: (B, most, h, w), and (B, most) bool: which are masks.

    There is at least one row, so that every parameter takes part even if no image has a mask.
    """
    row = groups[0].new_zeros(1, *groups[0].shape[1:])
    masks = pad_sequence([*groups, row], batch_first=True, padding_value=OUTSIDE_LOGIT)[:-1]
    is_mask = torch.arange(masks.shape[1]) < torch.tensor([len(group) for group in groups])[:, None]
    return masks, is_mask.to(masks.device)


class CollectedMasks:
    """Views drawn from all that were collected before, with their masks, and the seen words under changing names."""

    def __init__(self, masks: MaskBatch, words: SeenWords, loop: LoopConfig) -> None:
        self._all, self._words, self._loop = masks, words, loop
        self._places = (masks.is_mask.flatten().cumsum(dim=0) - 1).view_as(masks.is_mask)  # (B, M) each mask's of the N

    def batch(self, step: int, samples: range) -> MaskBatch:
        """These samples, which are crops of a mask each or images, of a step's batch; in single precision."""
        rng, drawn = self._draw(step)
        chosen = drawn[samples.start : samples.stop]
        is_mask = self._all.is_mask[chosen]
        is_mask = is_mask[:, : int(is_mask.sum(dim=1).max())]  # what fills up is behind
        places = self._places[chosen, : is_mask.shape[1]][is_mask]
        return MaskBatch(
            views=some_views(self._all.views, chosen),
            masks=self._all.masks[chosen, : is_mask.shape[1]].float(),
            is_mask=is_mask,
            truth=self._all.truth[places],
            categories=self._all.categories[places],
            text=self._words.draw(rng),
        )

    def shown(self) -> Iterator[MaskBatch]:
        """For pictures: some views one at a time, always the same."""
        for sample in range(min(CROPS_SHOWN, self._loop.batch_size)):
            yield self.batch(0, range(sample, sample + 1))

    def counts(self, step: int, samples: range) -> Tensor:
        """As of `JitteredViews`."""
        chosen = self._draw(step)[1][samples.start : samples.stop]
        fits = self._all.categories[self._places[chosen]] < len(self._all.text.vocabulary.categories)  # (B, M)
        return torch.stack([(kind & self._all.is_mask[chosen]).sum(dim=1) for kind in (fits, ~fits)], dim=1).float()

    def _draw(self, step: int) -> tuple[np.random.Generator, Tensor]:
        """What draws a step's words, after its views were drawn, and these: (batch size,) int64."""
        rng = np.random.default_rng([self._loop.seed, step])
        return rng, torch.from_numpy(rng.integers(len(self._all.is_mask), size=self._loop.batch_size))

    def require_fits(self, step: int, images: int, masks: float) -> None:
        """Nothing: there are no masks but those that some segment fits, see `collect_masks`."""

    def close(self) -> None:
        """Nothing reads."""


@torch.no_grad()
def collect_masks(
    model: TwoStage, classifier: FisaClassifier, dataset: PanopticDataset, words: SeenWords, config: FisaLossConfig
) -> MaskBatch:
    """Every proposal that `classifier` reads and that counts, in half precision.

    Args:
        dataset: images of one size, which show seen categories only.

    Returns:
        Masks one by one, each with its crop (B = N, M = 1), or those of an image together (B images that have any).

    Raises:
        ConfigError: no proposal fits a segment.
    """
    prompt, device = model.prepare(words.vocabulary), classifier.logit_scale.device
    text, groups, views = words.text_encoder.encode(words.vocabulary), [], []
    none, best = len(words.vocabulary.categories), 0.0
    for sample in tqdm(dataset, desc="proposals", unit="image", mininterval=5):
        pixels = to_tensor(sample.image, device)
        masks = likeliest(classifier, model.propose(pixels, prompt))
        places = [words.index_of(dataset.categories[segment.category].name) for segment in sample.segments]
        ids = torch.tensor([segment.id for segment in sample.segments], device=device)
        truth = soft_masks(torch.from_numpy(sample.segment_ids).to(device), ids, masks.shape[-2:])
        categories = torch.tensor(places, dtype=torch.int64, device=device)
        best = max([best, *overlaps(masks, truth)[0].tolist()])
        masks, truth, categories = assign(masks, truth, categories, none, config)
        if len(masks):
            groups.append((masks.half(), truth.half(), categories))
            views.append(classifier.views_of(pixels, masks[None]))
    if not any(bool((names < none).any()) for _, _, names in groups):
        raise ConfigError(_no_fit(config.min_iou, best, len(dataset)))
    windows = [view.windows for view in views if view.windows is not None]
    joined = MaskViews(
        torch.cat([view.pixels.half() for view in views]),
        views[0].image_size,
        torch.cat(windows) if windows else None,
    )
    masks, is_mask = pad_masks([row for masks, _, _ in groups for row in (masks[:, None] if windows else masks[None])])
    _, truths, names = zip(*groups, strict=True)
    return MaskBatch(joined, masks, is_mask, torch.cat(truths), torch.cat(names), text)


def _no_fit(min_iou: float, best: float, images: int) -> str:
    return (
        f"no proposal fits a segment: loss.min_iou is {min_iou:g}, and the largest IoU of any proposal in {images} "
        f"images is {best:.3g}; lower min_iou, or name a preset whose mask generator fits them"
    )


@torch.no_grad()
def with_key_values(classifier: FisaClassifier, views: MaskViews) -> MaskViews:
    """Views with what CLIP, as it is now, makes of them, in half precision."""
    count, _, height, width = views.pixels.shape
    kept: list[KeyValues] = []  # filled in place: of whole images it is gigabytes
    firsts = range(0, count, max(1, _PIXELS_AT_ONCE // (height * width)))
    for first in tqdm(firsts, desc="read views", unit="batch", mininterval=5, disable=len(firsts) < 10):
        some = slice(first, first + firsts.step)
        for layer, read in enumerate(classifier.key_values(views.pixels[some].float())):
            if layer == len(kept):
                kept.append(KeyValues(*(part.new_empty(count, *part.shape[1:], dtype=torch.half) for part in read)))
            for whole, part in zip(kept[layer], read, strict=True):
                whole[some] = part
    return replace(views, key_values=tuple(kept))


def some_views(views: MaskViews, chosen: Tensor | slice) -> MaskViews:
    """Some views in single precision."""
    windows = views.windows[chosen] if views.windows is not None else None
    key_values = views.key_values and tuple(
        KeyValues(keys[chosen].float(), values[chosen].float()) for keys, values in views.key_values
    )
    return MaskViews(views.pixels[chosen].float(), views.image_size, windows, key_values)
