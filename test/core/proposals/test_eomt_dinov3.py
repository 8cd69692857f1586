"""EoMT on DINOv3: parity with transformers' DINOv3 layers, and the published differences added to Meta's weights."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from published_names import dinov3_state
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel, EomtConfig
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTLayer
from transformers.models.eomt.modeling_eomt import EomtMaskHead, EomtScaleBlock

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD
from ovseg_ros.core.proposals.eomt import checkpoints as eomt_checkpoints
from ovseg_ros.core.proposals.eomt.checkpoints import load_eomt
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.proposals.eomt.rotary import rotary_table
from ovseg_ros.core.weights.files import find_weights, read_weights

LAYOUTS = ("tue-mps", "transformers")
NAMES = ("cup", "mug", "floor", "wall", "sky")
QUERIES, BLOCKS = 9, 2
HUB_NAME, BASE_NAME = "tue-mps/coco_panoptic_eomt_small_640_dinov3", "facebook/dinov3-vits16-pretrain-lvd1689m"


def randomised(module: nn.Module) -> nn.Module:
    """Its own initialisation leaves many weights at constants, and attention almost even, which would hide mistakes."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.ndim == 2 else 0.1
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                scale *= 2
            parameter.copy_(scale * torch.randn_like(parameter))
            if "lambda" in name or ("norm" in name and name.endswith("weight")):
                parameter.add_(1)
    return module


def normalisation(share: float) -> dict[str, Tensor]:
    """Of the normalisation, in the authors' layout: so much of ImageNet's."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return {"network.encoder.pixel_mean": share * mean, "network.encoder.pixel_std": share * std}


class Heads(nn.Module):
    """What an EoMT has beside its ViT, of transformers' modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        config = EomtConfig(hidden_size=width, num_attention_heads=width // 64)
        self.query = nn.Embedding(QUERIES, width)
        self.class_predictor = nn.Linear(width, len(NAMES) + 1)
        self.mask_head = EomtMaskHead(config)
        self.upscale_block = EomtScaleBlock(config)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        queries = tokens[:, :QUERIES]
        patches = tokens[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), self.upscale_block(patches))
        return masks, self.class_predictor(queries)


@dataclass(frozen=True)
class Reference:
    """The published forward pass, of transformers' DINOv3 layers: queries are put before all tokens of the ViT."""

    vit: DINOv3ViTModel
    heads: Heads

    @torch.no_grad()
    def __call__(self, images: Tensor, *, masked: bool = False) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Mask logits, class logits and queries before every joint block (if masked) and after the last."""
        grid = (images.shape[2] // 16, images.shape[3] // 16)
        tokens, positions = self.vit.embeddings(images), self.vit.rope_embeddings(images)
        layers = [module for module in self.vit.modules() if isinstance(module, DINOv3ViTLayer)]
        first, found = len(layers) - BLOCKS, []
        for index, layer in enumerate(layers):
            if index == first:
                tokens = torch.cat([self.heads.query.weight.expand(len(images), -1, -1), tokens], dim=1)
            mask = None
            if masked and index >= first:
                normalised = self.vit.norm(tokens)
                logits, classes = self.heads(normalised, grid)
                found.append((logits, classes, normalised[:, :QUERIES]))
                inside = F.interpolate(logits, grid, mode="bilinear").flatten(2) > 0
                mask = torch.ones(len(images), 1, tokens.shape[1], tokens.shape[1], dtype=torch.bool)
                mask[:, 0, :QUERIES, -inside.shape[2] :] = inside
            tokens = layer(tokens, attention_mask=mask, position_embeddings=positions)
        normalised = self.vit.norm(tokens)
        return [*found, (*self.heads(normalised, grid), normalised[:, :QUERIES])]

    def state(self, layout: str) -> dict[str, Tensor]:
        """Whole weights under a layout's names, with what else is in such files."""
        vit = {key: value.clone() for key, value in dinov3_state(self.vit).items()}
        heads = {key: value.clone() for key, value in self.heads.state_dict().items()}
        no_object = {"criterion.empty_weight": torch.ones(len(NAMES) + 1)}
        if layout == "transformers":
            vit = {re.sub(r"^layer\.", "layers.", re.sub(r"^norm\.", "layernorm.", key)): vit[key] for key in vit}
            return vit | heads | no_object | {"attn_mask_probs": torch.zeros(BLOCKS)}
        vit = {re.sub(r"^embeddings\.", "patch_embed.", re.sub(r"^layer\.", "blocks.", key)): vit[key] for key in vit}
        vit = {f"network.encoder.backbone.{key}": value for key, value in vit.items()}
        renames = (
            (r"^query", "q"),
            (r"^class_predictor", "class_head"),
            (r"fc(\d)", lambda match: str(2 * int(match[1]) - 2)),
            (r"^upscale_block\.block", "upscale"),
            (r"layernorm2d", "norm"),
        )
        for pattern, replacement in renames:
            heads = {re.sub(pattern, replacement, key): value for key, value in heads.items()}
        heads = {f"network.{key}": value for key, value in heads.items()}
        return vit | heads | no_object | normalisation(1.0) | {"network.attn_mask_probs": torch.zeros(BLOCKS)}


