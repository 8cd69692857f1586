"""OMTSeg's network: its size, its text, its heads, and what of it is trained."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from tiny_omtseg import TINY, tiny_network
from torch import Tensor

from ovseg_ros.core.backbones.beit3 import Beit3, Beit3Config
from ovseg_ros.core.joint.omtseg.config import AdapterConfig, DecoderConfig, OMTSegConfig
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import PLACEHOLDER
from ovseg_ros.core.types import QueryPrediction

MARK = PLACEHOLDER
IDS = torch.tensor([0, MARK, 5, 9, 4, MARK, 6, 10, 4, MARK, 7, 4, 2])
PLACES = torch.tensor([1, 5, 9])


@torch.no_grad()
def predict(
    network: OMTSegNetwork, size: tuple[int, int] = (64, 96), batch: int = 2, places: Tensor = PLACES
) -> tuple[list[QueryPrediction], Tensor]:
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))
    predictions, queries = network(images, network.embed(IDS), places)
    return predictions, queries


def test_the_large_one_has_the_published_number_of_parameters() -> None:
    config = OMTSegConfig(Beit3Config((640, 640)))
    with torch.device("meta"):
        network = OMTSegNetwork(config, Beit3(config.encoder))
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    assert sum(count for name, count in counts.items() if name.startswith("encoder.")) == 674_140_160
    heads = ("words.", "names.", "name_head.", "objectness.")
    assert sum(count for name, count in counts.items() if name.startswith(heads)) == 722_690
    network.freeze_encoder()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    positions = {name for name in trained if name.startswith("encoder.")}
    assert sum(counts[name] for name in positions) == 2_690_048
    assert sum(counts[name] for name in trained - positions) == 46_893_699
    assert trained == set(network.trained_state(encoder_is_public=True))
    assert set(counts) <= set(network.trained_state(encoder_is_public=False))


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 64)])
def test_says_something_before_the_first_layer_and_after_each(size: tuple[int, int]) -> None:
    network = tiny_network()
    predictions, queries = predict(network, size)
    assert len(predictions) == 5
    for one in predictions:
        assert one.mask_logits.shape == (2, 7, size[0] // 4, size[1] // 4)
        assert one.mask_logits.shape[2:] == network.mask_size(*size)
        assert one.class_logits.shape == (2, 7, 2)
        assert one.word_logits is not None and one.word_logits.shape == (2, 7, 3)
    assert queries.shape == (2, 7, 32)


def test_sizes_that_the_coarsest_features_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32 pixels, got 240 x 320"):
        predict(tiny_network(), (240, 320))


@torch.no_grad()
def test_words_are_scored_by_the_scaled_cosine_with_what_was_read_at_their_marks() -> None:
    network = tiny_network()
    (*_, last), queries = predict(network)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    text = network.embed(IDS).expand(2, -1, -1)
    meanings = network.adapter(network.encoder, images, text, fused=True).text
    for b in range(2):
        for word, place in enumerate(PLACES.tolist()):
            name = network.names(meanings[b, place])
            for query in range(7):
                cosine = F.cosine_similarity(network.name_head(queries[b, query]), name, dim=0)
                assert float(last.word_logits[b, query, word]) == pytest.approx(
                    float(network.log_scale.exp() * cosine), abs=1e-4
                )


def test_begins_with_the_published_scale_and_the_first_row_as_the_mark() -> None:
    network = OMTSegNetwork(TINY, Beit3(TINY.encoder))
    assert network.scale.item() == pytest.approx(1 / 0.07)
    assert torch.equal(network.name_mark, network.encoder.text_embed.weight[:1])
    assert network.name_mark.data_ptr() != network.encoder.text_embed.weight.data_ptr()


@torch.no_grad()
def test_the_mark_stands_before_every_name_and_positions_are_added() -> None:
    network = tiny_network()
    words, positions = network.encoder.text_embed.weight, network.encoder.encoder.embed_positions.B.weight[2:]
    for place, (token, vector) in enumerate(zip(IDS.tolist(), network.embed(IDS), strict=True)):
        word = network.name_mark[0] if token == MARK else words[token]
        torch.testing.assert_close(vector, word + positions[place])


@torch.no_grad()
def test_of_a_text_longer_than_trained_positions_are_stretched() -> None:
    network = tiny_network()
    length = 2 * TINY.trained_words - 1  # every other position is a trained one
    ids = torch.full((length,), 5)
    positions = network.encoder.encoder.embed_positions.B.weight[2 : 2 + TINY.trained_words]
    embedded = network.embed(ids) - network.encoder.text_embed.weight[5]
    torch.testing.assert_close(embedded[::2], positions, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(embedded[1::2], (positions[:-1] + positions[1:]) / 2, atol=1e-6, rtol=1e-5)


def test_unless_it_is_fused_the_text_does_not_know_the_image() -> None:
    for fused in (True, False):
        network = tiny_network(fused=fused)
        seen = [
            network.adapter(network.encoder, image, network.embed(IDS)[None], fused=fused).text
            for image in (torch.zeros(1, 3, 64, 96), torch.ones(1, 3, 64, 96))
        ]
        assert torch.equal(*seen) != fused


def test_another_text_changes_the_masks() -> None:
    network = tiny_network()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        masks = [network(images, network.embed(ids), PLACES)[0][-1].mask_logits for ids in (IDS, IDS.flip(0))]
    assert not torch.allclose(*masks, atol=1e-3)


def test_without_words_there_are_masks_all_the_same() -> None:
    predictions, _ = predict(tiny_network(), places=torch.zeros(0, dtype=torch.int64))
    assert predictions[-1].word_logits is not None and predictions[-1].word_logits.shape == (2, 7, 0)
    assert bool(predictions[-1].mask_logits.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_says_about_the_same(dtype: torch.dtype) -> None:
    network = tiny_network()
    exact, _ = predict(network)
    with torch.autocast("cpu", dtype=dtype):
        half, _ = predict(network)
    for one, other in zip(exact, half, strict=True):
        assert other.word_logits is not None and other.word_logits.dtype == torch.float32
        for name in ("mask_logits", "class_logits", "word_logits"):
            torch.testing.assert_close(getattr(other, name).float(), getattr(one, name), atol=0.2, rtol=0)


def test_every_weight_has_a_gradient_but_those_that_nothing_reads() -> None:
    network = tiny_network().train()
    predictions, _ = network(torch.randn(1, 3, 64, 96), network.embed(IDS), PLACES)
    sum(
        part.square().mean() for one in predictions for part in (one.mask_logits, one.class_logits, one.word_logits)
    ).backward()
    without = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    normalised = {f"encoder.encoder.layer_norm.A.{part}" for part in ("weight", "bias")}  # of patches' last states
    assert without == {"encoder.vision_embed.mask_token", *normalised}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": {"patch_size": 8}}, "encoder.patch_size is 8; expected 16"),
        ({"encoder": {"image_size": (48, 96)}}, r"encoder.image_size is \[48, 96\]; expected multiples of 32"),
        ({"encoder": {"layers": 6}}, "encoder.layers is 6; expected a multiple of 4"),
        ({"trained_words": 61}, "trained_words 61 is more than encoder.text_length 60"),
        ({"adapter": AdapterConfig(heads=3)}, "adapter.heads 3 does not divide 16"),
        ({"adapter": AdapterConfig(heads=1, value_share=0.01)}, "adapter.heads 1 does not divide 0"),
        ({"decoder": DecoderConfig(32, heads=5)}, "decoder.width 32 is no multiple of decoder.heads 5"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_numbers(changes: dict, said: str) -> None:  # type: ignore[type-arg]
    if "encoder" in changes:
        changes = {"encoder": replace(TINY.encoder, **changes["encoder"])}
    with pytest.raises(ValidationError, match=said):
        replace(TINY, **changes)
