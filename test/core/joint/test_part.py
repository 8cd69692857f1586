"""OMTSeg as a part that any engine may run: filled up, exported, in half precision, and without a wait."""

import numpy as np
import pytest
import torch
from float32_bytes import Float32Bytes
from parts_support import check_export, recorded
from tiny_omtseg import TINY, WORDS, tiny_network, tiny_omtseg
from torch import Tensor
from waits import counted_waits

from ovseg_ros.core.backbones.beit3 import Beit3
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.joint.omtseg.model import OMTSeg
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import WordTokenizer
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

VOCABULARY = Vocabulary.build([CategorySpec(name) for name in ("red ball", "mat", "blue cube", "wall")])
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)


def segmenter(model: OMTSeg) -> PanopticSegmenter:
    return PanopticSegmenter(model, MergeConfig(), torch.device("cpu"))


def inputs(model: OMTSeg, vocabulary: Vocabulary = VOCABULARY) -> tuple[Tensor, ...]:
    [tensors] = recorded(segmenter(model), IMAGE, vocabulary)["omtseg"]
    return tensors


def filled(tensors: tuple[Tensor, ...], tokens: int, words: int, fill: float) -> tuple[Tensor, ...]:
    images, text, places, present, named = tensors
    pad = torch.nn.functional.pad
    return (
        images,
        pad(text, (0, 0, 0, tokens), value=fill),
        pad(places, (0, words)),
        pad(present, (0, tokens)),
        pad(named, (0, words)),
    )


@torch.inference_mode()
@pytest.mark.parametrize("changes", [{}, {"adapter": None}, {"fused": False}], ids=["whole", "plain", "unfused"])
def test_what_is_filled_up_changes_nothing(changes: dict[str, object]) -> None:
    model = tiny_omtseg(**changes)
    [part] = model.parts
    tensors = inputs(model)
    expected = part(*tensors)
    for fill in (0.0, 7.0):
        masks, objectness, words, queries = part(*filled(tensors, 6, 3, fill))
        found = (masks, objectness, words[..., : len(VOCABULARY.categories)], queries)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
        assert words.isfinite().all() and words.shape[-1] == len(VOCABULARY.categories) + 3


@torch.inference_mode()
def test_a_text_of_no_word_may_be_filled_up_with_words() -> None:
    model = tiny_omtseg()
    [part] = model.parts
    tensors = inputs(model, Vocabulary.build([CategorySpec("unknown")]))
    assert tensors[2].shape == (0,)
    masks, objectness, words, queries = part(*tensors)
    assert words.shape[-1] == 0
    found = part(*filled(tensors, 6, 3, 0.0))
    for one, other in zip((found[0], found[1], found[3]), (masks, objectness, queries), strict=True):
        torch.testing.assert_close(one, other)


@torch.inference_mode()
def test_the_part_says_what_the_training_sees() -> None:
    model = tiny_omtseg()
    images, text, places, _, _ = tensors = inputs(model)
    predictions, queries = model.network(images, text, places)
    last = predictions[-1]
    for one, other in zip(
        model.parts[0](*tensors), (last.mask_logits, last.class_logits, last.word_logits, queries), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_the_part_exports_whole_with_words_free() -> None:
    model = tiny_omtseg()
    [part] = model.parts
    check_export(part, inputs(model))


def test_no_frame_waits_before_the_merge() -> None:
    model = tiny_omtseg()
    prompt, pixels = model.prepare(VOCABULARY), torch.rand(1, 3, 40, 90)
    with torch.inference_mode(), counted_waits() as waits:
        model(pixels, prompt)
    assert waits.found == []


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "within"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_precision_agrees(dtype: torch.dtype, within: float) -> None:
    model = tiny_omtseg()
    expected = segmenter(model).predict([IMAGE], model.prepare(VOCABULARY))
    store(model, dtype)
    [part] = model.parts
    part.dtype = dtype
    assert model.network.pixel_decoder.mask_projection.weight.dtype == torch.float32
    assert model.network.names.weight.dtype == torch.float32
    found = segmenter(model).predict([IMAGE], model.prepare(VOCABULARY))
    assert found.class_logits.dtype == torch.float32
    spread = expected.mask_logits.std()
    assert (found.mask_logits.float() - expected.mask_logits).abs().median() < within * spread
    assert (found.class_logits - expected.class_logits).abs().median() < within


def test_nothing_is_written_in_float32_outside_the_islands() -> None:
    with torch.device("meta"):
        network = OMTSegNetwork(TINY, Beit3(TINY.encoder))
    model = OMTSeg(network, WordTokenizer(WORDS), unknown_likeness=0.3).to("meta").eval()
    store(model, torch.bfloat16)
    [part] = model.parts
    part.dtype = torch.bfloat16
    tensors = [value.to("meta") for value in inputs(tiny_omtseg())]
    with torch.inference_mode(), Float32Bytes() as counted:
        part(*tensors)
    assert not counted.written, counted.written
    assert {value.dtype for value in part(*tensors)} == {torch.bfloat16, torch.float32}  # words


def test_names_of_weights_stay() -> None:
    names = set(tiny_network().state_dict())
    assert {"names.weight", "name_head.0.weight", "name_head.4.bias", "log_scale", "objectness.weight"} <= names
    assert not any("shift" in name for name in tiny_omtseg().state_dict())