def make(width: int = 128, depth: int = 4, heads: int | None = None, theta: float = 100.0) -> Reference:
    torch.manual_seed(0)
    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads or width // 64,
        num_register_tokens=4,
        rope_theta=theta,
        attn_implementation="sdpa",
    )
    return Reference(randomised(DINOv3ViTModel(config)).eval(), randomised(Heads(width)).eval())


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make()


@pytest.fixture(scope="module")
def base(reference: Reference) -> DINOv3ViTModel:
    """The ViT before training: other weights than the reference's."""
    torch.manual_seed(1)
    return randomised(DINOv3ViTModel(reference.vit.config)).eval()


def write_base(folder: Path, base: DINOv3ViTModel) -> Path:
    base.save_pretrained(folder)
    return folder


def write_whole(folder: Path, reference: Reference, layout: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"id2label": dict(enumerate(NAMES)), "num_attention_heads": reference.vit.config.num_attention_heads}
    if layout == "transformers":
        settings |= {"model_type": "eomt_dinov3", "layer_norm_eps": 1e-5, "image_size": 64}
        settings |= {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(reference.state(layout), folder / "model.safetensors")
    return folder / "model.safetensors"


def write_differences(
    folder: Path, reference: Reference, base: DINOv3ViTModel, suffix: str = ".bin", constants_of: float = 0.0
) -> Path:
    """As the authors publish it: the ViT less its base, everything else whole."""
    file = write_whole(folder, reference, "tue-mps")
    state = {key: value.clone() for key, value in load_file(file).items()}
    file.unlink()
    for key, value in dinov3_state(base).items():
        theirs = re.sub(r"^embeddings\.", "patch_embed.", re.sub(r"^layer\.", "blocks.", key))
        state[f"network.encoder.backbone.{theirs}"] -= value
    state |= normalisation(constants_of)
    if suffix == ".safetensors":
        save_file(state, folder / "model.safetensors")
        return folder / "model.safetensors"
    path = folder / ("last.ckpt" if suffix == ".ckpt" else "pytorch_model.bin")
    torch.save({"state_dict": state, "epoch": 11} if suffix == ".ckpt" else state, path)
    return path


def cache(root: Path, name: str, files: list[Path]) -> None:
    """What huggingface_hub leaves after a download."""
    repository = root / f"models--{name.replace('/', '--')}"
    (repository / "snapshots" / "0123abcd").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    for file in files:
        (repository / "snapshots" / "0123abcd" / file.name).write_bytes(file.read_bytes())


@torch.no_grad()
def assert_same(model: EoMT, reference: Reference, images: Tensor) -> None:
    found = model(images)
    masks, classes, queries = reference(images)[-1]
    assert masks.std() > 0.05
    torch.testing.assert_close(found.mask_logits, masks, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.class_logits, classes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.query_embeddings, queries, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 5), (40, 40)])
@pytest.mark.parametrize("head_width", [64, 16, 12])
def test_the_rotary_table_is_transformers_own(grid: tuple[int, int], head_width: int) -> None:
    config = DINOv3ViTConfig(hidden_size=2 * head_width, num_attention_heads=2)
    vit = DINOv3ViTModel(config).eval()
    cosines, sines = vit.rope_embeddings(torch.zeros(1, 3, grid[0] * 16, grid[1] * 16))
    table = rotary_table(grid, head_width, unturned=3, device=torch.device("cpu"))
    assert table.shape == (3 + grid[0] * grid[1], 2 * head_width) and table.dtype == torch.float32
    assert not table[:3, :head_width].any() and (table[:3, head_width:] == 1).all()
    torch.testing.assert_close(table[3:], torch.cat([sines, cosines], dim=1), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("width", "depth", "heads"), [(128, 4, 2), (64, 6, 4), (192, 3, 3), (48, 2, 1)])
