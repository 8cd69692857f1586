"""The pipeline as a whole: sizes, alignment, thread safety of vocabularies, the bundled preset."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.errors import CheckpointError, ConfigError, ImageError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.model import Classifier, TwoStage
from ovseg_ros.core.presets import load_preset, preset_names, preset_path
from ovseg_ros.core.proposals.padded import PaddedProposer
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary


class BrightProposer(nn.Module):
    """One mask: the bright pixels, at stride 4. Equivariant, so that alignment can be tested to the pixel."""

    def forward(self, images: Tensor) -> MaskProposals:
        bright = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
        self.seen = images.shape
        return MaskProposals(20 * bright, torch.zeros(len(images), 1, 4), torch.tensor([[[5.0, -5.0]]]))


class FirstWord(Classifier):
    """Names every mask by the first category."""

    def prepare(self, text: TextEmbeddings) -> TextEmbeddings:
        return text

    def forward(
        self, images: Tensor, proposals: MaskProposals, text: TextEmbeddings, seen: object = None, least: float = 0.0
    ) -> Tensor:
        logits = torch.zeros(*proposals.mask_logits.shape[:2], len(text.vocabulary.categories) + 1)
        logits[..., 0] = 9.0
        return logits


def bright_segmenter(input_size: tuple[int, int] = (64, 96)) -> PanopticSegmenter:
    text_encoder = TextEncoder(lambda sentences: torch.ones(len(sentences), 2) / 2**0.5, ["{}"])
    model = TwoStage(PaddedProposer(BrightProposer(), input_size), FirstWord(), text_encoder, input_size)
    return PanopticSegmenter(model, MergeConfig(min_area=1), torch.device("cpu"))


def segment(segmenter: PanopticSegmenter, image: np.ndarray) -> np.ndarray:
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("light")]))
    return segmenter.segment(image, prompt).segment_ids > 0


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (48, 96), (64, 40), (480, 640)])
def test_masks_lie_where_the_image_says(size: tuple[int, int]) -> None:
    height, width = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2] = 255
    mask = segment(bright_segmenter(), image)
    wanted = np.zeros((height, width), dtype=bool)
    wanted[: height // 2, : width // 2] = True
    wrong = mask != wanted
    border = max(height / 64, width / 96, 1) * 3  # half a mask cell and a little
    rows, columns = np.nonzero(wrong)
    near = (abs(rows - height // 2) <= border) | (abs(columns - width // 2) <= border)
    assert near.all()


def test_flipping_the_image_flips_the_masks() -> None:
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.integers(0, 2, (8, 12, 1)), 8, axis=0), 8, axis=1).astype(np.uint8) * 255
    image = np.repeat(image, 3, axis=2)
    segmenter = bright_segmenter()
    assert np.array_equal(segment(segmenter, image)[:, ::-1], segment(segmenter, image[:, ::-1]))
    assert np.array_equal(segment(segmenter, image)[::-1], segment(segmenter, image[::-1]))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 13)])
def test_extreme_sizes_keep_their_size(size: tuple[int, int]) -> None:
    segmenter = bright_segmenter()
    mask = segment(segmenter, np.full((*size, 3), 255, dtype=np.uint8))
    assert mask.shape == size and mask.all()
    assert segmenter.model.proposer.network.seen == (1, 3, 64, 96)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused_with_what_it_is(image: np.ndarray) -> None:
    segmenter = bright_segmenter()
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("light")]))
    with pytest.raises(ImageError, match=str(image.dtype)):
        segmenter.segment(image, prompt)


def test_an_image_that_cannot_be_written_to_is_taken_without_a_warning() -> None:
    image = np.frombuffer(bytes([255]) * (64 * 96 * 3), np.uint8).reshape(64, 96, 3)  # as a bag's messages are
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert segment(bright_segmenter(), image).all()
    finally:
        torch.set_warn_always(always)


def test_the_result_belongs_to_the_vocabulary_that_was_given() -> None:
    segmenter = bright_segmenter()
    image = np.full((64, 96, 3), 255, dtype=np.uint8)
    first = Vocabulary.build([CategorySpec("light")])
    second = Vocabulary.build([CategorySpec("lamp"), CategorySpec("light")], previous=first)
    results = [segmenter.segment(image, segmenter.prepare(words)) for words in (first, second)]
    assert [result.vocabulary_version for result in results] == [first.version, second.version]
    assert [result.segments[0].label for result in results] == ["light", "lamp"]


def test_the_bundled_preset_runs_on_a_cpu() -> None:
    segmenter = build_segmenter("tabletop", "cpu")
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("ball"), CategorySpec("table", is_thing=False)]))
    image = np.random.default_rng(0).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    result = segmenter.segment(image, prompt)
    assert result.segment_ids.shape == (120, 200)
    predicted = segmenter.predict([image, image], prompt)
    queries = load_preset("tabletop").model.proposer.architecture.num_queries
    assert predicted.mask_logits.shape[:2] == predicted.objectness.shape == (2, queries)
    assert predicted.class_logits.shape == (2, queries, 3)


def test_thresholds_belong_to_the_call() -> None:
    segmenter = bright_segmenter()
    image = np.full((64, 96, 3), 255, dtype=np.uint8)
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("light")]))
    assert not segmenter.segment(image, prompt, MergeConfig(min_area=64 * 96 + 1)).segments
    assert segmenter.segment(image, prompt).segments
    assert segmenter.merge == MergeConfig(min_area=1)


def test_a_prompt_keeps_what_it_was_made_of_and_the_model_keeps_nothing() -> None:
    segmenter = build_segmenter("tabletop_fisa", "cpu")
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    first = segmenter.prepare(Vocabulary.build([CategorySpec("ball")]))
    before = segmenter.segment(image, first)
    gone = [weakref.ref(segmenter.prepare(Vocabulary.build([CategorySpec(f"word {n}")])).vocabulary) for n in range(6)]
    again = segmenter.segment(image, first)
    assert np.array_equal(before.segment_ids, again.segment_ids)
    gc.collect()
    assert all(reference() is None for reference in gone)


def test_wrong_presets_devices_and_checkpoints_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert "tabletop" in preset_names()
    with pytest.raises(ConfigError, match=r"no preset 'tabletpo'.*tabletop"):
        build_segmenter("tabletpo")
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        build_segmenter("tabletop", "gpu")
    with pytest.raises(ConfigError, match="sees [0-9]+ CUDA devices"):
        build_segmenter("tabletop", "cuda:99")
    moved = tmp_path / "mine.yaml"
    moved.write_text(preset_path("tabletop").read_text().replace("tabletop_eomt.safetensors", "absent.safetensors"))
    with pytest.raises(CheckpointError, match="absent.safetensors does not exist"):
        build_segmenter(str(moved))
