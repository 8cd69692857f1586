"""EoMT: parity with transformers' implementation, other sizes, and mask annealing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import EomtConfig, EomtForUniversalSegmentation

from ovseg_ros.core.proposals.eomt.features import EoMTFeatures
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig, annealed_mask_probabilities

SMALL = EoMTConfig(
    image_size=(64, 64),
    width=48,
    depth=4,
    heads=3,
    register_tokens=4,
    layer_scale=1.0,
    num_queries=7,
    num_classes=5,
    joint_blocks=2,
)


def make_reference(config: EoMTConfig) -> EomtForUniversalSegmentation:
    reference = EomtForUniversalSegmentation(
        EomtConfig(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=config.image_size[0],
            patch_size=config.patch_size,
            num_register_tokens=config.register_tokens,
            num_queries=config.num_queries,
            num_blocks=config.joint_blocks,
            num_upscale_blocks=config.upscale_blocks,
            num_labels=config.num_classes,
        )
    ).eval()
    with torch.no_grad():  # its own initialisation leaves many weights at constants, which would hide mistakes
        for parameter in reference.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return reference


def from_reference(state: dict[str, Tensor], config: EoMTConfig) -> dict[str, Tensor]:
    """transformers' state under our names."""
    ours = {
        "encoder.cls_token": state["embeddings.cls_token"],
        "encoder.reg_token": state["embeddings.register_tokens"],
        "encoder.pos_embed": state["embeddings.position_embeddings.weight"][None],
        "queries.weight": state["query.weight"],
    }
    renamed = {
        "encoder.patch_embed.proj": "embeddings.patch_embeddings.projection",
        "encoder.norm": "layernorm",
        "class_head": "class_predictor",
        "mask_head.0": "mask_head.fc1",
        "mask_head.2": "mask_head.fc2",
        "mask_head.4": "mask_head.fc3",
    }
    for index in range(config.depth):
        block, layer = f"encoder.blocks.{index}", f"layers.{index}"
        renamed |= {
            f"{block}.norm1": f"{layer}.norm1",
            f"{block}.norm2": f"{layer}.norm2",
            f"{block}.attn.proj": f"{layer}.attention.out_proj",
            f"{block}.mlp.fc1": f"{layer}.mlp.fc1",
            f"{block}.mlp.fc2": f"{layer}.mlp.fc2",
        }
        ours[f"{block}.ls1.gamma"] = state[f"{layer}.layer_scale1.lambda1"]
        ours[f"{block}.ls2.gamma"] = state[f"{layer}.layer_scale2.lambda1"]
        for kind in ("weight", "bias"):
            parts = [state[f"{layer}.attention.{name}_proj.{kind}"] for name in "qkv"]
            ours[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
    for index in range(config.upscale_blocks):
        theirs = f"upscale_block.block.{index}"
        renamed |= {f"upscale.{index}.upsample": f"{theirs}.conv1", f"upscale.{index}.norm": f"{theirs}.layernorm2d"}
        ours[f"upscale.{index}.depthwise.weight"] = state[f"{theirs}.conv2.weight"]
    for mine, theirs in renamed.items():
        ours |= {f"{mine}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    return ours


@pytest.fixture(scope="module")
def pair() -> tuple[EoMT, EomtForUniversalSegmentation]:
    torch.manual_seed(0)
    reference = make_reference(SMALL)
    model = EoMT(SMALL).eval()
    model.load_state_dict(from_reference(reference.state_dict(), SMALL), strict=True)
    return model, reference


@torch.no_grad()
def test_masks_and_classes_equal_transformers(pair: tuple[EoMT, EomtForUniversalSegmentation]) -> None:
    model, reference = pair
    reference.attn_mask_probs.zero_()  # fully annealed, as published checkpoints are
    images = torch.randn(2, 3, 64, 64)
    ours, theirs = model(images), reference(pixel_values=images)
    assert ours.mask_logits.shape == (2, 7, 16, 16)
    assert theirs.masks_queries_logits.std() > 0.1
    torch.testing.assert_close(ours.mask_logits, theirs.masks_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.class_logits, theirs.class_queries_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_masked_attention_equals_transformers(pair: tuple[EoMT, EomtForUniversalSegmentation]) -> None:
    model, reference = pair
    reference.attn_mask_probs.fill_(1.0)
    images = torch.randn(2, 3, 64, 64)
    ours, theirs = model.forward_masked(images, torch.ones(2))[-1], reference(pixel_values=images)
    torch.testing.assert_close(ours.mask_logits, theirs.masks_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.class_logits, theirs.class_queries_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_without_masking_the_training_pass_ends_in_the_inference_pass() -> None:
    model = EoMT(SMALL).eval()
    images = torch.randn(2, 3, 64, 64)
    predictions = model.forward_masked(images, torch.zeros(2))
    assert len(predictions) == SMALL.joint_blocks + 1
    proposals = model(images)
    torch.testing.assert_close(predictions[-1].mask_logits, proposals.mask_logits)
    torch.testing.assert_close(predictions[-1].class_logits, proposals.class_logits)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 96), (16, 16), (128, 64)])
def test_other_sizes_interpolate_the_position_embedding(size: tuple[int, int]) -> None:
    proposals = EoMT(SMALL).eval()(torch.randn(1, 3, *size))
    assert proposals.mask_logits.shape == (1, 7, size[0] // 4, size[1] // 4)
    assert proposals.query_embeddings.shape == (1, 7, 48)


def test_a_convolutional_stem_keeps_the_grid_and_learns() -> None:
    config = EoMTConfig(image_size=(48, 64), width=48, depth=2, heads=3, convolutional_stem=True, joint_blocks=1)
    model = EoMT(config)
    model.forward_masked(torch.randn(2, 3, 48, 64), torch.ones(1))[-1].mask_logits.square().mean().backward()
    assert model.encoder.patch_embed.proj[0].weight.grad.abs().sum() > 0


LITE = EoMTConfig(
    (48, 64), width=48, depth=2, heads=3, pretrained_stem="efficientnet_lite0", skips=True, joint_blocks=1
)


def test_a_pretrained_stem_keeps_the_grid_and_its_skips_reach_the_masks() -> None:
    model, images = EoMT(LITE), torch.randn(2, 3, 48, 64)
    final = model.forward_masked(images, torch.ones(1))[-1]
    assert final.mask_logits.shape == (2, 200, 12, 16)
    final.mask_logits.square().mean().backward()
    stem = model.encoder.patch_embed.proj
    learned = (stem.network.conv_stem.weight, stem.projection[0].weight, *(one.weight for one in model.lateral))
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in learned)


@torch.no_grad()
def test_folded_norms_change_no_mask() -> None:
    model, images = EoMT(LITE), torch.randn(2, 3, 48, 64)
    model.train()(images)  # the norms have seen something
    before, patches = model.eval()(images).mask_logits, model.patches(images)
    features = EoMTFeatures(model)  # folds them
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(images).mask_logits, before, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.features(images), patches, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convolutional_stem": True}, "one stem"),
        ({"patch_size": 8}, "patches of 16 pixels"),
        ({"upscale_blocks": 1}, "skips need"),
        ({"pretrained_stem": None}, "skips need"),
    ],
)
def test_what_does_not_go_with_a_pretrained_stem_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LITE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("joint_blocks", [0, 5])
def test_joint_blocks_outside_the_depth_are_refused(joint_blocks: int) -> None:
    with pytest.raises(ValueError, match=r"1 to depth = 4, got 5|greater than 0"):
        EoMT(EoMTConfig(image_size=(64, 64), width=48, depth=4, heads=3, joint_blocks=joint_blocks))


def test_annealing_starts_at_one_ends_at_zero_and_goes_block_by_block() -> None:
    steps = torch.stack([annealed_mask_probabilities(progress / 100, 3) for progress in range(101)])  # (101, 3)
    assert torch.equal(steps[0], torch.ones(3))
    assert torch.equal(steps[-1], torch.zeros(3))
    assert (steps.diff(dim=0) <= 0).all()
    assert (steps[:, 0] <= steps[:, 1]).all() and (steps[:, 1] <= steps[:, 2]).all()
    assert steps[30, 0] == pytest.approx(0.5**0.9)  # half-way through the first slot
