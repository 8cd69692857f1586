"""Words that guide masks: what holds for every generator, the head that names queries by words, and its sizes."""

import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from guidance_support import KINDS, D, guided, images, plain, prepared, text, vectors
from torch import Tensor

from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD
from ovseg_ros.core.proposals.padded import PaddedProposer, PromptGuidedProposer
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords, PromptConfig, PromptGuidance, WordHead
from ovseg_ros.core.text_attention import TextProjections
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.word_logits import IMPOSSIBLE

RESIDUAL = [kind for kind in KINDS if kind != "literal"]
MASKS = ("mask_logits", "query_embeddings", "class_logits")


def assert_same_masks(found: MaskProposals, wanted: MaskProposals) -> None:
    for name in MASKS:
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """As close as many layers leave what differs by rounding."""
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("kind", RESIDUAL)
def test_a_fresh_one_changes_nothing_to_the_bit(kind: str) -> None:
    without, fresh = plain(kind), guided(kind, is_trained=False)
    for batch in (1, 3):
        for rows, present in ((vectors(5), None), (vectors(batch, 5), torch.ones(batch, 5) > 0), (vectors(0), None)):
            found = fresh(images(batch), prepared(fresh, rows, present))
            assert_same_masks(found, without(images(batch)))
            assert found.word_logits.shape == (batch, 7, rows.shape[-2] + 1)
    before, after = without.forward_layers(images()), fresh.forward_layers(images(), prepared(fresh, vectors(5)))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.mask_logits, other.mask_logits) and torch.equal(one.class_logits, other.class_logits)
        assert one.word_logits is None and other.word_logits is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_masks(fresh(images(), prepared(fresh, vectors(5))), without(images()))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", RESIDUAL)
