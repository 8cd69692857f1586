"""Published EoMT checkpoints in both layouts: parity with transformers, strictness, and every place they can lie."""

import json
import math
import mmap
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from published_names import with_joined_gates, with_parted_gates
from safetensors.torch import load_file, save_file

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.eomt import checkpoints as eomt_checkpoints
from ovseg_ros.core.proposals.eomt.checkpoints import load_eomt

LAYOUTS = ("tue-mps", "transformers")


def stored(file):
    """A file's tensors, copied: one that is mapped must not be written over."""
    return {key: value.clone() for key, value in load_file(file).items()}


@torch.no_grad()
def assert_same(ours, theirs, images):
    proposals, expected = ours(images), theirs(pixel_values=images)
    assert expected.masks_queries_logits.std() > 0.05
    torch.testing.assert_close(proposals.mask_logits, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(proposals.class_logits, expected.class_queries_logits, atol=1e-4, rtol=1e-4)
    queries = proposals.query_embeddings.shape[1]
    torch.testing.assert_close(
        proposals.query_embeddings, expected.last_hidden_state[:, :queries], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_size_in_both_layouts_equals_transformers(tmp_path, reference, layout):
    loaded = load_eomt(str(reference.write(tmp_path, layout).parent))
    assert not loaded.model.training
    assert loaded.class_names == ("cup", "mug", "floor", "wall", "sky")
    assert all(parameter.dtype == torch.float32 and not parameter.is_meta for parameter in loaded.model.parameters())
    assert_same(loaded.model, reference.model, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("names_of", [with_joined_gates, with_parted_gates])
def test_giants_load_as_transformers_4_and_as_5_writes_them(tmp_path, make_reference, names_of):
    reference = make_reference("giant")
    file = reference.write(tmp_path, "transformers")
    state = names_of(reference.transformers_state())
    assert any("gate_proj" in key for key in state) == (names_of is with_parted_gates)
    save_file(state, file)
    assert_same(load_eomt(str(file)).model, reference.model, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [96, 48])
def test_another_input_size_equals_transformers_with_interpolated_positions(
    tmp_path, make_reference, small_reference, layout, side
):
    path = str(small_reference.write(tmp_path, layout))
    resized = make_reference("small", image_size=side)
    state = small_reference.transformers_state()
    positions = state["embeddings.position_embeddings.weight"]  # (16, C)
    old = positions.T.reshape(1, -1, 4, 4)
    new = F.interpolate(old, size=(side // 16, side // 16), mode="bicubic", antialias=True, align_corners=False)
    state["embeddings.position_embeddings.weight"] = new.flatten(2)[0].T
    resized.model.load_state_dict(state)

    images = torch.randn(1, 3, side, side)
    assert_same(load_eomt(path).model, resized.model, images)
    once = load_eomt(path, image_size=(side, side)).model
    assert once.config.image_size == (side, side)
    assert once.encoder.pos_embed.shape == (1, (side // 16) ** 2, 128)
    assert_same(once, resized.model, images)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_architecture_follows_from_the_tensors_alone(tmp_path, reference, layout):
    with_settings = load_eomt(str(reference.write(tmp_path / "a", layout))).model.config
    # Names of classes need a config.json, or a data set's number of classes.
    file = reference.write(tmp_path / "b", layout, settings=False)
    (tmp_path / "b" / "config.json").write_text(json.dumps({"id2label": reference.config.id2label}))
    assert load_eomt(str(file)).model.config == with_settings
    assert with_settings.swiglu == reference.config.use_swiglu_ffn
    assert with_settings.joint_blocks == reference.config.num_blocks
    assert with_settings.register_tokens == 4 and with_settings.layer_scale is not None


@pytest.mark.parametrize("kind", ["safetensors", "bin", "lightning"])
@pytest.mark.parametrize("given", ["file", "folder"])
def test_every_kind_of_file_and_folder(tmp_path, small_reference, kind, given):
    file = small_reference.write(tmp_path, "tue-mps", kind=kind)
    loaded = load_eomt(str(file if given == "file" else file.parent))
    assert_same(loaded.model, small_reference.model, torch.randn(1, 3, 64, 64))
    assert (loaded.model.config.depth, loaded.model.config.width) == (4, 128)


def cache_folder(root: Path, name: str, file: Path) -> None:
    """What huggingface_hub leaves after a download."""
    repository = root / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    for source in (file, file.parent / "config.json"):
        (snapshot / source.name).write_bytes(source.read_bytes())


def test_a_hub_name_is_found_in_the_local_cache(tmp_path, monkeypatch, small_reference):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    name = "tue-mps/coco_panoptic_eomt_small_640_2x"
    cache_folder(tmp_path / "hub", name, small_reference.write(tmp_path / "made", "transformers"))
    assert_same(load_eomt(name).model, small_reference.model, torch.randn(1, 3, 64, 64))


def test_an_absent_hub_name_says_where_it_was_looked_for_and_what_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CheckpointError) as error:
        load_eomt("tue-mps/coco_panoptic_eomt_large_640")
    for part in ("model.safetensors", str(tmp_path / "hub"), "hf download tue-mps/coco_panoptic_eomt_large_640"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_are_joined_and_a_missing_one_is_named(tmp_path, small_reference):
    state = small_reference.transformers_state()
    names = sorted(state)
    half = len(names) // 2
    weight_map = {}
    for index, part in enumerate((names[:half], names[half:])):
        file = f"model-{index + 1:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps({"id2label": small_reference.config.id2label}))
    assert_same(load_eomt(str(tmp_path)).model, small_reference.model, torch.randn(1, 3, 64, 64))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002.safetensors are missing"):
        load_eomt(str(tmp_path))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_unexpected_and_ill_shaped_keys_are_all_listed_under_the_files_own_names(
    tmp_path, small_reference, layout
):
    file = small_reference.write(tmp_path, layout)
    state = stored(file)
    query = next(key for key in state if key.endswith(("q.weight", "query.weight")) and "_proj" not in key)
    lost = next(key for key in state if "2.attn.qkv.bias" in key or "2.attention.k_proj.bias" in key)
    del state[lost]
    bent = next(key for key in state if key.endswith("norm2.weight"))
    state[bent] = state[bent][:-1]
    state["network.extra"] = torch.zeros(1)
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    with pytest.raises(CheckpointError) as error:
        load_eomt(str(file))
    message = str(error.value)
    assert f"1 missing: {lost}" in message
    assert "1 unexpected: network.extra" in message
    assert f"1 of another shape: {bent} (file (127,), model (128,))" in message
    assert query not in message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_whole_block_too_few_is_an_error_not_a_shallower_network(tmp_path, small_reference, layout):
    file = small_reference.write(tmp_path, layout)
    state = {key: value for key, value in stored(file).items() if ".1." not in key or "mask_head" in key}
    save_file(state, file)
    with pytest.raises(CheckpointError, match="missing: "):
        load_eomt(str(file))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (2, 0, 3)])
def test_whichever_tensor_has_an_absurd_shape_it_is_named(tmp_path, monkeypatch, small_reference, layout, shape):
    file = small_reference.write(tmp_path, layout)
    state = stored(file)
    for key in state:
        if re.search(r"\.[1-9]\.|attn_mask|pixel_|criterion|_head|norm|bias", key):
            continue  # some stand for all their kind; the others are no weights
        damaged = state | {key: torch.zeros(shape)}
        monkeypatch.setattr(eomt_checkpoints, "read_weights", lambda files, damaged=damaged: damaged)
        with pytest.raises(CheckpointError, match=re.escape(key)):
            load_eomt(str(file))


def test_what_is_no_eomt_is_refused_with_what_was_expected(tmp_path):
    save_file({"vision.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no EoMT that this package knows.*begin with vision.weight"):
        load_eomt(str(tmp_path))
    save_file({"embeddings.position_embeddings.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks embeddings.cls_token"):
        load_eomt(str(tmp_path))
    with pytest.raises(CheckpointError, match="is not there"):
        load_eomt(str(tmp_path / "nothing.safetensors"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="found none"):
        load_eomt(str(tmp_path / "empty"))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("damage", ["half", "empty", "text", "list"])
def test_damaged_files_are_refused_by_name(tmp_path, small_reference, suffix, damage):
    kind = "safetensors" if suffix == ".safetensors" else "bin"
    path = small_reference.write(tmp_path, "tue-mps", kind=kind)
    content = path.read_bytes()
    if damage == "list" and kind == "bin":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "text": b"x" * 64, "list": b"[]"}[damage])
    with pytest.raises(CheckpointError, match=path.name) as error:
        load_eomt(str(path))
    assert "\n" not in str(error.value)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="tensors only"):
        load_eomt(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"model_type": "mask2former"}, "model_type"),
        ({"num_attention_heads": 3}, "3 attention heads do not divide"),
        ({"image_size": 80}, "do not make an image"),
        ({"image_size": "large"}, "do not make an image"),
        ({"id2label": {"0": "cup"}}, "1 entries, expected 0 to 4"),
        ({"id2label": {str(i): f"LABEL_{i}" for i in range(5)}}, "5 classes without names"),
    ],
)
def test_a_config_that_describes_another_network_is_refused(tmp_path, small_reference, changes, reason):
    small_reference.write(tmp_path, "transformers")
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | changes))
    with pytest.raises(CheckpointError, match=reason):
        load_eomt(str(tmp_path))


