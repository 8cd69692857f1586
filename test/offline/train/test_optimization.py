"""Parameter groups and learning rates, against the figures of EoMT's recipe."""

import io
from dataclasses import replace

import pytest
import torch
from torch import nn

from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.published import published_eomt
from ovseg_ros.core.sections import EoMTSection
from ovseg_ros.offline.train.augmentation import view_sizes
from ovseg_ros.offline.train.eomt import EoMTTraining, PresetNetwork, network_of
from ovseg_ros.offline.train.loop_config import EncoderSchedule, LoopConfig, Multiplier
from ovseg_ros.offline.train.optimization import ScheduledOptimizer
from ovseg_ros.offline.train.run import load_recipe

RECIPE = LoopConfig(
    steps=88_692, batch_size=16, learning_rate=1e-4, warmup_steps=500, decay_vectors=True, encoder=EncoderSchedule()
)


def make_eomt(depth: int = 3) -> EoMT:
    return EoMT(EoMTConfig((32, 32), width=16, depth=depth, heads=2, num_queries=2, num_classes=3, joint_blocks=1))


def rates(model: nn.Module, config: LoopConfig, step: int) -> dict[str, float]:
    """Learning rate of every parameter at a step, by name."""
    optimizer = ScheduledOptimizer(model, config)
    optimizer.set_rates(step)
    rate_of = {id(p): group["lr"] for group in optimizer.optimizer.param_groups for p in group["params"]}
    return {name: rate_of[id(parameter)] for name, parameter in model.named_parameters()}


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = make_eomt()
    optimizer = ScheduledOptimizer(model, RECIPE)
    grouped = [id(parameter) for group in optimizer.optimizer.param_groups for parameter in group["params"]]
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


@pytest.mark.parametrize(
    ("warmup", "step", "share"),
    [
        (0, 0, 1.0),
        (0, 20_000, (1 + 2**-0.5) / 2),  # cos 45 degrees
        (0, 40_000, 0.5),
        (0, 60_000, (1 - 2**-0.5) / 2),
        (0, 80_000, 0.0),
        (0, 90_000, 0.0),
        (8000, 0, 1 / 8000),
        (8000, 7999, 1.0),
        (8000, 44_000, 0.5),  # halfway between the warm-up and the end
    ],
)
def test_the_rate_may_fall_as_a_cosine(warmup: int, step: int, share: float) -> None:
    config = LoopConfig(
        steps=80_000, batch_size=4, learning_rate=2e-4, warmup_steps=warmup, schedule="cosine",
        encoder=EncoderSchedule(warmup_steps=0, layer_decay=1.0),
    )  # fmt: skip
    found = rates(make_eomt(), config, step)
    assert found["class_head.weight"] == pytest.approx(2e-4 * share, abs=1e-18)
    assert found["encoder.norm.weight"] == pytest.approx(2e-4 * share if step >= warmup else 0.0, abs=1e-18)


class Fused(nn.Module):
    """Names and kinds of parameters as of a scorer with CLIP's two towers and SAM: matrices, biases, norms."""

    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text, self.sam, self.embed = (nn.Linear(2, 2) for _ in range(4))
        self.decoder = nn.Sequential(nn.Conv2d(2, 2, 3), nn.GroupNorm(1, 2))


def test_what_the_recipe_of_cat_seg_needs_can_be_said() -> None:
    """AdamW with rates of two sizes, decay that spares norms alone or all vectors, no warm-up, a cosine."""
    towers = tuple(Multiplier(prefix, 0.01) for prefix in ("visual.", "text.", "sam."))
    config = LoopConfig(
        steps=80_000, batch_size=4, learning_rate=2e-4, weight_decay=1e-4, betas=(0.9, 0.999), warmup_steps=0,
        schedule="cosine", gradient_clip=0.01, multipliers=towers,
    )  # fmt: skip
    model = Fused()
    slow = {f"{tower}.{kind}" for tower in ("visual", "text", "sam") for kind in ("weight", "bias")}
    for name, rate in rates(model, config, 0).items():
        assert rate == pytest.approx(2e-6 if name in slow else 2e-4)

    def spared(config: LoopConfig) -> set[str]:
        scheduled = ScheduledOptimizer(model, config).optimizer
        assert isinstance(scheduled, torch.optim.AdamW) and scheduled.defaults["betas"] == (0.9, 0.999)
        decay = {id(p): group["weight_decay"] for group in scheduled.param_groups for p in group["params"]}
        assert set(decay.values()) == {0.0, 1e-4}
        return {name for name, parameter in model.named_parameters() if decay[id(parameter)] == 0}

    norms = {"decoder.1.weight", "decoder.1.bias"}
    assert spared(config) == norms | {name for name, _ in model.named_parameters() if name.endswith("bias")}
    assert spared(replace(config, decay_vectors=True, not_decayed=("decoder.1.",))) == norms


