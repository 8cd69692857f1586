"""Train the tabletop's CLIP against a locked text tower: captioned crops of every category, masked crops of the seen.

Two kinds of samples share a batch:

* *captioned*: a photo framed around one object or one surface, with a caption that names it, as on the web. Captions
  may name unseen categories. No mask is used.
* *masked*: a segment of the segmentation training split (seen categories only) with its mask, which teaches the class
  token to read inside a mask.

A second stage adapts the tower to masks of every category: captioned photos get the masks that the trained generator
proposes for them (`pseudo_masks`), so that no ground-truth mask of an unseen category is ever used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from scipy.ndimage import find_objects
from torch import Tensor, nn

from ovseg_ros.core.backbones.sentence_clip import ClipConfig, ImageTower, build_clip, encode_sentences
from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.images import normalize
from ovseg_ros.offline.data.tabletop_views import TabletopViews, load_or_render
from ovseg_ros.offline.train.captions import Concept, caption, is_true_of
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import LoopConfig, run_loop
from ovseg_ros.offline.train.pseudo_masks import propose_masks
from ovseg_ros.sim import categories

_STUFF_NAMES = frozenset(word.name for word in categories.STUFF)
_MIN_AREA = 60


@dataclass(frozen=True, slots=True)
class ClipTrainingConfig:
    """A tabletop training of CLIP.

    Attributes:
        caption_scenes, mask_scenes, views: rendered data; `views` poses of the first scenes of splits `captions` and
            `train`.
        masked_share: share of a batch that is masked samples.
        stuff_share: share of the samples that show a surface rather than an object.
        null_share: share of the rows whose true captions are withheld, so that "none of these" is learned.
        adaptation: schedule of the second stage.
        adaptation_stuff_share: as `stuff_share`, of the masked samples of the second stage.
    """

    loop: LoopConfig
    adaptation: LoopConfig
    caption_scenes: int
    mask_scenes: int
    views: int
    masked_share: float = 0.4
    stuff_share: float = 0.15
    null_share: float = 0.15
    adaptation_stuff_share: float = 0.35


@dataclass(frozen=True, slots=True)
class Region:
    """One segment of a view: which, what it shows and its bounding box (left, top, right, bottom)."""

    view: int
    segment: int
    concept: Concept
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """`images` (B, 3, S, S) normalised, `patch_masks` (B, p, p) bool, and what each shows."""

    images: Tensor
    patch_masks: Tensor
    concepts: list[Concept]


class CropSource:
    """Regions of one split, drawn by kind; objects evenly over their categories.

    Masks are the ground truth's, unless a generator is given: then they are its proposals, and only objects for which
    it has one are drawn.
    """

    def __init__(self, views: TabletopViews, config: ClipConfig, generator: nn.Module | None = None) -> None:
        self._views = views
        self._size = config.image_size
        self._grid = config.image_size // config.patch_size
        self._proposed: dict[tuple[int, int], np.ndarray] = {}
        self.things: dict[str, list[Region]] = {}
        self.stuff: dict[str, list[Region]] = {}
        regions = [region for index in range(len(views)) for region in _regions(views, index)]
        if generator is not None:
            regions = self._propose(generator, [region for region in regions if region.concept.color is not None])
        for region in regions:
            kind = self.stuff if region.concept.color is None else self.things
            kind.setdefault(region.concept.category, []).append(region)

    def _propose(self, generator: nn.Module, regions: list[Region]) -> list[Region]:
        """Fills `_proposed`, and keeps the regions that got a mask."""
        by_view: list[list[Region]] = [[] for _ in range(len(self._views))]
        for region in regions:
            by_view[region.view].append(region)
        boxes = [np.array([region.box for region in group]).reshape(-1, 4) for group in by_view]
        for group, (masks, fits) in zip(by_view, propose_masks(generator, self._views.images, boxes), strict=True):
            for region, mask, fit in zip(group, masks, fits, strict=True):
                if fit:
                    self._proposed[region.view, region.segment] = mask
        fitting = [region for region in regions if (region.view, region.segment) in self._proposed]
        if not fitting:
            raise DatasetError(
                f"none of {len(regions)} photographed objects got a mask: the generator proposes nothing that fits; "
                "train it for more steps"
            )
        return fitting

    def _mask(self, region: Region) -> np.ndarray:
        """(H, W) bool."""
        ids = self._views.segment_ids[region.view]
        proposed = self._proposed.get((region.view, region.segment))
        if proposed is None:
            return ids == region.segment
        return cv2.resize(proposed.astype(np.float32), ids.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5

    def draw(self, rng: np.random.Generator, *, stuff: bool, masked: bool) -> tuple[np.ndarray, np.ndarray, Concept]:
        """A crop uint8 (S, S, 3), its patch mask (p, p) bool (all True unless masked) and its concept."""
        groups = self.stuff if stuff else self.things
        category = sorted(groups)[rng.integers(len(groups))]
        region = groups[category][rng.integers(len(groups[category]))]
        image, inside = self._views.images[region.view], self._mask(region)
        is_surface = stuff and not masked
        box = _window_of_surface(inside, rng) if is_surface else _framing(region.box, inside.shape, rng)
        left, top, right, bottom = box
        crop = _resize(image[top:bottom, left:right], self._size)
        mask = np.ones((self._grid, self._grid), dtype=bool)
        if masked:
            share = _resize(inside[top:bottom, left:right].astype(np.float32), self._grid)
            mask = share > rng.uniform(0.15, 0.6)  # a range, since predicted masks are a little large or small
        if rng.random() < 0.5:
            crop, mask = crop[:, ::-1], mask[:, ::-1]
        return crop, mask, region.concept


@dataclass(frozen=True, slots=True)
class Stream:
    """A part of every batch: where its crops come from and how they are drawn."""

    source: CropSource
    share: float
    stuff_share: float
    masked: bool


def train_clip(
    architecture: ClipConfig,
    config: ClipTrainingConfig,
    generator: nn.Module,
    data: Path,
    out: Path,
    *,
    engine: Engine,
) -> ImageTower:
    """Train the image tower, the temperature and the bias in two stages; each resumes from its folder in `out`.

    Args:
        generator: the trained mask generator, whose proposals mask the captioned photos of the second stage.

    Returns:
        The trained half of the CLIP, in evaluation mode.
    """
    torch.manual_seed(config.loop.seed)
    clip, tokenizer = build_clip(architecture)
    clip.text.to(engine.device)
    tower = ImageTower(clip)
    with engine.main_first():
        caption_views = load_or_render(data, "captions", scenes=config.caption_scenes, views=config.views)
        mask_views = load_or_render(data, "train", scenes=config.mask_scenes, views=config.views)
    seen = CropSource(mask_views, architecture)
    encoded: dict[str, Tensor] = {}  # the text tower is frozen, so every caption is encoded once

    def losses_of(streams: Sequence[Stream], loop: LoopConfig, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([loop.seed, step])
        batch = sample_batch(streams, loop.batch_size, rng)
        texts = list(dict.fromkeys(caption(concept, rng) for concept in batch.concepts))
        sentences = [sentence for sentence, _ in texts]
        new = [sentence for sentence in sentences if sentence not in encoded]
        if new:
            encoded.update(zip(new, encode_sentences(clip, tokenizer, new), strict=True))
        truth = torch.tensor([[is_true_of(said, seen) for _, said in texts] for seen in batch.concepts])
        withheld = torch.from_numpy(rng.random(len(truth)) < config.null_share)
        shown = engine.samples(loop.batch_size)
        images, masks, truth, withheld = (
            part[shown.start : shown.stop].to(engine.device)
            for part in (batch.images, batch.patch_masks, truth, withheld)
        )
        embeddings = tower.encode_masked(images, masks)
        logits = tower.prompt_logits(embeddings, torch.stack([encoded[sentence] for sentence in sentences]))
        return {"contrastive": caption_loss(logits, truth, withheld)}

    first = (
        Stream(seen, config.masked_share, config.stuff_share, masked=True),
        Stream(CropSource(caption_views, architecture), 1 - config.masked_share, config.stuff_share, masked=False),
    )
    run_loop(
        tower,
        partial(losses_of, first, config.loop),
        config.loop,
        out / "clip",
        name="clip",
        engine=engine,
    )
    second = (
        Stream(seen, config.masked_share, config.adaptation_stuff_share, masked=True),
        Stream(CropSource(caption_views, architecture, generator), 1 - config.masked_share, 0.0, masked=True),
    )
    run_loop(
        tower,
        partial(losses_of, second, config.adaptation),
        config.adaptation,
        out / "clip_adaptation",
        name="clip adaptation",
        engine=engine,
    )
    return tower


def caption_loss(logits: Tensor, truth: Tensor, withheld: Tensor) -> Tensor:
    """Image-to-text contrast with several true captions and an explicit "none of these" at logit 0.

    Every true caption competes with the false ones and with "none"; true captions never compete with each other. Where
    the true captions are withheld, "none" has to win against the false ones.

    Args:
        logits: (B, T), scaled cosines plus bias.
        truth: (B, T) bool.
        withheld: (B,) bool.
    """
    false_terms = logits.masked_fill(truth, float("-inf"))
    none = logits.new_zeros(len(logits), 1)
    rest = torch.cat([false_terms, none], dim=1).logsumexp(dim=1, keepdim=True)  # (B, 1)
    per_caption = F.softplus(rest - logits)  # -log(e^l / (e^l + rest))
    shown = (per_caption * truth).sum(dim=1) / truth.sum(dim=1).clamp(min=1)
    return torch.where(withheld, rest[:, 0], shown).mean()


def sample_batch(streams: Sequence[Stream], batch_size: int, rng: np.random.Generator) -> ClipBatch:
    """The batch that this random stream gives: the parts one after the other."""
    crops, masks, concepts = [], [], []
    limits = np.cumsum([stream.share for stream in streams]) * batch_size
    for index in range(batch_size):
        stream = streams[int((index >= limits[:-1]).sum())]
        is_stuff = bool(rng.random() < stream.stuff_share)
        crop, mask, concept = stream.source.draw(rng, stuff=is_stuff, masked=stream.masked)
        gain = rng.uniform(0.85, 1.15) * rng.uniform(0.97, 1.03, size=3)
        crops.append(np.clip(crop * (gain / 255), 0, 1).astype(np.float32))
        masks.append(mask)
        concepts.append(concept)
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return ClipBatch(
        images=normalize(images, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        patch_masks=torch.from_numpy(np.stack(masks)),
        concepts=concepts,
    )


def _regions(views: TabletopViews, view: int) -> list[Region]:
    ids = views.segment_ids[view]
    areas = np.bincount(ids.ravel(), minlength=len(views.labels[view]) + 1)
    regions = []
    for number, (label, slices) in enumerate(
        zip(views.labels[view], find_objects(ids, len(views.labels[view])), strict=True), start=1
    ):
        if slices is None or areas[number] < _MIN_AREA:
            continue
        if label in _STUFF_NAMES:
            concept = Concept(noun=label, texture=views.textures[view][label])
        else:
            color, shape = categories.split_pair(label)
            concept = Concept(noun=shape, color=color)
        rows, columns = slices
        regions.append(Region(view, number, concept, (columns.start, rows.start, columns.stop, rows.stop)))
    return regions


def _framing(
    box: tuple[int, int, int, int], shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A square window around a box, a little off centre and wider, shifted to lie in the image."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top) * rng.uniform(1.05, 1.5)
    centre_x = (left + right) / 2 + rng.uniform(-0.07, 0.07) * side
    centre_y = (top + bottom) / 2 + rng.uniform(-0.07, 0.07) * side
    return clamp_window(centre_x, centre_y, side, shape)


def clamp_window(centre_x: float, centre_y: float, side: float, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A window of this side, cut to the image's size and shifted inside: (left, top, right, bottom), not empty."""
    height, width = shape[:2]
    across, down = min(max(round(side), 2), width), min(max(round(side), 2), height)
    left = min(max(round(centre_x - across / 2), 0), width - across)
    top = min(max(round(centre_y - down / 2), 0), height - down)
    return left, top, left + across, top + down


def _window_of_surface(inside: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A window that mostly shows one surface: the fullest of a few random ones around its pixels."""
    rows, columns = np.nonzero(inside)
    best, best_share = (0, 0, inside.shape[1], inside.shape[0]), -1.0
    for _ in range(4):
        pixel = rng.integers(len(rows))
        window = clamp_window(columns[pixel], rows[pixel], rng.uniform(32, 150), inside.shape)
        left, top, right, bottom = window
        share = inside[top:bottom, left:right].mean()
        if share > best_share:
            best, best_share = window, share
    return best


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    method = cv2.INTER_AREA if max(image.shape[:2]) > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)
