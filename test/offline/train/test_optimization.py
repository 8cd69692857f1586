"""Parameter groups and learning rates, against the figures of EoMT's recipe."""

import pytest
import torch
from torch import nn

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import EoMTSection
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.offline.train.eomt import EoMTTraining
from ovseg_ros.offline.train.loop_config import EncoderSchedule, LoopConfig, Multiplier
from ovseg_ros.offline.train.optimization import ScheduledAdamW
from ovseg_ros.offline.train.run import load_recipe

RECIPE = LoopConfig(
    steps=88_692, batch_size=16, learning_rate=1e-4, warmup_steps=500, decay_vectors=True, encoder=EncoderSchedule()
)


def make_eomt(depth: int = 3) -> EoMT:
    return EoMT(EoMTConfig((32, 32), width=16, depth=depth, heads=2, num_queries=2, num_classes=3, joint_blocks=1))


def rates(model: nn.Module, config: LoopConfig, step: int) -> dict[str, float]:
    """Learning rate of every parameter at a step, by name."""
    optimizer = ScheduledAdamW(model, config)
    optimizer.set_rates(step)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: rate_of[id(parameter)] for name, parameter in model.named_parameters()}


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = make_eomt()
    optimizer = ScheduledAdamW(model, RECIPE)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_lower_blocks_learn_slower_and_the_norm_at_full_rate() -> None:
    found = rates(make_eomt(), RECIPE, 1499)  # both warm-ups are over, nothing has decayed for the encoder
    assert found["encoder.blocks.2.attn.qkv.weight"] == pytest.approx(1e-4)
    assert found["encoder.blocks.1.mlp.fc1.bias"] == pytest.approx(0.8e-4)
    assert found["encoder.blocks.0.norm1.weight"] == pytest.approx(0.64e-4)
    for name in ("pos_embed", "cls_token", "reg_token", "patch_embed.proj.weight"):
        assert found[f"encoder.{name}"] == pytest.approx(0.64e-4)
    assert found["encoder.norm.weight"] == pytest.approx(1e-4)


def test_blocks_may_keep_the_full_rate() -> None:
    config = LoopConfig(
        steps=10, batch_size=1, learning_rate=1.0, warmup_steps=0,
        encoder=EncoderSchedule(full_rate_blocks=2, warmup_steps=0),
    )  # fmt: skip
    found = rates(make_eomt(), config, 0)
    assert found["encoder.blocks.2.norm1.weight"] == found["encoder.blocks.1.norm1.weight"] == 1.0
    assert found["encoder.blocks.0.norm1.weight"] == pytest.approx(0.64)


@pytest.mark.parametrize(
    ("step", "head", "encoder"),
    [
        (0, 1 / 500, 0.0),
        (249, 0.5, 0.0),
        (499, 1.0, 0.0),
        (500, 1.0, 1 / 1000),
        (1499, (1 - 999 / 88_192) ** 0.9, 1.0),
        (1500, (1 - 1000 / 88_192) ** 0.9, 1.0),
        (44_346, (1 - 43_846 / 88_192) ** 0.9, (1 - 42_846 / 87_192) ** 0.9),
        (88_692, 0.0, 0.0),
    ],
)
def test_the_heads_warm_up_first_then_the_vit(step: int, head: float, encoder: float) -> None:
    found = rates(make_eomt(), RECIPE, step)
    assert found["class_head.weight"] == pytest.approx(1e-4 * head)
    assert found["encoder.norm.weight"] == pytest.approx(1e-4 * encoder)


def test_weight_decay_spares_vectors_unless_told() -> None:
    model = nn.Linear(3, 2)
    for decay_vectors, wanted in ((False, [0.05, 0.0]), (True, [0.05, 0.05])):
        config = LoopConfig(steps=1, batch_size=1, learning_rate=1.0, decay_vectors=decay_vectors)
        assert [group["weight_decay"] for group in ScheduledAdamW(model, config).param_groups] == wanted


def test_multipliers_go_by_the_names_beginning() -> None:
    config = LoopConfig(
        steps=10, batch_size=1, learning_rate=1.0, warmup_steps=0,
        multipliers=(Multiplier("mask_head.", 0.1), Multiplier("mask_head.4.", 0.5)),
    )  # fmt: skip
    found = rates(make_eomt(), config, 0)
    assert found["mask_head.0.weight"] == pytest.approx(0.1) and found["mask_head.4.bias"] == pytest.approx(0.05)
    assert found["class_head.weight"] == 1.0


def test_a_prefix_of_nothing_and_a_frozen_model_are_refused() -> None:
    config = LoopConfig(steps=1, batch_size=1, learning_rate=1.0, multipliers=(Multiplier("backbone.", 0.1),))
    with pytest.raises(ConfigError, match="begins with 'backbone.'; they begin with encoder, queries, class_head"):
        ScheduledAdamW(make_eomt(), config)
    with pytest.raises(ConfigError, match="nothing would be trained"):
        ScheduledAdamW(nn.Linear(1, 1).requires_grad_(False), config)


def test_the_coco_recipe_is_the_published_one() -> None:
    (config,) = load_recipe("eomt_l_coco").stages
    assert isinstance(config, EoMTTraining) and isinstance(config.network, EoMTSection)
    architecture = config.network.architecture
    assert (config.loop.steps, config.loop.batch_size) == (12 * 7391, 16)  # 12 epochs of 118,287 images, last batch cut
    with torch.device("meta"):
        model = EoMT(architecture)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(316.7e6, rel=0.01)
    found = rates(model, config.loop, 1499)
    assert found["encoder.blocks.0.norm1.weight"] == pytest.approx(1e-4 * 0.8**23)
    steps = torch.tensor([0, 14_782, 22_173, 29_564, 36_955, 73_910, 88_691])
    wanted = 0.5**0.9
    expected = [[1, 1, 1, 1], [1, 1, 1, 1], [wanted, 1, 1, 1], [0, 1, 1, 1], [0, wanted, 1, 1], [0] * 4, [0] * 4]
    for step, probabilities in zip(steps.tolist(), expected, strict=True):
        assert config.mask_probabilities(step, architecture.joint_blocks).tolist() == pytest.approx(
            probabilities, abs=1e-6
        )