@pytest.mark.parametrize("size", [(64, 64), (48, 112), (16, 32)])
def test_the_plain_blocks_equal_transformers_dinov3(
    tmp_path: Path, width: int, depth: int, heads: int, size: tuple[int, int]
) -> None:
    reference = make(width, depth, heads)
    model = load_eomt(str(write_whole(tmp_path, reference, "transformers"))).model
    images = torch.randn(2, 3, *size)
    tokens, (grid, _) = model._embed(images)
    rotation = rotary_table(grid, width // heads, 5, images.device)
    for block in model.encoder.blocks:
        tokens = block(tokens, rope=rotation)
    expected = reference.vit(pixel_values=images).last_hidden_state
    assert expected.std() > 0.05
    torch.testing.assert_close(model.encoder.norm(tokens), expected, atol=1e-4, rtol=1e-4)
    theirs = {norm.eps for norm in reference.vit.modules() if isinstance(norm, nn.LayerNorm)}  # too small to be seen
    assert {norm.eps for norm in model.encoder.modules() if isinstance(norm, nn.LayerNorm)} == theirs == {1e-5}


@pytest.mark.parametrize(("width", "depth", "heads"), [(128, 4, 2), (64, 6, 4), (192, 2, 3)])
@pytest.mark.parametrize("size", [(64, 64), (48, 112)])
def test_masks_classes_and_queries_equal_the_published_pass(
    tmp_path: Path, width: int, depth: int, heads: int, size: tuple[int, int]
) -> None:
    reference = make(width, depth, heads)
    loaded = load_eomt(str(write_whole(tmp_path, reference, "transformers").parent))
    assert loaded.class_names == NAMES and not loaded.model.training
    assert loaded.model.config == EoMTConfig(
        (64, 64), 16, width, depth, heads, dinov3=True, num_queries=QUERIES, num_classes=5, joint_blocks=BLOCKS
    )
    assert_same(loaded.model, reference, torch.randn(2, 3, *size))


@torch.no_grad()
def test_the_masked_pass_equals_the_published_one(tmp_path: Path, reference: Reference) -> None:
    model = load_eomt(str(write_whole(tmp_path, reference, "transformers"))).model
    images = torch.randn(2, 3, 64, 96)
    found, expected = model.forward_masked(images, torch.ones(BLOCKS)), reference(images, masked=True)
    assert len(found) == len(expected) == BLOCKS + 1
    for ours, (masks, classes, _) in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.mask_logits, masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.class_logits, classes, atol=1e-4, rtol=1e-4)
    assert (expected[-1][0] - reference(images)[-1][0]).abs().max() > 0.05  # the masks had an effect


def test_positions_matter_to_the_reference(reference: Reference) -> None:
    """Else parity would say nothing about them."""
    images = torch.randn(1, 3, 64, 96)
    others = make(theta=50.0)
    others.vit.load_state_dict(reference.vit.state_dict())
    others.heads.load_state_dict(reference.heads.state_dict())
    assert (others(images)[-1][0] - reference(images)[-1][0]).abs().max() > 0.05


def test_every_weight_learns(reference: Reference) -> None:
    config = EoMTConfig((64, 64), width=64, depth=3, heads=1, dinov3=True, num_queries=4, num_classes=2, joint_blocks=1)
    model = EoMT(config)
    for prediction in model.forward_masked(torch.randn(1, 3, 64, 96), torch.ones(1)):
        (prediction.mask_logits.square().mean() + prediction.class_logits.square().mean()).backward(retain_graph=True)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("given", ["file", "folder"])
def test_differences_are_added_to_the_base(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel, suffix: str, given: str
) -> None:
    file = write_differences(tmp_path / "differences", reference, base, suffix)
    folder = write_base(tmp_path / "base", base)
    sources = (file, folder / "model.safetensors") if given == "file" else (file.parent, folder)
    loaded = load_eomt(str(sources[0]), base=str(sources[1]))
    assert loaded.class_names == NAMES
    assert_same(loaded.model, reference, torch.randn(1, 3, 64, 96))
    config = loaded.model.config
    assert (config.dinov3, config.depth, config.width) == (True, 4, 128)


def test_both_are_found_in_the_cache_by_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    reference = make(width=384, depth=2)  # the width says which base
    torch.manual_seed(1)
    base = randomised(DINOv3ViTModel(reference.vit.config))
    file = write_differences(tmp_path / "differences", reference, base)
    folder = write_base(tmp_path / "base", base)
    cache(tmp_path / "hub", BASE_NAME, [folder / "model.safetensors", folder / "config.json"])
    with pytest.raises(CheckpointError, match=f"hf download {HUB_NAME}"):  # what the hub does not lock comes second
        load_eomt(HUB_NAME)
    cache(tmp_path / "hub", HUB_NAME, [file, file.parent / "config.json"])
    images = torch.randn(1, 3, 64, 64)
    loaded = load_eomt(HUB_NAME)
    assert loaded.model.config.image_size == (640, 640)
    assert_same(loaded.model, reference, images)
    assert_same(load_eomt(str(file)).model, reference, images)


