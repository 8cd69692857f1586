"""Train FISA on a data set with panoptic ground truth, on the proposals of a frozen mask generator."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.build import UntrainedFisa, build_untrained_fisa
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.data.types import PanopticSample
from ovseg_ros.offline.train.augmentation import OUTSIDE_LOGIT, View
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.eomt_panoptic import open_panoptic, segmented_view
from ovseg_ros.offline.train.fisa_losses import FisaLossConfig, assign_proposals, fisa_losses
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.panoptic_stream import PanopticDataConfig, PanopticStream
from ovseg_ros.offline.train.pictures import NONE_OF_THESE, compare_names
from ovseg_ros.offline.train.proposal_cache import CacheKey, ProposalCache, weights_hash

_MASK_STRIDE = 4


@dataclass(frozen=True, slots=True)
class FisaPanopticConfig:
    """A training of FISA on panoptic ground truth.

    Attributes:
        preset: with a `fisa` section; says which mask generator and which CLIP.
        data, loop, loss: what on, how long, by what measure.
        checkpoint: file of the result, in --out.
    """

    preset: str
    data: PanopticDataConfig
    loop: LoopConfig
    checkpoint: str
    loss: FisaLossConfig = field(default_factory=FisaLossConfig)


@dataclass(frozen=True, slots=True)
class ProposedView:
    """A view of a training image and the proposals in it that are trained on.

    Attributes:
        image: uint8 (3, H, W).
        mask_logits: (M, H / 4, W / 4); M may be 0.
        truth: (M, H / 4, W / 4) in [0, 1], the segment that each proposal fits; zeros where it fits none.
        categories: (M,) int64, of that segment; K where it fits none.
    """

    image: Tensor
    mask_logits: Tensor
    truth: Tensor
    categories: Tensor


class FrozenProposals:
    """Proposals of whole images by a frozen generator, each computed once and kept on disk.

    Args:
        folder: of the cache.
        dataset: says which images, beside the generator.
    """

    def __init__(self, fisa: UntrainedFisa, folder: Path, dataset: str, input_size: tuple[int, int]) -> None:
        self._segmenter = fisa.segmenter
        self._cache = ProposalCache(folder, CacheKey(weights_hash(fisa.proposer), dataset, input_size))
        self._generator = threading.Lock()  # readers are many, the generator is one

    def of(self, sample: PanopticSample) -> MaskProposals:
        """Proposals that cover the whole image; any thread may ask."""

        def compute() -> MaskProposals:
            with self._generator:
                return self._segmenter.propose(sample.image)

        return self._cache.get(sample.name, compute)


def proposed_view(
    sample: PanopticSample, view: View, proposals: MaskProposals, classifier: FisaClassifier, config: FisaLossConfig,
    no_category: int,
) -> ProposedView:  # fmt: skip
    """A view of a sample with the likeliest proposals, assigned many to one to the segments that show in it.

    Args:
        classifier: says how many proposals are worth reading.
        config: those that fit no segment are left out if they have no weight.
        no_category: K, the category of proposals that fit no segment.
    """
    shown = segmented_view(sample, view)
    one_hot = shown.segment_ids[None] == shown.ids[:, None, None]
    truth = F.avg_pool2d(one_hot.float()[:, None], _MASK_STRIDE)[:, 0]  # (N, h, w), N may be 0
    queries, is_read = classifier.choose(proposals)
    masks = view.of_masks(proposals.mask_logits[0, queries[0][is_read[0]]], _MASK_STRIDE)
    masks = masks[(masks >= 0).flatten(1).any(dim=1)]  # those that the view cut off show nothing
    segment = assign_proposals(masks, truth, config.min_iou)
    if config.none_weight == 0:
        masks, segment = masks[segment >= 0], segment[segment >= 0]
    truth = torch.cat([truth, truth.new_zeros(1, *truth.shape[1:])])  # the last row, -1, is of no segment
    categories = torch.cat([shown.classes, shown.classes.new_tensor([no_category])])
    return ProposedView(shown.image, masks, truth[segment], categories[segment])


def train_fisa_panoptic(config: FisaPanopticConfig, data: Path | None, out: Path, *, engine: Engine) -> FisaClassifier:
    """Train, resuming from the folder `fisa` in `out`, and write what trained as a checkpoint.

    Args:
        data: the data set's folder; None = below `$OVSEG_DATASETS`.
        out: also gets the proposals, in the folder `proposals`.

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad preset, missing weights or bad data.
    """
    size = config.data.jitter.size
    if any(side % _MASK_STRIDE for side in size):
        raise ConfigError(f"data.jitter.size {size} must be multiples of the masks' stride {_MASK_STRIDE}")
    dataset = open_panoptic(config.data, data)
    torch.manual_seed(config.loop.seed)
    fisa = build_untrained_fisa(config.preset, str(engine.device))
    classifier = fisa.classifier
    # What SEVE attends to: every word of the data set, as the paper trains it.
    text = fisa.segmenter.encode_vocabulary(dataset.vocabulary())
    text = replace(text, vectors=text.vectors.clone())  # out of inference mode
    input_size = load_preset(config.preset).input_size
    frozen = FrozenProposals(fisa, out / "proposals", f"{dataset.name}/{dataset.split}", input_size)

    def prepare(sample: PanopticSample, view: View) -> ProposedView:
        return proposed_view(sample, view, frozen.of(sample), classifier, config.loss, len(dataset.categories))

    stream = PanopticStream(dataset, config.data, config.loop, prepare)

    def views_at(step: int) -> list[ProposedView]:
        return stream.batch(step, engine.samples(config.loop.batch_size))

    def classify(views: list[ProposedView]) -> tuple[Tensor, Tensor]:
        """Word logits (N, K + 1) and adapted masks (N, h, w) of all N masks of some views."""
        images = torch.stack([view.image for view in views]).to(engine.device).float() / 255
        masks, is_mask = pad_masks([view.mask_logits for view in views])
        masks, is_mask = masks.to(engine.device), is_mask.to(engine.device)
        adapted = classifier.adapter(masks)  # (B, M, h, w)
        embeddings = classifier.embed_adapted(images, masks, adapted, text)[is_mask]  # (N, D)
        return classifier.word_logits(embeddings, text), adapted[is_mask]

    def losses_at(step: int) -> dict[str, Tensor]:
        views = views_at(step)
        logits, adapted = classify(views)
        truth, categories = (
            torch.cat([getattr(view, name) for view in views]).to(engine.device) for name in ("truth", "categories")
        )
        return fisa_losses(logits, categories, adapted, truth, config.loss)

    def pictures_at(step: int) -> dict[str, np.ndarray]:
        view = views_at(step)[0]
        logits, adapted = classify([view])
        names = [*(category.name for category in text.vocabulary.categories), NONE_OF_THESE]
        wanted, found = ([names[index] for index in chosen] for chosen in (view.categories, logits.argmax(dim=-1)))
        return {"names": compare_names(view.image, adapted, wanted, found)}

    try:
        run_loop(classifier, losses_at, config.loop, out / "fisa", name="fisa", engine=engine, pictures_at=pictures_at)
    finally:
        stream.close()
    if engine.is_main:
        save_state_half(classifier.trained_state_dict(), out / config.checkpoint)
    return classifier


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