def test_another_normalisation_is_refused(tmp_path, small_reference):
    file = small_reference.write(tmp_path, "tue-mps")
    state = stored(file)
    state["network.encoder.pixel_std"] = torch.full((1, 3, 1, 1), 0.5)
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"std of \[0.5, 0.5, 0.5\]"):
        load_eomt(str(file))


@torch.no_grad()
def test_half_weights_stay_half_unless_another_type_is_asked_for(tmp_path, small_reference):
    file = small_reference.write(tmp_path, "transformers")
    state = stored(file)
    save_file({key: value.bfloat16() for key, value in state.items()}, file)
    images = torch.randn(1, 3, 64, 64)
    half, full = load_eomt(str(file)).model, load_eomt(str(file), dtype=torch.float32).model
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in full.parameters()} == {torch.float32}
    assert half(images).mask_logits.dtype == torch.bfloat16
    exact = full(images).class_logits
    assert (half(images).class_logits - exact).abs().max() < 0.1 * exact.abs().max()


def test_the_weights_stay_in_the_file(tmp_path, small_reference):
    """Parameters that are taken as they are share the file's mapping; only joined ones (here q, k, v) are copies.

    The mapping from which those were read is gone, and its pages with it.
    """
    file = small_reference.write(tmp_path, "transformers")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux's /proc")
    model = load_eomt(str(file)).model
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in maps.read_text().splitlines()
        if line.endswith(str(file))
    ]
    copied = {
        name.split(".", 3)[-1]
        for name, parameter in model.named_parameters()
        if not any(low <= parameter.data_ptr() < high for low, high in ranges)
    }
    assert copied == {"attn.qkv.weight", "attn.qkv.bias"}
    assert sum(high - low for low, high in ranges) < file.stat().st_size + mmap.PAGESIZE


def test_input_sizes_that_do_not_fit_the_patches_are_refused(tmp_path, small_reference):
    file = str(small_reference.write(tmp_path, "transformers"))
    for size in ((0, 64), (64, 72), (-16, 64)):
        with pytest.raises(CheckpointError, match="multiples of 16"):
            load_eomt(file, image_size=size)


def test_a_loaded_model_trains_like_any_other(tmp_path, small_reference):
    model = load_eomt(str(small_reference.write(tmp_path, "transformers"))).model.train()
    model.forward_masked(torch.randn(1, 3, 64, 64), torch.ones(3))[-1].mask_logits.square().mean().backward()
    assert math.isfinite(float(model.encoder.pos_embed.grad.abs().sum()))
    assert replace(model.config, depth=4) == model.config
