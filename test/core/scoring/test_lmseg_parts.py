"""What an engine runs of an LMSeg: exported strictly, with words as an input, filled up without a trace, in half."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from float32_bytes import Float32Bytes
from lmseg_support import PADDED, Edges, embedded, make, photos, some_words
from parts_support import check_export
from torch import Tensor
from waits import counted_waits

from ovseg_ros.core.backbones.sam import SamConfig, SamEncoder
from ovseg_ros.core.classification.lmseg import LMSegClassifier
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.scoring.lmseg.aggregation import WordAttention
from ovseg_ros.core.scoring.lmseg.config import FusionConfig
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer
from ovseg_ros.core.types import MaskProposals

SAM = SamConfig(image_size=80, width=32, layers=2, heads=2, window=3, global_layers=1)

Given = dict[str, list[tuple[Tensor, ...]]]


@contextmanager
def recorded(scorer: LMSegScorer) -> Iterator[Given]:
    """What each part is given, by its name."""
    given: Given = {part.name: [] for part in scorer.parts}

    def listen(part: Part) -> None:
        run = part.run

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            given[part.name].append(tensors)
            return run(*tensors)

        part.run = call

    for part in scorer.parts:
        listen(part)
    yield given


def proposals(masks: Tensor) -> MaskProposals:
    classes = masks.new_zeros(*masks.shape[:2], 2)
    return MaskProposals(masks, masks.new_zeros(*masks.shape[:2], 1), classes)


def half(scorer: LMSegScorer, dtype: torch.dtype) -> LMSegScorer:
    store(scorer, dtype)
    for part in scorer.parts:
        part.dtype = dtype
    return scorer


@torch.no_grad()
def test_parts_are_exported_with_free_words() -> None:
    scorer = make(second=Edges(), layers=1)
    with recorded(scorer) as given:
        scorer(photos(), some_words(scorer, 3))
    for part in scorer.parts:
        (tensors,) = given[part.name]
        check_export(part, tensors)
    assert [part.name for part in scorer.parts] == ["clip", "second", "fuse", "refine", "decode"]
    assert [part.name for part in make().parts] == ["clip", "refine", "decode"]


@torch.no_grad()
def test_encoders_are_exported() -> None:
    """SAM, and a CLIP whose attention is still PyTorch's own, as nothing of it is trained."""
    check_export(make(tunes_clip=False).parts[0], [photos()])
    sam = SamEncoder(SAM).eval()
    part = make(second=sam, sam_width=sam.width).parts[1]
    check_export(part, [sam.pixels(photos(2, 40, 60))])


@torch.no_grad()
@pytest.mark.parametrize("padded", [PADDED, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_words_that_fill_up_change_nothing(padded: int, dtype: torch.dtype) -> None:
    """As `Port.fill` says, and also where an engine leaves what it likes."""
    scorer = half(make(padded_words=padded), dtype)
    with recorded(scorer) as given:
        scorer(photos(), some_words(scorer, 3))
    refine = next(part for part in scorer.parts if part.name == "refine")
    (tensors,) = given["refine"]
    alone, *guides = refine(*tensors)
    for filling in (0.0, 7.0):
        filled = [
            torch.cat([tensor, tensor.new_full((*tensor.shape[:axis], 2, *tensor.shape[axis + 1 :]), fill)], dim=axis)
            for tensor, axis, fill in zip(
                tensors[3:], (1, 1, 0), (filling, filling, refine.inputs[5].fill), strict=True
            )
        ]
        cells, *same = refine(*tensors[:3], *filled)
        precision = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(cells[:, :3], alone, atol=precision, rtol=precision)
        assert torch.isfinite(cells).all()
        assert all(torch.equal(one, other) for one, other in zip(guides, same, strict=True))


@torch.no_grad()
def test_means_over_words_fit_into_float16() -> None:
    """Undivided sums over 256 words do not."""
    torch.manual_seed(0)
    layer = WordAttention(make(padded_words=256).config).eval()
    layer.query.bias.fill_(12.0)
    layer.key.bias.fill_(12.0)
    layer.value.weight.mul_(8.0)
    cells, guidance, absence = torch.randn(1, 200, 2, 2, 16), torch.randn(1, 200, 6), torch.zeros(200)
    expected = layer(cells, guidance, absence)
    torch.testing.assert_close(expected, layer(cells, guidance))
    found = layer.half()(cells.half(), guidance.half(), absence.half())
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


@torch.no_grad()
def test_no_image_waits_for_the_device() -> None:
    """Nor does SAM, in transformers' hands twice a layer."""
    sam = SamEncoder(SAM).eval()
    for second, count in ((Edges(), 3), (sam, PADDED + 2)):
        classifier = LMSegClassifier(make(second=second, sam_width=second.width), 0.5)
        words = classifier.prepare(embedded([*(f"word {index}" for index in range(count)), "unknown"], synonyms=1))
        images, masks = photos(1, 50, 70), torch.randn(1, 4, 16, 16)
        with counted_waits() as waits:
            seen = classifier.look(images)
            classifier(images, proposals(masks), words, seen)
        assert waits.found == []
    scorer = make(windows=True)
    prepared = some_words(scorer, 3)
    with counted_waits() as waits:
        scorer(photos(1), prepared)
    assert waits.found == []


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nothing_is_written_in_float32(dtype: torch.dtype) -> None:
    """But for cosines and words, positions, and what is said of masks."""
    for fusion in ("scalar", "concat"):
        sam = SamEncoder(SAM)
        classifier = LMSegClassifier(make(second=sam, sam_width=sam.width, fusion=FusionConfig(fusion)), 0.5)
        half(classifier.scorer, dtype)
        text = embedded(["cup", "table", "red cube"])
        text = replace(text, vectors=text.vectors.to("meta"), category_of_prompt=text.category_of_prompt.to("meta"))
        words = classifier.to("meta").prepare(text)
        images, found = photos(1).to("meta"), proposals(torch.randn(1, 4, 16, 16, dtype=dtype, device="meta"))
        with Float32Bytes() as counted:
            classifier(images, found, words)
        assert counted.written == {}