@pytest.mark.parametrize("kind", ["hub name", "file"])
def test_without_the_base_the_error_says_what_it_is_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = HUB_NAME
    if kind == "file":
        reference = make(width=384, depth=2)
        source = str(write_differences(tmp_path / "differences", reference, reference.vit))
    with pytest.raises(CheckpointError) as error:
        load_eomt(source)
    message = str(error.value)
    for part in (
        source,
        "differences to Meta's weights",
        "gated",
        "accept their licence",
        f"the hub cache {tmp_path / 'hub'} has none",
        "hf auth login",
        f"hf download {BASE_NAME}",
        "give their folder or file as base",
        "without '_dinov3'",
    ):
        assert part in message
    assert "\n" not in message


def test_a_base_that_was_given_and_is_not_there_is_named(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel
) -> None:
    file = write_differences(tmp_path, reference, base)
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors' is not there"):
        load_eomt(str(file), base=str(tmp_path / "nothing.safetensors"))
    with pytest.raises(CheckpointError, match=r"not among those published .*vits16.*\(384\).*give the weights"):
        load_eomt(str(file))


def test_a_base_that_does_not_fit_is_refused_with_its_keys(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel
) -> None:
    file = str(write_differences(tmp_path / "differences", reference, base))
    folder = write_base(tmp_path / "base", base)
    stored = {key: value.clone() for key, value in load_file(folder / "model.safetensors").items()}
    del stored["layer.2.attention.v_proj.bias"]
    stored["layer.0.attention.k_proj.bias"] = torch.zeros(128)
    stored["norm.weight"] = torch.zeros(64)
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_eomt(file, base=str(folder))
    for part in (
        f"{folder} (model.safetensors) is not the DINOv3 to which {file}",
        "1 missing: layer.2.attention.v_proj.bias",
        "1 unexpected: layer.0.attention.k_proj.bias",
        "1 of another shape: norm.weight (file (64,), model (128,))",
        "trained from as base",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(("width", "depth"), [(192, 4), (128, 5), (128, 3)])
def test_a_base_of_another_size_is_refused(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel, width: int, depth: int
) -> None:
    file = str(write_differences(tmp_path / "differences", reference, base))
    folder = write_base(tmp_path / "base", make(width, depth).vit)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="is not the DINOv3 to which .* (missing|unexpected|of another shape): "):
        load_eomt(file, base=str(folder))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope_theta": 10000.0}, "rope_theta = 10000.0"),
        ({"rope_parameters": {"rope_theta": 50.0}}, "rope_theta = 50.0"),
        ({"key_bias": True}, "key_bias = True"),
        ({"use_gated_mlp": True}, "use_gated_mlp = True"),
        ({"model_type": "dinov2"}, "model_type = 'dinov2'"),
        ({"num_attention_heads": 4}, "has 4 attention heads, but .* 2; give"),
    ],
)
def test_a_base_whose_config_describes_another_vit_is_refused(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel, changes: dict[str, object], reason: str
) -> None:
    file = str(write_differences(tmp_path / "differences", reference, base))
    path = write_base(tmp_path / "base", base) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=reason):
        load_eomt(file, base=str(path.parent))


