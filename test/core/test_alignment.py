"""Outputs align with the image to the pixel: shifted, flipped and scaled images through an equivariant network.

The network is not learned: its mask logits are the local brightness, so what it should find is known exactly.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Classifier, TwoStage
from ovseg_ros.core.proposals.padded import PaddedProposer
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import MaskProposals, PanopticResult, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

STRIDE = 4
INPUT = (64, 96)
SCORE = float(torch.tensor([9.0, 0.0]).softmax(0)[0])


class BrightnessNetwork(nn.Module):
    """One query, whose mask probability is a half at mid-grey; averages cells of 4 x 4 pixels, as EoMT's stride is."""

    def forward(self, images: Tensor) -> MaskProposals:
        mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.canvas = images * std + mean
        grey = nn.functional.avg_pool2d(self.canvas.mean(dim=1, keepdim=True), STRIDE)
        return MaskProposals(20 * (grey - 0.5), torch.zeros(len(images), 1, 4))


class OneWord(Classifier):
    """Names every mask by the first category."""

    def prepare(self, text: TextEmbeddings) -> None:
        """Whatever it is."""

    def forward(
        self, images: Tensor, proposals: MaskProposals, words: None, seen: object = None, least: float = 0.0
    ) -> Tensor:
        return torch.tensor([9.0, 0.0]).expand(*proposals.mask_logits.shape[:2], 2)


def make_segmenter(**options: object) -> PanopticSegmenter:
    text_encoder = TextEncoder(lambda sentences: torch.ones(len(sentences), 2) / 2**0.5, ["{}"])
    model = TwoStage(PaddedProposer(BrightnessNetwork(), INPUT, **options), OneWord(), text_encoder, INPUT)
    return PanopticSegmenter(model, MergeConfig(min_area=1, overlap_threshold=0.0), torch.device("cpu"))


SEGMENTER = make_segmenter()
PROMPT = SEGMENTER.prepare(Vocabulary.build([CategorySpec("light")]))


def segment(image: np.ndarray) -> PanopticResult:
    result = SEGMENTER.segment(image, PROMPT)
    assert result.segment_ids.shape == result.confidence.shape == image.shape[:2]
    return result


def assert_equal_but_for_rounding(one: np.ndarray, other: np.ndarray) -> None:
    """Two confidence images (0 where outside the mask): equal to a grey level, or on the edge where one is inside."""
    one, other = one.astype(int), other.astype(int)
    on_the_edge = np.abs(np.maximum(one, other) - 127.5 * SCORE) <= 1
    assert (np.abs(one - other) <= 1)[~on_the_edge].all()


sizes = st.tuples(st.integers(1, 150), st.integers(1, 150))
seeds = st.integers(0, 2**32 - 1)