def test_weight_decay_spares_vectors_unless_told() -> None:
    model = nn.Linear(3, 2)
    for decay_vectors, wanted in ((False, [0.05, 0.0]), (True, [0.05, 0.05])):
        config = LoopConfig(steps=1, batch_size=1, learning_rate=1.0, decay_vectors=decay_vectors)
        assert [group["weight_decay"] for group in ScheduledOptimizer(model, config).optimizer.param_groups] == wanted


def test_multipliers_go_by_the_names_beginning() -> None:
    config = LoopConfig(
        steps=10, batch_size=1, learning_rate=1.0, warmup_steps=0,
        multipliers=(Multiplier("mask_head.", 0.1), Multiplier("mask_head.4.", 0.5)),
    )  # fmt: skip
    found = rates(make_eomt(), config, 0)
    assert found["mask_head.0.weight"] == pytest.approx(0.1) and found["mask_head.4.bias"] == pytest.approx(0.05)
    assert found["class_head.weight"] == 1.0


def test_parts_of_names_are_not_decayed_either() -> None:
    config = LoopConfig(
        steps=1, batch_size=1, learning_rate=1.0, decay_vectors=True, not_decayed=("pos_embed", "queries")
    )  # fmt: skip
    model = make_eomt()
    groups = ScheduledOptimizer(model, config).optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    spared = {name for name, parameter in model.named_parameters() if decay[id(parameter)] == 0}
    assert spared == {"encoder.pos_embed", "queries.weight"} and set(decay.values()) == {0.0, 0.05}
    with pytest.raises(
        ConfigError, match="not_decayed: .* has 'level_embed' in it; they begin with encoder, queries, "
    ):
        ScheduledOptimizer(model, replace(config, not_decayed=("queries", "level_embed")))


