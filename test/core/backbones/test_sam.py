"""SAM's image encoder computes what the published code computes, from files of both layouts, and loads nothing else."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer_sam import VisionTransformerSAM, checkpoint_filter_fn
from torch import Tensor, nn
from transformers import SamVisionConfig, SamVisionModel

from ovseg_ros.core.backbones import sam
from ovseg_ros.core.backbones.sam import SamConfig, SamEncoder, load_sam
from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize

TINY = SamConfig(image_size=80, width=32, layers=4, heads=2, window=3, global_layers=2)
"""A grid of 5 x 5, which windows of 3 do not divide; the layers 1 and 3 see it whole."""

SIZES = {
    "base": (SamConfig(), 89_670_912),
    "large": (SamConfig(width=1024, layers=24, heads=16), 308_278_272),
    "huge": (SamConfig(width=1280, layers=32, heads=16), 637_026_048),
}
OTHERS = {
    "shared_image_embedding.positional_embedding": torch.ones(2, 8),
    "prompt_encoder.no_mask_embed.weight": torch.ones(1, 8),
    "mask_decoder.iou_token.weight": torch.ones(1, 8),
}

State = dict[str, Tensor]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """With no parameter left at a special value, such as positions of zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def by_transformers() -> nn.Module:
    described = SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=80,
        window_size=3,
        global_attn_indexes=[1, 3],
        attn_implementation="eager",
    )
    return randomised(SamVisionModel(described))


@pytest.fixture(scope="module")
def published(by_transformers: nn.Module) -> State:
    """The tensors of a file in transformers' layout."""
    return dict(by_transformers.state_dict()) | OTHERS


@pytest.fixture(scope="module")
def by_timm() -> VisionTransformerSAM:
    """Meta's code in timm's hands, whose names of tensors are Meta's but for two; it takes images of any size."""
    model = VisionTransformerSAM(
        img_size=80,
        num_classes=0,
        embed_dim=32,
        depth=4,
        num_heads=2,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1, 3),
    )
    randomised(model)
    return model


@pytest.fixture(scope="module")
def metas(by_timm: VisionTransformerSAM) -> State:
    """The tensors of a file in Meta's layout."""
    state = {f"image_encoder.{k.replace('.fc', '.lin')}": value for k, value in by_timm.state_dict().items()}
    by_timm.load_state_dict(checkpoint_filter_fn(state, by_timm))  # strictly, from Meta's names
    return state | {key: value for key, value in OTHERS.items() if not key.startswith("shared")}


