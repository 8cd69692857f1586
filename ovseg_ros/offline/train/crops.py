"""Crops of rendered views, and what each shows: an object or a surface, framed as a photo or inside a mask."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.ndimage import find_objects
from torch import nn

from ovseg_ros.core.backbones.sentence_clip import ClipConfig
from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.tabletop_views import TabletopViews
from ovseg_ros.offline.train.pseudo_masks import propose_masks
from ovseg_ros.offline.train.words import Concept
from ovseg_ros.sim import categories

_STUFF_NAMES = frozenset(word.name for word in categories.STUFF)
_MIN_AREA = 60

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, pixels."""


@dataclass(frozen=True, slots=True)
class Region:
    """One segment of a view.

    Attributes:
        view, segment: which.
        concept: what it shows; a thing has a colour.
        proposed: (h, w) bool, its mask by a generator; None is the ground truth's.
    """

    view: int
    segment: int
    concept: Concept
    box: Box
    proposed: np.ndarray | None = None


class CropSource:
    """Regions of one split, drawn by kind; objects evenly over their categories.

    Masks are the ground truth's, unless a generator is given: then they are its proposals, and only objects for which
    it has one are drawn.

    Attributes:
        things, stuff: the regions by category.
    """

    def __init__(self, views: TabletopViews, config: ClipConfig, generator: nn.Module | None = None) -> None:
        self._views = views
        self._size = config.image_size
        self._grid = config.image_size // config.patch_size
        self.things: dict[str, list[Region]] = {}
        self.stuff: dict[str, list[Region]] = {}
        regions = [list(_regions(views, index)) for index in range(len(views))]
        if generator is not None:
            regions = [self._propose(generator, regions)]
        for region in (region for group in regions for region in group):
            kind = self.stuff if region.concept.color is None else self.things
            kind.setdefault(region.concept.category, []).append(region)

    def _propose(self, generator: nn.Module, regions: list[list[Region]]) -> list[Region]:
        """The things, of every view's regions, that the generator has a mask for."""
        things = [[region for region in group if region.concept.color is not None] for group in regions]
        boxes = [np.array([region.box for region in group]).reshape(-1, 4) for group in things]
        found = [
            replace(region, proposed=mask)
            for group, (masks, fits) in zip(things, propose_masks(generator, self._views.images, boxes), strict=True)
            for region, mask, fit in zip(group, masks, fits, strict=True)
            if fit
        ]
        if not found:
            raise DatasetError(
                f"none of {sum(map(len, things))} photographed objects got a mask: the generator proposes nothing that "
                "fits; train it for more steps"
            )
        return found

    def mask(self, region: Region) -> np.ndarray:
        """(H, W) bool, of the whole view."""
        ids = self._views.segment_ids[region.view]
        if region.proposed is None:
            return ids == region.segment
        return cv2.resize(region.proposed.astype(np.float32), ids.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5

    def draw(self, rng: np.random.Generator, *, stuff: bool, masked: bool) -> tuple[np.ndarray, np.ndarray, Concept]:
        """A crop uint8 (S, S, 3), its patch mask (p, p) bool (all True unless masked) and its concept."""
        groups = self.stuff if stuff else self.things
        category = sorted(groups)[rng.integers(len(groups))]
        region = groups[category][rng.integers(len(groups[category]))]
        image, inside = self._views.images[region.view], self.mask(region)
        free = stuff and not masked  # a surface has no frame
        left, top, right, bottom = _window_of_surface(inside, rng) if free else _framing(region.box, inside.shape, rng)
        crop = _resize(image[top:bottom, left:right], self._size)
        share = _resize(inside[top:bottom, left:right].astype(np.float32), self._grid)
        # A range, since predicted masks are a little large or small.
        mask = share > rng.uniform(0.15, 0.6) if masked else np.ones_like(share, dtype=bool)
        if rng.random() < 0.5:
            crop, mask = crop[:, ::-1], mask[:, ::-1]
        return crop, mask, region.concept


def _regions(views: TabletopViews, view: int) -> Iterator[Region]:
    ids, labels = views.segment_ids[view], views.labels[view]
    areas = np.bincount(ids.ravel(), minlength=len(labels) + 1)
    for number, (label, slices) in enumerate(zip(labels, find_objects(ids, len(labels)), strict=True), start=1):
        if slices is None or areas[number] < _MIN_AREA:
            continue
        if label in _STUFF_NAMES:
            concept = Concept(noun=label, texture=views.textures[view][label])
        else:
            color, shape = categories.split_pair(label)
            concept = Concept(noun=shape, color=color)
        rows, columns = slices
        yield Region(view, number, concept, (columns.start, rows.start, columns.stop, rows.stop))


def _framing(box: Box, shape: Sequence[int], rng: np.random.Generator) -> Box:
    """A square window around a box, a little off centre and wider, shifted to lie in the image."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top) * rng.uniform(1.05, 1.5)
    centre_x = (left + right) / 2 + rng.uniform(-0.07, 0.07) * side
    centre_y = (top + bottom) / 2 + rng.uniform(-0.07, 0.07) * side
    return clamp_window(centre_x, centre_y, side, shape)


def clamp_window(centre_x: float, centre_y: float, side: float, shape: Sequence[int]) -> Box:
    """A window of this side, cut to the image's size and shifted inside; not empty."""
    height, width = shape[:2]
    across, down = min(max(round(side), 2), width), min(max(round(side), 2), height)
    left = min(max(round(centre_x - across / 2), 0), width - across)
    top = min(max(round(centre_y - down / 2), 0), height - down)
    return left, top, left + across, top + down


def _window_of_surface(inside: np.ndarray, rng: np.random.Generator) -> Box:
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