def lion() -> tuple[nn.Linear, ScheduledOptimizer]:
    """Weights of 1, a bias of 1, a rate of 0.1 in step 0 and 0.2 in step 1."""
    model = nn.Linear(2, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    config = LoopConfig(
        steps=4, batch_size=1, optimizer="lion", learning_rate=0.2, weight_decay=0.5, betas=(0.9, 0.98), warmup_steps=2
    )
    return model, ScheduledOptimizer(model, config)


def take(model: nn.Linear, scheduled: ScheduledOptimizer, step: int, weight: list[float], bias: float) -> None:
    """A step with these gradients."""
    model.weight.grad, model.bias.grad = torch.tensor([weight]), torch.tensor([bias])
    scheduled.set_rates(step)
    scheduled.optimizer.step()


def test_two_steps_of_lion_by_hand() -> None:
    """Decay, then a step of the rate's size against the sign of 0.9 m + 0.1 g; m becomes 0.98 m + 0.02 g."""
    model, scheduled = lion()
    take(model, scheduled, 0, [2.0, -0.001], 0.0)
    assert model.weight[0].tolist() == pytest.approx([0.95 - 0.1, 0.95 + 0.1])  # 1 x (1 - 0.1 x 0.5)
    assert model.bias.tolist() == [1.0]  # not decayed, and the sign of 0 is 0
    # m is (0.04, -0.00002): of the first the sign follows m, of the second the new gradient.
    take(model, scheduled, 1, [-0.3, 0.1], 5.0)
    assert model.weight[0].tolist() == pytest.approx([0.85 * 0.9 - 0.2, 1.05 * 0.9 - 0.2])
    assert model.bias.tolist() == pytest.approx([0.8])
    momentum = scheduled.optimizer.state[model.weight]["exp_avg"][0].tolist()
    assert momentum == pytest.approx([0.98 * 0.04 - 0.02 * 0.3, -0.98 * 0.00002 + 0.02 * 0.1])


def test_lion_goes_on_to_the_bit() -> None:
    gradients = [[0.3, -0.2], [-0.1, 0.7], [-0.05, -0.4]]
    (model, scheduled), (again, resumed) = lion(), lion()
    for step in range(2):
        take(model, scheduled, step, gradients[step], 0.1)
    kept = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": scheduled.optimizer.state_dict()}, kept)
    take(model, scheduled, 2, gradients[2], -0.1)
    state = torch.load(io.BytesIO(kept.getvalue()), weights_only=True)
    again.load_state_dict(state["model"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    take(again, resumed, 2, gradients[2], -0.1)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        states = resumed.optimizer.state[ours], scheduled.optimizer.state[theirs]
        assert torch.equal(states[0]["exp_avg"], states[1]["exp_avg"])


def test_another_optimizer_is_refused_with_the_nearest() -> None:
    values = {"steps": 1, "batch_size": 1, "learning_rate": 1.0, "optimizer": "loin"}
    with pytest.raises(ConfigError, match="unknown optimizer 'loin'; did you mean 'lion'"):
        from_mapping(LoopConfig, values, "recipe.yaml")


def test_a_prefix_of_nothing_and_a_frozen_model_are_refused() -> None:
    config = LoopConfig(steps=1, batch_size=1, learning_rate=1.0, multipliers=(Multiplier("backbone.", 0.1),))
    with pytest.raises(ConfigError, match="begins with 'backbone.'; they begin with encoder, queries, class_head"):
        ScheduledOptimizer(make_eomt(), config)
    with pytest.raises(ConfigError, match="nothing would be trained"):
        ScheduledOptimizer(nn.Linear(1, 1).requires_grad_(False), config)


@pytest.mark.parametrize(
    ("size", "parameters", "epochs", "starts", "ends"),
    [
        ("s", 24e6, 24, [29_564, 73_910, 118_256], [59_128, 103_474, 147_820]),
        ("b", 93e6, 24, [29_564, 73_910, 118_256], [59_128, 103_474, 147_820]),
        ("l", 316.7e6, 12, [14_782, 29_564, 44_346, 59_128], [29_564, 44_346, 59_128, 73_910]),
    ],
)
def test_the_coco_recipes_are_the_published_ones(
    size: str, parameters: float, epochs: int, starts: list[int], ends: list[int]
) -> None:
    (config,) = load_recipe(f"eomt_{size}_coco").stages
    assert isinstance(config, EoMTTraining) and isinstance(config.network, EoMTSection)
    architecture, loop = config.network.architecture, config.loop
    assert (loop.steps, loop.batch_size) == (epochs * 7391, 16)  # epochs of 118,287 images, last batch cut
    with torch.device("meta"):
        model = EoMT(architecture)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(parameters, rel=0.02)
    for block, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for step, wanted in ((0, 1), (start, 1), ((start + end) // 2, 0.5**0.9), (end, 0), (loop.steps - 1, 0)):
            found = config.mask_probabilities(step, architecture.joint_blocks)[block]
            assert float(found) == pytest.approx(wanted, abs=1e-4)
    assert rates(model, loop, 1499) == pytest.approx(authors_rates(model, loop.steps, 1499))


def authors_rates(model: EoMT, steps: int, step: int) -> dict[str, float]:
    """As their LightningModule and their TwoStageWarmupPolySchedule set them, but for warm-ups from 1/n, not 0."""
    depth = model.config.depth
    heads = (1 - (step - 500) / (steps - 500)) ** 0.9
    found = {}
    for name, _ in model.named_parameters():
        if not name.startswith("encoder."):
            found[name] = 1e-4 * heads
            continue
        block = int(name.split(".")[2]) if ".blocks." in name else 0
        found[name] = 1e-4 * (1 if name.startswith("encoder.norm.") else 0.8 ** (depth - 1 - block))
    return found  # the ViT has just warmed up


@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_fine_tuning_is_as_published_but_for_the_steps(size: str) -> None:
    [own], [coco] = load_recipe(f"eomt_{size}").stages, load_recipe(f"eomt_{size}_coco").stages
    assert isinstance(own, EoMTTraining) and isinstance(own.network, EoMTSection) and isinstance(coco, EoMTTraining)
    assert own.begins_with is not None and own.encoder_weights is None
    public = published_eomt(own.begins_with)
    assert public is not None and own.network.architecture == public.config
    assert (own.loss, own.augmentation, own.classes) == (coco.loss, coco.augmentation, coco.classes)
    same = {key: getattr(coco.loop, key) for key in ("steps", "checkpoint_every", "log_every", "pictures_every")}
    assert replace(own.loop, **same) == coco.loop and own.loop.steps > 1500  # the warm-ups
    for step, wanted in ((0, 1.0), (own.loop.steps, 0.0)):
        assert own.mask_probabilities(step, public.config.joint_blocks).unique().tolist() == [wanted]


def test_the_tiny_recipe_begins_with_the_tabletops_eomt() -> None:
    [stage] = load_recipe("eomt_tiny").stages
    assert isinstance(stage, EoMTTraining) and stage.begins_with == "tabletop"
    given, wanted = network_of(PresetNetwork("tabletop")), network_of(stage.network)
    assert replace(given.architecture, num_classes=wanted.architecture.num_classes) == wanted.architecture
    assert (given.pads, view_sizes(stage.augmentation)) == (wanted.pads, [given.architecture.image_size])