def save(state: State, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def normalized(images: Tensor) -> Tensor:
    return normalize(images, IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def test_computes_what_transformers_computes(tmp_path: Path, by_transformers: nn.Module, published: State) -> None:
    encoder = load_sam(save(published, tmp_path / "model.safetensors"), TINY)
    images = torch.rand(2, 3, 80, 80)
    features = encoder(images)
    assert features.shape == (2, encoder.width, TINY.grid, TINY.grid) == (2, 256, 5, 5)
    expected = by_transformers(normalized(images)).last_hidden_state
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", [80, 48, 112])
def test_metas_files_load_for_any_image_size(
    tmp_path: Path, by_timm: VisionTransformerSAM, metas: State, size: int
) -> None:
    """timm interpolates for each image what is interpolated once here."""
    encoder = load_sam(save(metas, tmp_path / "sam.pth"), replace(TINY, image_size=size))
    images = torch.rand(2, 3, size, size)
    features = encoder(images)
    assert features.shape[-2:] == (size // 16, size // 16)
    torch.testing.assert_close(features, by_timm.forward_features(normalized(images)), atol=1e-4, rtol=1e-4)


def test_positions_are_interpolated_where_the_whole_image_is_seen(tmp_path: Path, published: State) -> None:
    path = save(published, tmp_path / "model.safetensors")
    own = load_sam(path, replace(TINY, image_size=48)).state_dict()
    grid = published["vision_encoder.pos_embed"].permute(0, 3, 1, 2)
    wanted = F.interpolate(grid, size=(3, 3), mode="bicubic", antialias=True).permute(0, 2, 3, 1)
    changed = {"vision_encoder.pos_embed": wanted}
    for layer in (1, 3):
        for axis in "hw":
            key = f"vision_encoder.layers.{layer}.attn.rel_pos_{axis}"
            changed[key] = F.interpolate(published[key].T[None], size=5, mode="linear")[0].T
    for key, value in own.items():
        assert torch.equal(value, changed.get(key, published[key])), key


@torch.no_grad()
def test_images_of_any_size_are_squashed(published: State, tmp_path: Path) -> None:
    encoder = load_sam(save(published, tmp_path / "model.safetensors"), TINY)
    images = torch.rand(1, 3, 120, 200)
    by_hand = F.interpolate(images, size=(80, 80), mode="bilinear", antialias=True)
    assert torch.equal(encoder(images), encoder(by_hand))


@pytest.mark.parametrize("size", SIZES)
def test_counts_of_the_published_sizes(size: str) -> None:
    config, parameters = SIZES[size]
    with torch.device("meta"):
        encoder = SamEncoder(config)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


def test_what_lmseg_trains() -> None:
    with torch.device("meta"):
        encoder = SamEncoder(SamConfig())
    tuned = encoder.tune_attention()
    assert sum(parameter.numel() for parameter in tuned.values()) == 28_320_768
    assert {key for key, parameter in encoder.named_parameters() if parameter.requires_grad} == set(tuned)
    assert {key.split(".", 3)[3] for key in tuned} == {"attn.qkv.weight", "attn.proj.weight", "attn.proj.bias"}


def test_random_weights_can_learn() -> None:
    torch.manual_seed(0)
    encoder = SamEncoder(TINY)
    tuned = encoder.tune_attention()
    features = encoder(torch.rand(2, 3, 80, 80))
    assert features.std() > 0.1 and not torch.allclose(features[0], features[1], atol=1e-3)
    features.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in tuned.values())


def test_weights_are_float32_and_not_copied(monkeypatch: pytest.MonkeyPatch, published: State, tmp_path: Path) -> None:
    path = save(published, tmp_path / "model.safetensors")
    monkeypatch.setattr(sam, "read_weights", lambda files: dict(published))
    for key, value in load_sam(path, TINY).state_dict().items():
        assert value.data_ptr() == published[key].data_ptr(), key
    monkeypatch.undo()
    half = save({key: value.half() for key, value in published.items()}, tmp_path / "half.safetensors")
    for key, value in load_sam(half, TINY).state_dict().items():
        assert torch.equal(value, published[key].half().float()), key


def test_what_does_not_fit_is_named(tmp_path: Path, published: State, metas: State) -> None:
    def fault(state: State, config: SamConfig = TINY) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_sam(save(state, tmp_path / "sam.pth"), config)
        assert "sam.pth" in str(caught.value)
        return str(caught.value)

    bias, metas_bias = "vision_encoder.layers.3.attn.proj.bias", "image_encoder.blocks.3.attn.proj.bias"
    assert f"1 missing: {bias}" in fault({key: value for key, value in published.items() if key != bias})
    assert f"1 missing: {metas_bias}" in fault({key: value for key, value in metas.items() if key != metas_bias})
    assert "1 unexpected: head.weight" in fault(published | {"head.weight": torch.ones(2)})
    assert "1 unexpected: image_encoder.head" in fault(metas | {"image_encoder.head": torch.ones(2)})
    assert f"1 unexpected: {metas_bias}" in fault(published | {metas_bias: torch.ones(32)})
    window = "vision_encoder.layers.0.attn.rel_pos_h"
    assert f"{window} (file (5, 16), model (7, 16))" in fault(published, replace(TINY, window=4))
    assert "attn.rel_pos_h (file (9, 16), model (9, 8))" in fault(published, replace(TINY, heads=4))

    larger = fault(published, replace(TINY, layers=2, global_layers=1))
    assert "28 unexpected: vision_encoder.layers.2" in larger
    assert "pos_embed (file (1, 5, 5, 32), model (1, 5, 5, 64))" in fault(published, replace(TINY, width=64))
    positions = "vision_encoder.pos_embed"
    for shape in ((1, 5, 4, 32), (25, 32), (1, 0, 0, 32)):
        given = f"pos_embed (file {shape}, model (1, 5, 5, 32))"
        assert given in fault(published | {positions: torch.ones(shape)})
    assert f"1 missing: {positions}" in fault({key: value for key, value in published.items() if key != positions})

    hiera = {"image_encoder.trunk.blocks.0.norm1.weight": torch.ones(8), "memory_attention.norm.weight": torch.ones(8)}
    sam_2 = fault(hiera)
    assert " missing: image_encoder.pos_embed" in sam_2 and "2 unexpected: image_encoder.trunk.blocks.0." in sam_2
    mobile = fault({"image_encoder.patch_embed.seq.0.c.weight": torch.ones(8, 3, 3, 3)} | OTHERS)
    assert "1 unexpected: image_encoder.patch_embed.seq.0.c.weight" in mobile
    nothing = fault({"visual.proj": torch.ones(2), "logit_scale": torch.ones(())})
    assert "no image encoder of SAM: no tensor's name begins with 'vision_encoder.' or 'image_encoder.'" in nothing
    assert nothing.endswith("but there are logit_scale, visual.proj")
    with pytest.raises(CheckpointError, match=r"absent.pth' is not there"):
        load_sam(str(tmp_path / "absent.pth"), TINY)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"image_size": 1000}, "image_size"),
        ({"width": 100}, "width 100 is no multiple of heads 12"),
        ({"layers": 6}, "layers 6 is no multiple of global_layers 4"),
        ({"window": 0}, "window"),
        ({"checkpoint": ""}, "checkpoint"),
        ({"size": "base"}, "size"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        from_mapping(SamConfig, values, "sam")
