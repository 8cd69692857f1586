"""Mask generators as engines run them: traceable, without a wait, in half precision, filled up, and unpadded."""

from collections.abc import Callable

import pytest
import torch
from float32_bytes import Float32Bytes
from guidance_support import EOMT, KINDS, guided, plain, stir, text
from parts_support import check_export
from timm.layers import resample_abs_pos_embed
from tiny_mask2former import tiny_mask2former
from torch import Tensor
from waits import counted_waits

from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.mask2former import Mask2Former
from ovseg_ros.core.proposals.padded import PaddedProposer, PromptGuidedProposer

SIZE = (64, 64)
PLAIN = ("eomt", "eomt_dinov3", "own", "pretrained", "mask2former")


def proposer(kind: str, *, pads: bool = True) -> PaddedProposer:
    """`own` and `pretrained`: as bundled generators are built."""
    if kind in ("own", "pretrained"):
        torch.manual_seed(0)
        stem = (
            {"convolutional_stem": True} if kind == "own" else {"pretrained_stem": "efficientnet_lite0", "skips": True}
        )
        changes = {"layer_scale": None, "register_tokens": 0, "image_size": (48, 64), **stem}
        network = EoMT(EoMTConfig(**{**EOMT, **changes}))
        stir(network, 0.1)
        network.eval().fold_norms()
        return PaddedProposer(network, (48, 64), pads=pads).eval()
    return PaddedProposer(plain(kind), SIZE, pads=pads).eval()


def guided_proposer(kind: str) -> PromptGuidedProposer:
    return PromptGuidedProposer(guided(kind), SIZE).eval()


def given(maker: Callable[[], PaddedProposer], words: tuple[str, ...] = ()) -> tuple[Part, tuple[Tensor, ...]]:
    """A proposer's part, and what it is given for two images."""
    made = maker()
    (part,) = made.parts
    inputs: list[tuple[Tensor, ...]] = []
    run = part.run
    part.run = lambda *tensors: inputs.append(tensors) or run(*tensors)
    made(torch.rand(2, 3, 40, 64), made.prepare(text(*words, synonyms=1)) if words else None)
    part.run = run
    return part, inputs[0]