def test_a_fresh_one_changes_nothing_of_a_network_in_half_precision(kind: str, dtype: torch.dtype) -> None:
    without, fresh = plain(kind), guided(kind, is_trained=False)
    store(without, dtype)
    store(fresh, dtype)
    pixels = images().to(dtype)
    found = fresh(pixels, prepared(fresh, vectors(5)))
    assert found.mask_logits.dtype == dtype and found.word_logits.dtype == torch.float32
    assert_same_masks(found, without(pixels))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_alone_on_the_meta_device(kind: str) -> None:
    """What counting the cost needs."""
    network = guided(kind).to("meta")
    found = network(images().to("meta"), prepared(network, vectors(150).to("meta")))
    assert found.mask_logits.shape == (2, 7, 16, 16)
    assert found.word_logits.shape == (2, 7, 151)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_without_any_word_the_masks_are_the_plain_networks(kind: str) -> None:
    """None at all, or all absent, however it was trained."""
    without, network = plain(kind)(images()), guided(kind)
    for rows, present in ((vectors(0), None), (vectors(3), torch.zeros(3, dtype=torch.bool))):
        found = network(images(), prepared(network, rows, present))
        assert_same_masks(found, without)
        assert (found.objectness == 0).all() if len(rows) else found.word_logits.shape[-1] == 1


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_order_and_copies_of_all_words_do_not_matter_but_a_copy_of_one_does(kind: str) -> None:
    network, rows = guided(kind), vectors(5)
    found = network(images(), prepared(network, rows))
    turned = network(images(), prepared(network, rows.flip(0)))
    assert_close(turned.mask_logits, found.mask_logits)
    assert_close(turned.word_logits[..., [4, 3, 2, 1, 0, 5]], found.word_logits)
    assert_close(network(images(), prepared(network, rows.repeat(2, 1))).mask_logits, found.mask_logits)
    once_more = network(images(), prepared(network, torch.cat([rows, rows[:1]])))
    assert (once_more.mask_logits - found.mask_logits).abs().max() > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_is_its_images_one_by_one(kind: str) -> None:
    network, counts = guided(kind), [3, 0, 5]
    rows = vectors(3, 5)
    present = torch.arange(5) < torch.tensor(counts)[:, None]
    together = network(images(3), prepared(network, rows * present[..., None], present))
    for image, count in enumerate(counts):
        alone = network(images(3)[image : image + 1], prepared(network, rows[image, :count]))
        assert_close(together.mask_logits[image : image + 1], alone.mask_logits)
        logits = together.word_logits[image : image + 1]
        assert_close(logits[..., :count], alone.word_logits[..., :-1])
        assert_close(logits[..., -1], alone.word_logits[..., -1])
        assert (logits[..., count:-1] == IMPOSSIBLE).all()


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_the_words_keys_are_made_once_and_never_for_a_frame(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = guided(kind), []
    original = TextProjections.key_values
    monkeypatch.setattr(TextProjections, "key_values", lambda self, rows: calls.append(1) or original(self, rows))
    words = prepared(network, vectors(4))
    assert len(calls) == network.guided_layers[0]
    for _ in range(3):
        network(images(1), words)
    assert len(calls) == network.guided_layers[0]


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_without_words_is_refused(kind: str) -> None:
    network = guided(kind)
    for call in (lambda: network(images()), lambda: network.forward_layers(images())):
        with pytest.raises(ValueError, match="these masks depend on words"):
            call()


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_words_are_read_in_float32_within_autocast(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = guided(kind), []
    original = F.scaled_dot_product_attention

    def watched(queries: Tensor, keys: Tensor, *others: Any, **named: Any) -> Tensor:
        if keys.shape[-2] == 11:  # words
            seen.append({queries.dtype, keys.dtype, torch.is_autocast_enabled("cpu")})
        return original(queries, keys, *others, **named)

    monkeypatch.setattr("ovseg_ros.core.text_attention.F.scaled_dot_product_attention", watched)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images(), prepared(network, vectors(11)))
    assert seen == [{torch.float32, False}] * network.guided_layers[0]
    assert found.word_logits.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_all_of_the_guidance(kind: str) -> None:
    network = guided(kind)
    present = torch.tensor([[True, True, False], [False, False, False]])
    layers = network.forward_layers(images(), prepared(network, vectors(2, 3), present))
    named = [layer.word_logits[..., [0, 1, 3]] for layer in layers]
    sum(logits.square().mean() for logits in (*named, *(layer.mask_logits for layer in layers))).backward()
    moved: dict[str, float] = {}
    for name, parameter in network.guidance.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        part = re.sub(r"\d+", "*", name)  # in some layer: who sees one pixel alone may ask what it likes
        moved[part] = moved.get(part, 0.0) + float(parameter.grad.abs().sum())
    del moved["prompts.*.key.bias"]  # moves all likenesses alike
    assert min(moved.values()) > 0, moved


COUNTS = [
    ("Mask2Former, ViT-L/14", 9, 256, 768, PromptConfig(), 4_727_808),
    ("Mask2Former, ViT-B/16", 9, 256, 512, PromptConfig(), 3_548_160),
    ("Mask2Former, ViT-L/14, Eq. 5", 9, 256, 768, PromptConfig(residual=False), 3_543_552),
    ("Mask2Former, ViT-B/16, Eq. 5", 9, 256, 512, PromptConfig(residual=False), 2_363_904),
    ("EoMT-L", 4, 1024, 768, PromptConfig(), 3_677_184),
    ("EoMT-B", 3, 768, 512, PromptConfig(), 1_970_688),
    ("tabletop", 3, 160, 384, PromptConfig(width=160, heads=5), 524_160),
]


@pytest.mark.parametrize(("layers", "width", "text_width", "config", "count"), [row[1:] for row in COUNTS])
def test_parameters(layers: int, width: int, text_width: int, config: PromptConfig, count: int) -> None:
    with torch.device("meta"):
        guidance = PromptGuidance(layers, width, text_width, config)
    assert sum(parameter.numel() for parameter in guidance.prompts.parameters()) == count
    head = sum(parameter.numel() for parameter in guidance.word_head.parameters())
    assert head == width * (width + 1) + text_width * (width + 1) + text_width + 1


def words_of(rows: Tensor, **others: Tensor | int | None) -> GuidingWords:
    given = {"present": None, "owner": None, "count": rows.shape[-2], **others}
    return GuidingWords(rows, (), **given)


@torch.no_grad()
def test_a_query_is_named_by_its_cosine_with_words_and_with_nothing() -> None:
    """Queries (3, 4) pass unchanged: a cosine of 0.6 with e1, 0.8 with e2, and 0.96 with (0.8, 0.6)."""
    head = WordHead(2, 2)
    for layer in (head.hidden, head.embed):
        layer.weight.copy_(torch.eye(2))
        layer.bias.zero_()
    head.no_object.copy_(torch.tensor([8.0, 6.0]))
    head.logit_scale.copy_(torch.tensor(math.log(10.0)))
    queries, rows = torch.tensor([[[3.0, 4.0]]]), torch.eye(2)
    torch.testing.assert_close(head(queries, words_of(rows)), torch.tensor([[[6.0, 8.0, 9.6]]]))
    only_second = words_of(rows, present=torch.tensor([False, True]))
    torch.testing.assert_close(head(queries, only_second), torch.tensor([[[IMPOSSIBLE, 8.0, 9.6]]]))
    best = words_of(rows, owner=torch.tensor([0, 0]), count=1)  # synonyms
    torch.testing.assert_close(head(queries, best), torch.tensor([[[8.0, 9.6]]]))
    each_its_own = words_of(torch.stack([rows, rows.flip(0)]))
    expected = torch.tensor([[[6.0, 8.0, 9.6]], [[8.0, 6.0, 9.6]]])
    torch.testing.assert_close(head(queries.expand(2, 1, 2), each_its_own), expected)
    torch.testing.assert_close(head.bfloat16()(queries.bfloat16(), words_of(rows)), expected[:1], atol=0.1, rtol=0)
    head.float().logit_scale.copy_(torch.tensor(9.0))
    torch.testing.assert_close(head(queries, words_of(rows)), torch.tensor([[[60.0, 80.0, 96.0]]]))  # CLIP's limit


def test_the_first_temperature_is_clips() -> None:
    assert WordHead(4, D).logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_whether_any_word_guides() -> None:
    assert bool(words_of(vectors(2)).guides) and not bool(words_of(vectors(0)).guides)
    present = torch.tensor([[True, False], [False, False]])
    assert words_of(vectors(2, 2), present=present).guides.tolist() == [True, False]


@pytest.mark.parametrize("width", [12, 0])
def test_widths_that_no_heads_share_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="width must be a multiple of heads = 8, got 12|greater than 0"):
        PromptConfig(width=width)


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_a_proposer_that_words_guide(kind: str) -> None:
    """Scaled, padded and cut as one without words; word logits are of categories, by their best prompt."""
    network = guided(kind)
    proposer = PromptGuidedProposer(network, (64, 64))
    asked = text("cup", "red cube", synonyms=1)
    words, pixels = proposer.prepare(asked), torch.rand(2, 3, 48, 64)
    found = proposer(pixels, words)
    assert found.mask_logits.shape == (2, 7, 12, 16)
    canvas = torch.tensor(IMAGENET_MEAN)[:, None, None].expand(2, 3, 64, 64).clone()
    canvas[..., :48, :] = pixels
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    rows = network((canvas - mean) / std, prepared(network, asked.vectors))
    torch.testing.assert_close(found.mask_logits, rows.mask_logits[..., :12, :])
    logits = rows.word_logits
    best = torch.stack([logits[..., :2].amax(dim=-1), logits[..., 2:4].amax(dim=-1), logits[..., 4]], dim=-1)
    torch.testing.assert_close(found.word_logits, best)
    torch.testing.assert_close(found.objectness, 1 - best.softmax(dim=-1)[..., -1])
    other = proposer(pixels, proposer.prepare(text("plate")))
    assert (other.mask_logits - found.mask_logits).abs().max() > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
def test_unknown_guides_nothing(kind: str) -> None:
    proposer, pixels = PromptGuidedProposer(guided(kind), (64, 64)), torch.rand(1, 3, 64, 64)
    found = proposer(pixels, proposer.prepare(text("cup", "unknown", "bowl", synonyms=1)))
    without = proposer(pixels, proposer.prepare(text("cup", "bowl", synonyms=1)))
    assert_close(found.mask_logits, without.mask_logits)
    assert_close(found.word_logits[..., [0, 2, 3]], without.word_logits)
    assert (found.word_logits[..., 1] == IMPOSSIBLE).all()
    alone = proposer(pixels, proposer.prepare(text("unknown")))
    assert_same_masks(alone, PaddedProposer(plain(kind), (64, 64))(pixels))
    assert (alone.objectness == 0).all()


def test_a_proposer_without_guidance_cannot_be_guided() -> None:
    with pytest.raises(ValueError, match="words guide a network with guidance only"):
        PromptGuidedProposer(plain("eomt"), (64, 64)).prepare(text("cup"))
