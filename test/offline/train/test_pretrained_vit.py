"""Pretrained ViTs: exact where sizes agree, resampled where not, refused where they are something else."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.offline.train.eomt import load_pretrained_vit


def make_vit(*, patch: int, size: int, width: int = 32) -> VisionTransformer:
    """As timm makes its DINOv2 with registers."""
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=width, depth=2, num_heads=2, num_classes=0, init_values=1e-5,
        reg_tokens=4, no_embed_class=True,
    )  # fmt: skip


def make_encoder(size: int) -> VisionTransformer:
    config = EoMTConfig((size, size), width=32, depth=2, heads=2, num_queries=2, num_classes=3, joint_blocks=1)
    return EoMT(config).encoder


def test_weights_of_the_same_sizes_are_taken_as_they_are(tmp_path: Path) -> None:
    source = make_vit(patch=16, size=64)
    save_file({**source.state_dict(), "head.weight": torch.zeros(2, 32)}, tmp_path / "model.safetensors")
    encoder = make_encoder(64)
    load_pretrained_vit(encoder, str(tmp_path))  # a folder with model.safetensors
    for name, value in source.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name


def test_another_patch_and_image_size_are_resampled(tmp_path: Path) -> None:
    """A ViT of 14-pixel patches sees nearly the same in an image that is 16/14 larger."""
    source = make_vit(patch=14, size=56).eval()
    torch.nn.init.normal_(source.pos_embed)
    save_file(source.state_dict(), tmp_path / "vit.safetensors")
    encoder = make_encoder(64).eval()
    load_pretrained_vit(encoder, str(tmp_path / "vit.safetensors"))
    assert encoder.patch_embed.proj.weight.shape[-2:] == (16, 16)
    assert torch.allclose(encoder.pos_embed, source.pos_embed, atol=1e-5)  # 4 x 4 patches in both
    smooth = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4), size=(56, 56), mode="bicubic")
    larger = torch.nn.functional.interpolate(smooth, size=(64, 64), mode="bilinear", align_corners=False)
    with torch.no_grad():
        ours, theirs = encoder.forward_features(larger), source.forward_features(smooth)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.99


def test_the_names_are_those_of_timms_dinov2() -> None:
    with torch.device("meta"):
        published = timm.create_model("vit_large_patch14_reg4_dinov2", pretrained=False, num_classes=0)
        ours = EoMT(EoMTConfig((640, 640), width=1024, depth=24, heads=16, layer_scale=1e-5, joint_blocks=4)).encoder
    assert published.state_dict().keys() == ours.state_dict().keys()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    save_file(make_vit(patch=16, size=64, width=64).state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(
        CheckpointError, match=r"of another shape: .*cls_token \(file \(1, 1, 64\), model \(1, 1, 32\)\)"
    ):
        load_pretrained_vit(make_encoder(64), str(tmp_path / "wide.safetensors"))
    save_file({"conv1.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"not a plain ViT of timm: .* but conv1.weight"):
        load_pretrained_vit(make_encoder(64), str(tmp_path / "resnet.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="torn.safetensors is not a readable safetensors file"):
        load_pretrained_vit(make_encoder(64), str(tmp_path / "torn.safetensors"))
    with pytest.raises(CheckpointError, match="missing"):
        load_pretrained_vit(make_encoder(64), "nobody/nothing-at-all")


def test_a_dinov3_takes_none_of_timms(tmp_path: Path) -> None:
    save_file(make_vit(patch=16, size=64).state_dict(), tmp_path / "model.safetensors")
    encoder = EoMT(EoMTConfig((64, 64), width=32, depth=2, heads=2, dinov3=True, joint_blocks=1)).encoder
    with pytest.raises(CheckpointError, match="without position embeddings"):
        load_pretrained_vit(encoder, str(tmp_path))