def test_differences_that_miss_keys_are_refused_under_their_own_names(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel
) -> None:
    file = write_differences(tmp_path / "differences", reference, base, ".safetensors")
    state = {key: value.clone() for key, value in load_file(file).items()}
    lost, bent = (f"network.encoder.backbone.{key}" for key in ("blocks.1.layer_scale2.lambda1", "norm.bias"))
    del state[lost]
    state[bent] = state[bent][:-1]
    state["network.encoder.backbone.patch_embed.mask_token"] = torch.zeros(1, 1, 128)
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    with pytest.raises(CheckpointError) as error:
        load_eomt(str(file), base=str(write_base(tmp_path / "base", base)))
    for part in (
        f"1 missing: {lost}",
        "1 unexpected: network.encoder.backbone.patch_embed.mask_token",
        f"1 of another shape: {bent} (file (127,), model (128,))",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("damaged", ["differences", "base", "transformers"])
@pytest.mark.parametrize("shape", [(), (2, 0, 3)])
def test_whichever_tensor_has_an_absurd_shape_it_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference: Reference,
    base: DINOv3ViTModel,
    damaged: str,
    shape: tuple[int, ...],
) -> None:
    folder = str(write_base(tmp_path / "base", base))
    whole = damaged == "transformers"
    written = write_whole(tmp_path / "whole", reference, "transformers") if whole else None
    source = str(written or write_differences(tmp_path / "differences", reference, base))
    states = {path: read_weights(find_weights(path)) for path in (source, folder)}
    target = folder if damaged == "base" else source
    for key in states[target]:
        if re.search(r"\.[1-9]\.|attn_mask|pixel_|criterion|_head|bias|mask_token", key):
            continue  # some stand for all their kind; the others are no weights
        changed = {**states, target: states[target] | {key: torch.zeros(shape)}}
        monkeypatch.setattr(eomt_checkpoints, "read_weights", lambda files, changed=changed: changed[files.source])
        with pytest.raises(CheckpointError, match=re.escape(key)):
            load_eomt(source, base=None if whole else folder)


def test_whole_weights_take_no_base(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel, small_reference
) -> None:
    folder = str(write_base(tmp_path / "base", base))
    whole = str(write_whole(tmp_path / "whole", reference, "transformers"))
    on_dinov2 = str(small_reference.write(tmp_path / "dinov2", "tue-mps"))
    for source in (whole, on_dinov2):
        with pytest.raises(CheckpointError, match="holds whole weights .*leave it out"):
            load_eomt(source, base=folder)


def test_what_the_authors_training_writes_is_whole_and_has_to_be_said_so(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel
) -> None:
    file = str(write_whole(tmp_path / "whole", reference, "tue-mps"))
    assert_same(load_eomt(file, differences=False).model, reference, torch.randn(1, 3, 64, 64))
    folder = str(write_base(tmp_path / "base", base))
    for given in (None, folder):  # the base is not added to what may be whole
        with pytest.raises(CheckpointError, match="differences=False or differences=True"):
            load_eomt(file, base=given)
    with pytest.raises(CheckpointError, match="holds whole weights"):
        load_eomt(file, base=folder, differences=False)


@pytest.mark.parametrize(
    ("share", "said", "reason"),
    [
        (0.0, None, None),
        (0.0, True, None),
        (1.0, True, None),
        (1.0, None, "differences=False or differences=True"),
        (0.5, True, "normalised by a mean"),
        (0.0, False, "normalised by a mean"),
    ],
)
def test_the_normalisation_of_differences_is_none_or_imagenets(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel, share: float, said: bool | None, reason: str | None
) -> None:
    file = str(write_differences(tmp_path / "differences", reference, base, constants_of=share))
    folder = str(write_base(tmp_path / "base", base))
    if reason is None:
        loaded = load_eomt(file, base=folder, differences=said)
        assert_same(loaded.model, reference, torch.randn(1, 3, 64, 64))
    else:
        with pytest.raises(CheckpointError, match=reason):
            load_eomt(file, base=folder, differences=said)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_size_changes_the_statement_and_not_the_weights(
    tmp_path: Path, reference: Reference, base: DINOv3ViTModel, layout: str
) -> None:
    file = write_whole(tmp_path, reference, layout)
    model = load_eomt(str(file), image_size=(96, 48), differences=False).model
    assert model.config.image_size == (96, 48)
    assert_same(model, reference, torch.randn(1, 3, 96, 48))
    with pytest.raises(CheckpointError, match="multiples of 16"):
        load_eomt(str(file), image_size=(64, 72), differences=False)


@torch.no_grad()
def test_half_weights_stay_half(tmp_path: Path, reference: Reference) -> None:
    file = write_whole(tmp_path, reference, "transformers")
    save_file({key: value.bfloat16() for key, value in reference.state("transformers").items()}, file)
    half, full = load_eomt(str(file)).model, load_eomt(str(file), dtype=torch.float32).model
    images = torch.randn(1, 3, 64, 64)
    exact = full(images).class_logits
    assert half(images).mask_logits.dtype == torch.bfloat16 and exact.dtype == torch.float32
    assert (half(images).class_logits - exact).abs().max() < 0.1 * exact.abs().max()


def test_what_dinov3_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="swiglu is DINOv2's"):
        EoMT(EoMTConfig((64, 64), width=64, heads=1, dinov3=True, swiglu=True))
    with pytest.raises(ValueError, match=r"32 heads do not share a width of 64"):
        EoMT(EoMTConfig((64, 64), width=64, heads=32, dinov3=True))