@pytest.fixture
def few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a Mask2Former, as tracing one takes seconds a layer."""
    monkeypatch.setattr("guidance_support.mask2former", lambda: Mask2Former(tiny_mask2former(layers=2)))


@torch.no_grad()
@pytest.mark.usefixtures("few_layers")
@pytest.mark.parametrize("kind", PLAIN)
def test_networks_are_exported_whole(kind: str) -> None:
    check_export(*given(lambda: proposer(kind)))


@torch.no_grad()
@pytest.mark.usefixtures("few_layers")
@pytest.mark.parametrize("kind", KINDS)
def test_guided_networks_are_exported_whole_with_words_free(kind: str) -> None:
    is_strict = kind.startswith("eomt")  # Mask2Former's layers are hooked, of which Dynamo knows nothing
    part, tensors = given(lambda: guided_proposer(kind), ("cup", "unknown", "red things"))
    check_export(part, tensors, strict=is_strict, fixed="" if is_strict else "images")


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_words_that_only_fill_up_change_nothing(kind: str) -> None:
    """As engines do that know a few lengths alone; also where a single word, or none, guides."""
    for words in (("cup", "red things"), ("cup",), ("unknown",)):
        part, tensors = given(lambda: guided_proposer(kind), words)
        filled = [tensors[0]]
        for port, tensor in zip(part.inputs[1:], tensors[1:], strict=True):
            (axis,) = (axis for axis, name in port.free.items() if name == "words")
            shape = [5 if place == axis else length for place, length in enumerate(tensor.shape)]
            filled.append(torch.cat([tensor, torch.full(shape, port.fill).to(tensor.dtype)], dim=axis))
        count = tensors[-1].shape[0]
        for port, found, wanted in zip(part.outputs, part(*filled), part(*tensors), strict=True):
            if "words" in port.free.values():
                assert found.shape[-1] == count + 5
                found = found[..., :count]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("kind", [*PLAIN, *(f"guided {kind}" for kind in KINDS)])
def test_proposing_waits_for_nothing(kind: str) -> None:
    guides = kind.startswith("guided ")
    made = guided_proposer(kind.removeprefix("guided ")) if guides else proposer(kind)
    words = made.prepare(text("cup", "unknown")) if guides else None
    pixels = torch.rand(1, 3, 40, 64)
    with counted_waits() as waits:
        made(pixels, words)
    assert waits.found == []


@pytest.mark.parametrize("kind", [*PLAIN, *(f"guided {kind}" for kind in KINDS)])
def test_half_precision_writes_float32_in_its_islands_only(kind: str) -> None:
    guides = kind.startswith("guided ")
    made = guided_proposer(kind.removeprefix("guided ")) if guides else proposer(kind)
    words = made.prepare(text("cup", "bowl")) if guides else None
    store(made, torch.float16)
    (part,) = made.parts
    part.dtype = torch.float16
    made.to("meta")
    inputs = (torch.zeros(1, 3, *made._input_size, device="meta"),)
    if words is not None:
        inputs += tuple(value.to("meta") for value in (*words.layers, words.vectors, words.present))
    with torch.inference_mode(), Float32Bytes() as bytes_:
        found = part(*inputs)
    assert bytes_.written == {}
    assert {tensor.dtype for tensor in found[:3]} == {torch.float16}
    assert all(tensor.dtype == torch.float32 for tensor in found[3:])


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [*PLAIN, "guided eomt", "guided mask2former"])
def test_half_precision_says_about_the_same(kind: str, dtype: torch.dtype) -> None:
    guides = kind.startswith("guided ")
    made = guided_proposer(kind.removeprefix("guided ")) if guides else proposer(kind)
    words = made.prepare(text("cup", "bowl")) if guides else None
    pixels = torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    wanted = made(pixels, words)
    store(made, dtype)
    made.parts[0].dtype = dtype
    found = made(pixels, words)
    share = 32 * torch.finfo(dtype).eps  # of how far logits lie apart; Mask2Former's masks also jump with its own
    for name in ("mask_logits", "class_logits", "word_logits"):
        one, other = getattr(found, name), getattr(wanted, name)
        if other is not None:
            error = (one.float() - other).abs().median() / other.std()
            assert error < share, (name, float(error))


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["eomt", "eomt_dinov3", "own"])
def test_unpadded_is_padded_where_an_image_fills_the_canvas_and_smaller_otherwise(kind: str) -> None:
    padded, unpadded = proposer(kind), proposer(kind, pads=False)
    unpadded.load_state_dict(padded.state_dict())
    height, width = padded._input_size
    full = torch.rand(2, 3, height, width)
    assert torch.equal(padded(full).mask_logits, unpadded(full).mask_logits)
    seen: list[tuple[int, ...]] = []
    (part,) = unpadded.parts
    run = part.run
    part.run = lambda images: seen.append(tuple(images.shape)) or run(images)
    found = unpadded(full[..., : height - 28, : width - 16])
    assert seen == [(2, 3, height - 16, width - 16)]
    assert found.mask_logits.shape == (2, 7, (height - 28) // 4, (width - 16) // 4)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["eomt", "eomt_dinov3"])
def test_unpadded_patches_are_where_they_were_with_padding(kind: str) -> None:
    """Cropped, not resampled: the first patches' positions are those of the whole canvas."""
    network = plain(kind)
    assert isinstance(network, EoMT)
    network.on_canvas(64, 64)
    if kind == "eomt":
        whole, part = (network._positions(grid).unflatten(1, grid) for grid in ((4, 4), (2, 3)))
        assert torch.equal(part, whole[:, :2, :3])
    else:
        whole, part = (network._rotation(grid) for grid in ((4, 4), (2, 3)))
        assert torch.equal(part[-6:].unflatten(0, (2, 3)), whole[-16:].unflatten(0, (4, 4))[:2, :3])
        assert torch.equal(part[:-6], whole[:-16])


@torch.no_grad()
def test_positions_of_another_canvas_are_made_once_and_belong_to_no_state() -> None:
    network, names = plain("eomt"), list(plain("eomt").state_dict())
    images = torch.randn(1, 3, 32, 96)
    wanted = network(images).mask_logits
    network.on_canvas(32, 96)
    assert list(network.state_dict()) == names and network._places is not None
    assert torch.equal(network(images).mask_logits, wanted)
    network.encoder.pos_embed.add_(1.0)
    assert torch.equal(network(images).mask_logits, wanted)  # nothing was interpolated anew
    network.train().eval()
    assert not torch.equal(network(images).mask_logits, wanted)  # but a training sees its own


def test_the_own_grid_is_not_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which timm does wherever it is not square: to the same bits, forward and backward."""
    made = proposer("own").network.train()
    learned = made.encoder.pos_embed
    resampled = resample_abs_pos_embed(learned, new_size=[3, 4], old_size=[3, 4], num_prefix_tokens=0)
    assert resampled is not learned and torch.equal(resampled, learned)
    weights = torch.randn_like(learned)
    assert torch.equal(torch.autograd.grad((resampled * weights).sum(), learned)[0], weights)
    monkeypatch.setattr("ovseg_ros.core.proposals.eomt.network.resample_abs_pos_embed", lambda *_, **__: 1 / 0)
    assert made._positions((3, 4)) is learned
