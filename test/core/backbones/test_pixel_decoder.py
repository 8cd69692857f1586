"""Mask2Former's pixel decoder against the library's own, with random weights."""

import copy

import pytest
import torch
from tiny_mask2former import tiny_mask2former
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder
from waits import counted_waits

from ovseg_ros.core.backbones.pixel_decoder import PixelDecoder
from ovseg_ros.core.engine.precision import store


def library() -> Mask2FormerPixelDecoder:
    torch.manual_seed(0)
    decoder = tiny_mask2former(layers=2).model.pixel_level_module.decoder
    with torch.no_grad():  # its own initialisation leaves offsets and weights at zero
        for parameter in decoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return decoder


def features(height: int, width: int) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 16 * 2**i, height // 4 // 2**i, width // 4 // 2**i) for i in range(4)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_numbers_gradients_and_names_are_the_librarys_to_the_bit(size: tuple[int, int], training: bool) -> None:
    theirs = library().train(training)
    ours = PixelDecoder(copy.deepcopy(theirs)).train(training)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    found, wanted = ours(features(*size)), theirs(features(*size))
    assert torch.equal(found.mask_features, wanted.mask_features)
    for one, other in zip(found.multi_scale_features, wanted.multi_scale_features, strict=True):
        assert torch.equal(one, other)
    for outputs in (found, wanted):
        (outputs.mask_features.square().mean() + outputs.multi_scale_features[0].square().mean()).backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None and torch.equal(one.grad, other.grad), name


@torch.inference_mode()
def test_it_waits_for_nothing_where_the_library_does() -> None:
    with counted_waits() as waits:
        library().eval()(features(64, 64))
    assert any("as_tensor" in wait for wait in waits.found)
    with counted_waits() as waits:
        PixelDecoder(library()).eval()(features(64, 64))
    assert waits.found == []


@torch.inference_mode()
def test_it_stays_in_float32_between_halves() -> None:
    decoder = PixelDecoder(library())
    wanted = decoder(features(64, 64)).mask_features
    store(decoder, torch.float16)
    assert {value.dtype for value in decoder.state_dict().values()} == {torch.float32}
    found = decoder([level.half() for level in features(64, 64)]).mask_features
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, atol=5e-3, rtol=5e-3)
