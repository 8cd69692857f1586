"""Public CLIPs: every layout of their files gives the same model, and wrong files are named."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from waits import counted_waits

from ovseg_ros.core.backbones.open_clip_model import (
    OpenClipConfig,
    build_open_clip,
    encode_prompts,
    model_description,
    prompt_encoder,
)
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.errors import CheckpointError, ConfigError

DESCRIPTION = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def published() -> open_clip.CLIP:
    """As open_clip itself makes it: the text tower's keys lie at the top."""
    torch.manual_seed(0)
    return open_clip.CLIP(**DESCRIPTION).eval()


@pytest.fixture
def config(tmp_path: Path) -> OpenClipConfig:
    (tmp_path / "tiny.json").write_text(json.dumps({"model_cfg": DESCRIPTION, "preprocess_cfg": {}}))
    return OpenClipConfig(str(tmp_path / "tiny.json"), str(tmp_path))


def write(published: open_clip.CLIP, folder: Path, layout: str) -> None:
    state = published.state_dict()
    if layout == "bin":
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    elif layout == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, folder / "open_clip_model.safetensors")
    elif layout == "training":
        state = {f"module.{key}": value for key, value in state.items()}
        torch.save({"epoch": 3, "state_dict": state}, folder / "open_clip_pytorch_model.bin")
    elif layout == "half":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        torch.save(state, folder / "open_clip_pytorch_model.bin")


@torch.no_grad()
@pytest.mark.parametrize("layout", ["bin", "safetensors", "training"])
def test_every_layout_is_the_published_model(
    published: open_clip.CLIP, config: OpenClipConfig, tmp_path: Path, layout: str
) -> None:
    write(published, tmp_path, layout)
    model, tokenizer = build_open_clip(config)
    assert not model.training and not any(weights.requires_grad for weights in model.parameters())
    images, sentences = torch.randn(2, 3, 32, 32), ["a mug", "the big red robot arm on the table"]
    torch.testing.assert_close(model.encode_image(images), published.encode_image(images))
    torch.testing.assert_close(model.encode_text(tokenizer(sentences)), published.encode_text(tokenizer(sentences)))
    assert float(model.logit_scale) == float(published.logit_scale)


@torch.no_grad()
def test_half_precision_files_become_float32(published: open_clip.CLIP, config: OpenClipConfig, tmp_path: Path) -> None:
    write(published, tmp_path, "half")
    model, _ = build_open_clip(config)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize(
    "sentences",
    [["a mug"], ["a", "a photo of a big dog."], ["", "x" * 5000, "😀 العربية"]],
    ids=["one", "two", "hostile"],
)
def test_leaving_the_padding_out_changes_no_vector(
    published: open_clip.CLIP, config: OpenClipConfig, tmp_path: Path, sentences: list[str]
) -> None:
    write(published, tmp_path, "bin")
    model, tokenizer = build_open_clip(config)
    vectors = encode_prompts(model, tokenizer, sentences)
    torch.testing.assert_close(vectors, published.encode_text(tokenizer(sentences), normalize=True))
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(sentences)))
    encode = prompt_encoder(model, tokenizer)
    torch.testing.assert_close(encode(sentences), vectors)
    store(encode.tower, torch.bfloat16)
    assert encode.tower is model.text and model.text.ln_final.weight.dtype == torch.bfloat16
    assert encode(sentences).dtype == torch.float32
    torch.testing.assert_close(encode(sentences), vectors, atol=0.05, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["argmax", "last"])
def test_thousands_of_sentences_wait_for_no_gpu_in_half_precision(pool: str) -> None:
    vision = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
    text = {"context_length": 12, "width": 16, "heads": 2, "layers": 1, "pool_type": pool}
    model = open_clip.CustomTextCLIP(8, vision, text).eval()
    encode = prompt_encoder(model, SimpleTokenizer(context_length=12))
    sentences = [f"a {'big ' * (index % 5)}dog {index}" for index in range(300)]
    expected = encode_prompts(model, SimpleTokenizer(context_length=12), sentences)
    torch.testing.assert_close(encode(sentences), expected)
    store(encode.tower, torch.float16)
    with counted_waits() as waits:
        vectors = encode(sentences)
    assert waits.found == []
    torch.testing.assert_close(vectors, expected, atol=0.01, rtol=0)


def test_missing_and_unexpected_keys_are_listed(
    published: open_clip.CLIP, config: OpenClipConfig, tmp_path: Path
) -> None:
    state = published.state_dict()
    state["visual.extra"] = state.pop("visual.proj")
    state["ln_final.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        build_open_clip(config)
    message = str(caught.value)
    assert "1 missing: visual.proj" in message
    assert "1 unexpected: visual.extra" in message
    assert "text.ln_final.weight (file (3,), model (16,))" in message


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut off"])
def test_damaged_files_are_named(config: OpenClipConfig, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="open_clip_pytorch_model.bin"):
        build_open_clip(config)


def test_the_meta_device_needs_no_file() -> None:
    model, _ = build_open_clip(OpenClipConfig("ViT-B-16", "no/such"), device="meta")
    assert next(model.visual.parameters()).is_meta
    assert sum(weights.numel() for weights in model.parameters()) == 149_620_737  # as open_clip's own list says


@pytest.mark.parametrize("architecture", ["convnext_large_d_320", "convnext_base_w_320", "ViT-L-14-336", "ViT-B-16"])
def test_architectures_of_the_presets_are_known(architecture: str) -> None:
    assert model_description(architecture)["embed_dim"] in (512, 640, 768)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("vit-b-61", r"no architecture 'vit-b-61' \(did you mean 'ViT-B-16'\?\); there are"),
        ("hf-hub:laion/clip", "no architecture 'hf-hub:laion/clip'; there are"),
        ("roberta-ViT-B-32", "not supported: its text tower"),
        ("ViT-B-16-SigLIP", "not supported: its text tower"),
        ("coca_ViT-B-32", "not supported: its text tower"),
        ("absent.json", "cannot read the architecture absent.json"),
    ],
)
def test_unsuitable_architectures_are_named(architecture: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_open_clip(OpenClipConfig(architecture, ""), device="meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vision_cfg": {"timm_model_name": "convnext_bas", "image_size": 64}},
            r"cannot make .*Unknown model \(convnext_bas",
        ),
        ({"vision_cfg": {"nosuch": 3}}, "cannot make .*unexpected keyword argument 'nosuch'"),
        ({"vision_cfg": 3}, "lacks vision_cfg, text_cfg or embed_dim; expected the format of open_clip's"),
        ({"embed_dim": "x"}, "lacks vision_cfg, text_cfg or embed_dim"),
        (None, "lacks vision_cfg, text_cfg or embed_dim"),
    ],
)
def test_a_description_that_open_clip_cannot_use_is_named(tmp_path: Path, change: dict | None, message: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([] if change is None else {**open_clip.get_model_config("ViT-B-16"), **change}))
    with pytest.raises(ConfigError, match=message) as caught:
        build_open_clip(OpenClipConfig(str(file), "a/b"), device="meta")
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