def noise(seed: int, size: tuple[int, int], cell: int = 1) -> np.ndarray:
    """Grey noise of `cell` x `cell` blocks, as an RGB image of `size`."""
    rows, columns = -(-size[0] // cell), -(-size[1] // cell)
    grey = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    grey = np.kron(grey, np.ones((cell, cell), dtype=np.uint8))[: size[0], : size[1]]
    return np.repeat(grey[..., None], 3, axis=2)


@settings(max_examples=40, deadline=None)
@given(sizes, seeds, st.sampled_from([1, 5, 16]))
def test_a_flipped_image_has_the_flipped_masks(size: tuple[int, int], seed: int, cell: int) -> None:
    image = noise(seed, size, cell)
    confidence = segment(image).confidence
    assert_equal_but_for_rounding(segment(image[:, ::-1]).confidence, confidence[:, ::-1])
    assert_equal_but_for_rounding(segment(image[::-1]).confidence, confidence[::-1])


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 4), st.integers(-5, 5), st.integers(-5, 5), st.sampled_from([1, 7]))
def test_a_shifted_image_has_the_shifted_masks(seed: int, scale: int, down: int, right: int, cell: int) -> None:
    """By whole cells of the masks, at every whole scale between image and input; one cell beside the seam is left out,
    where cells are interpolated with what came in at the other side."""
    cells = (STRIDE * scale * down, STRIDE * scale * right)
    image = noise(seed, (INPUT[0] * scale, INPUT[1] * scale), cell)
    confidence = segment(image).confidence
    shifted = segment(np.roll(image, cells, axis=(0, 1))).confidence
    back = np.roll(shifted, (-cells[0], -cells[1]), axis=(0, 1))
    inner = np.ones(confidence.shape, dtype=bool)
    for axis, moved in enumerate(cells):
        margin = 2 * STRIDE * scale
        seams = [0, confidence.shape[axis], (-moved) % confidence.shape[axis]]
        positions = np.arange(confidence.shape[axis])
        near = np.min([np.abs(positions + 0.5 - seam) for seam in seams], axis=0) < margin
        inner[(slice(None),) * axis + (near,)] = False
    assert inner.any()
    assert_equal_but_for_rounding(confidence[inner], back[inner])


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(40, 400), st.integers(40, 400)), st.data())
def test_a_rectangle_is_found_where_it_is_at_any_size(size: tuple[int, int], data: st.DataObject) -> None:
    """Each side within one cell of the masks, and no bias: the sides' errors do not add up to a shift."""
    scale = min(INPUT[0] / size[0], INPUT[1] / size[1])
    cell = [length / (max(STRIDE, round(length * scale / STRIDE) * STRIDE) / STRIDE) for length in size]
    edges = []
    for axis in (0, 1):
        span = int(np.ceil(3 * cell[axis]))
        if size[axis] < 2 * span:
            edges.append((0, size[axis]))
            continue
        first = data.draw(st.integers(0, size[axis] - span))
        edges.append((first, data.draw(st.integers(first + span, size[axis]))))
    (top, bottom), (left, right) = edges
    image = np.zeros((*size, 3), dtype=np.uint8)
    image[top:bottom, left:right] = 255
    [found] = segment(image).segments
    x, y, width, height = found.box
    for axis, (found_edges, true_edges) in enumerate((((y, y + height), edges[0]), ((x, x + width), edges[1]))):
        errors = np.subtract(found_edges, true_edges)
        assert np.abs(errors).max() <= cell[axis] + 1, (found.box, edges)
        assert abs(errors.sum()) <= cell[axis] + 1, (found.box, edges)


@settings(max_examples=25, deadline=None)
@given(sizes, st.integers(0, 255))
def test_a_plain_image_is_one_plain_segment_to_its_last_pixel(size: tuple[int, int], level: int) -> None:
    """What lies beside the image on the canvas does not leak in: brighter and darker paddings make no difference."""
    image = np.full((*size, 3), level, dtype=np.uint8)
    result = segment(image)
    assert len(np.unique(result.confidence)) == 1
    assert bool(result.segment_ids.all()) == (level >= 128) and bool(result.segment_ids.any()) == (level >= 128)


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (2, 3), (97, 65), (1200, 1601)])
def test_every_output_has_the_images_size(size: tuple[int, int]) -> None:
    result = segment(np.full((*size, 3), 200, dtype=np.uint8))
    assert result.segment_ids.all() and result.segments[0].box == (0, 0, size[1], size[0])


@pytest.mark.parametrize("color", [(0.0, 0.0, 0.0), (0.25, 0.5, 0.75)])
def test_what_lies_beside_the_image_has_the_padding_color(color: tuple[float, float, float]) -> None:
    segmenter = make_segmenter(padding_color=color)
    segmenter.segment(np.full((64, 48, 3), 255, dtype=np.uint8), PROMPT)
    canvas = segmenter.model.proposer.network.canvas[0]
    torch.testing.assert_close(canvas[:, :, :48], torch.ones(3, 64, 48))
    torch.testing.assert_close(canvas[:, :, 48:], torch.tensor(color)[:, None, None].expand(3, 64, 48))
