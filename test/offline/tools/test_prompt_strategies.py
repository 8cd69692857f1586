"""What each way to let words take part does to a tiny EoMT's masks."""

import pytest
import torch

from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.prompt_guidance import PromptConfig, PromptGuidance
from ovseg_ros.offline.tools.prompt_strategies import STRATEGIES, PromptedEoMT, Strategy

QUERIES, WORDS, TEXT_WIDTH = 6, 4, 8


def generator(guided: bool = True, **changes: object) -> EoMT:
    """With guidance whose attention is no longer at zero."""
    torch.manual_seed(0)
    config = EoMTConfig(
        (32, 48),
        patch_size=16,
        width=16,
        depth=3,
        heads=2,
        num_queries=QUERIES,
        num_classes=2,
        joint_blocks=2,
        **changes,
    )
    network = EoMT(config).eval()
    if guided:
        network.guidance = PromptGuidance(*network.guided_layers, TEXT_WIDTH, PromptConfig(width=8, heads=2))
        for prompt in network.guidance.prompts:
            torch.nn.init.normal_(prompt.out.weight)
    return network


SKIPS = {"pretrained_stem": "efficientnet_lite0", "skips": True}
NETWORK = generator()
IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
VECTORS = torch.nn.functional.normalize(
    torch.randn(2, WORDS, TEXT_WIDTH, generator=torch.Generator().manual_seed(2)), dim=-1
)


def prompted(strategy: Strategy, network: EoMT = NETWORK) -> PromptedEoMT:
    torch.manual_seed(3)
    return PromptedEoMT(network, strategy).eval()


def decode(network, vectors, present=None, told=None):
    words, told = (None if v is None else network.guidance.prepare(v, present=present) for v in (vectors, told))
    with torch.no_grad():
        return network.decode(*network.encode(IMAGES[: len(vectors)]), words, told)


@pytest.mark.parametrize("changes", [{}, SKIPS])
def test_pmp_is_the_product_s_network_and_none_is_its_generator_to_the_bit(changes: dict[str, object]) -> None:
    network = generator(**changes)
    words = network.guidance.prepare(VECTORS)
    with torch.no_grad():
        wanted, plain = network(IMAGES, words), generator(guided=False, **changes)
        plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("guidance")})
        unguided = plain(IMAGES).mask_logits
    found = decode(prompted(STRATEGIES["pmp"], network), VECTORS)
    assert torch.equal(found.mask_logits, wanted.mask_logits) and torch.equal(found.word_logits, wanted.word_logits)
    assert torch.equal(decode(prompted(STRATEGIES["none"], network), VECTORS).mask_logits, unguided)


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("none", QUERIES),
        ("concatenate", QUERIES + WORDS),
        ("concatenate_drop", QUERIES),
        ("text_queries", WORDS),
        ("pmp", QUERIES),
    ],
)
def test_masks_are_as_many_as_tokens_stay_and_words_change_them(name: str, masks: int) -> None:
    network = prompted(STRATEGIES[name])
    found = decode(network, VECTORS)
    assert found.mask_logits.shape == (2, masks, 8, 12) and found.word_logits.shape == (2, masks, WORDS + 1)
    assert found.present is None
    others = decode(network, VECTORS, told=VECTORS.flip(0))
    assert torch.equal(found.mask_logits, others.mask_logits) == (name == "none")
    named_alike = torch.equal(found.word_logits, others.word_logits)
    assert named_alike == (name == "none")  # the head names what it was asked for, of other masks
    turned = decode(network, VECTORS.flip(1))
    own = slice(0, QUERIES if STRATEGIES[name].queries else 0)
    torch.testing.assert_close(turned.mask_logits[:, own], found.mask_logits[:, own], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_padding_changes_nothing_and_never_wins(name: str) -> None:
    network = prompted(STRATEGIES[name])
    wanted = decode(network, VECTORS[:1, :2])
    present = torch.tensor([[True, True, False, False], [True] * 4])
    found = decode(network, VECTORS, present)
    shown = slice(None) if found.present is None else found.present[0]
    torch.testing.assert_close(found.mask_logits[0][shown], wanted.mask_logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.word_logits[0][shown][:, [0, 1, 4]], wanted.word_logits[0], atol=1e-4, rtol=1e-4)
    likely = found.word_logits.softmax(dim=-1)
    assert float(likely[0, :, 2:4].max()) == 0
    assert (found.present is not None) == (STRATEGIES[name].text == "kept")
    if found.present is not None:
        assert int((~found.present).sum()) == 2
        assert likely[~found.present][:, -1].tolist() == [1, 1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_gradients_reach_what_trains_and_only_the_joint_blocks_do(name: str) -> None:
    network = prompted(STRATEGIES[name], generator(**(SKIPS if name == "pmp" else {}))).requires_grad_(False)
    for parameter in network.trained_parameters():
        parameter.requires_grad_(True)
    trained = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    parts = {key.split(".")[0] for key in trained}
    assert ("queries" in parts) == (name != "text_queries") and ("text" in parts) == (STRATEGIES[name].text != "none")
    assert any(key.startswith("guidance.prompts") for key in trained) == (name == "pmp")
    assert ("lateral" in parts) == (name == "pmp")  # which lead into the upscale blocks, which learn, too
    assert not any(key.startswith(("encoder.blocks.0.", "encoder.patch_embed", "class_head")) for key in trained)
    found = network.decode(*network.encode(IMAGES), network.guidance.prepare(VECTORS))
    (found.mask_logits.square().sum() + found.word_logits.square().sum()).backward()
    assert {key for key, parameter in network.named_parameters() if parameter.grad is not None} == trained


def test_tokens_do_not_depend_on_what_is_encoded_beside_them() -> None:
    torch.manual_seed(0)
    network = PromptedEoMT(generator(**SKIPS), STRATEGIES["none"])
    together, alone = network.train().encode(IMAGES), network.encode(IMAGES[:1])
    for one, other in zip((together[0], *together[1].finer), (alone[0], *alone[1].finer), strict=True):
        torch.testing.assert_close(one[:1], other)
    assert network.training
    torch.testing.assert_close(network.eval().encode(IMAGES)[0], together[0])


def test_text_tokens_begin_as_long_as_queries() -> None:
    network = prompted(STRATEGIES["concatenate"])
    ratio = network.text.weight.std() * TEXT_WIDTH**0.5 / network.queries.weight.std()
    assert 0.8 < float(ratio.detach()) < 1.2


@pytest.mark.parametrize("changes", [{"guided": False}, {"dinov3": True}])
def test_networks_that_no_strategy_fits_are_refused(changes: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="with guidance and learned positions"):
        PromptedEoMT(generator(**changes), STRATEGIES["none"])
