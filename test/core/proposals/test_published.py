"""The published architectures at their real sizes, on the meta device: keys and shapes of transformers' models."""

from dataclasses import replace

import pytest
import torch
from published_names import dinov3_state
from transformers import DINOv3ViTConfig, DINOv3ViTModel, EomtConfig, EomtForUniversalSegmentation

from ovseg_ros.core.proposals.eomt.layouts import (
    TRANSFORMERS,
    TRANSFORMERS_5_SWIGLU,
    TRANSFORMERS_DINOV3,
    TRANSFORMERS_SWIGLU,
    TUE_MPS,
    TUE_MPS_DINOV3,
    detect_layout,
    dinov3_base_keys,
    infer_config,
)
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.published import DINOV3_BASES, published_eomt

# The authors' model zoo.
ON_DINOV2 = (
    "tue-mps/coco_panoptic_eomt_small_640_2x",
    "tue-mps/coco_panoptic_eomt_base_640_2x",
    "tue-mps/coco_panoptic_eomt_large_640",
    "tue-mps/coco_panoptic_eomt_large_1280",
    "tue-mps/coco_panoptic_eomt_giant_640",
    "tue-mps/coco_panoptic_eomt_giant_1280",
    "tue-mps/ade20k_panoptic_eomt_large_640",
    "tue-mps/ade20k_panoptic_eomt_large_1280",
    "tue-mps/ade20k_panoptic_eomt_giant_640",
    "tue-mps/ade20k_panoptic_eomt_giant_1280",
    "tue-mps/coco_instance_eomt_large_640",
    "tue-mps/coco_instance_eomt_large_1280",
    "tue-mps/ade20k_semantic_eomt_large_512",
)
ON_DINOV3 = (
    "tue-mps/coco_panoptic_eomt_small_640_dinov3",
    "tue-mps/coco_panoptic_eomt_base_640_dinov3",
    "tue-mps/coco_panoptic_eomt_large_640_dinov3",
    "tue-mps/coco_panoptic_eomt_large_1280_dinov3",
    "tue-mps/coco_instance_eomt_large_640_dinov3",
    "tue-mps/coco_instance_eomt_large_1280_dinov3",
    "tue-mps/ade_semantic_eomt_large_512_dinov3",
)

# One whole network of every size; the rest of the table with as few blocks as queries pass through.
WHOLE = ("small_640_2x", "base_640_2x", "coco_panoptic_eomt_large_640", "coco_panoptic_eomt_giant_640")

# What the authors' model zoo and configurations say of a name.
MILLIONS = {"small": 24, "base": 93.7, "large": 316.7, "giant": 1163.6}

# Meta's names of the ViTs, from transformers' conversion of them: width, depth, heads.
DINOV3_SIZES = {"vits16": (384, 12, 6), "vitb16": (768, 12, 12), "vitl16": (1024, 24, 16)}


def on_meta(config):
    with torch.device("meta"):
        ours = EoMT(config)
        theirs = EomtForUniversalSegmentation(
            EomtConfig(
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                image_size=config.image_size[0],
                num_queries=config.num_queries,
                num_blocks=config.joint_blocks,
                num_labels=config.num_classes,
                use_swiglu_ffn=config.swiglu,
            )
        )
    return ours, theirs


@pytest.mark.parametrize("name", ON_DINOV2)
def test_keys_and_shapes_are_transformers_own(name):
    published = config = published_eomt(name).config
    layouts = (TRANSFORMERS_SWIGLU, TRANSFORMERS_5_SWIGLU) if config.swiglu else (TRANSFORMERS,)
    if not name.endswith(WHOLE):
        config = replace(config, depth=config.joint_blocks)
    ours, theirs = on_meta(config)
    state = theirs.state_dict()
    layout = detect_layout(state, "a file")
    assert layout in layouts
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    keys = layout.keys(shapes)
    assert {theirs for names in keys.values() for theirs in names} == set(state) - layout.ignored
    for key, names in keys.items():
        shape = shapes[key][1:] if key == "encoder.pos_embed" else shapes[key]
        rows = sum(state[name].shape[0] for name in names)
        assert (rows, *state[names[0]].shape[1:]) == shape, key
    assert infer_config(layout, state, {}, "a file") == config
    if config is published:
        size = next(word for word in MILLIONS if word in name)
        assert sum(value.numel() for value in ours.parameters()) / 1e6 == pytest.approx(MILLIONS[size], rel=0.01)


@pytest.mark.parametrize("name", ON_DINOV3)
def test_on_dinov3_keys_and_shapes_are_those_of_the_base(name):
    """Every tensor of the ViT has one of its shape in the base, none is left; the heads are those of DINOv2's EoMTs."""
    published = published_eomt(name)
    config = published.config
    width, depth, heads = next(size for word, size in DINOV3_SIZES.items() if word in published.base)
    assert (config.width, config.depth, config.heads) == (width, depth, heads)
    settings = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_register_tokens=4,
    )
    with torch.device("meta"):
        ours, base = EoMT(config), DINOv3ViTModel(settings)
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    in_base = {key: tuple(value.shape) for key, value in dinov3_state(base).items()}
    keys = dinov3_base_keys(shapes)
    assert {names[0]: shapes[key] for key, names in keys.items()} == in_base
    heads_only = set(shapes) - set(keys)
    same_size = replace(config, dinov3=False, depth=config.joint_blocks)
    with torch.device("meta"):
        on_dinov2 = EoMT(same_size).state_dict()
    assert heads_only == {key for key in on_dinov2 if not key.startswith("encoder.")}
    assert all(shapes[key] == tuple(on_dinov2[key].shape) for key in heads_only)
    for layout in (TUE_MPS_DINOV3, TRANSFORMERS_DINOV3):
        names = layout.keys(shapes)
        state = {theirs: torch.empty(shapes[key], device="meta") for key, [theirs] in names.items()}
        assert len(state) == len(shapes)
        state[layout.mask_probabilities] = torch.zeros(config.joint_blocks)
        assert infer_config(layout, state, {"image_size": config.image_size[0]}, "a file") == config
    # Without position embeddings and the keys' biases, within a few per cent of DINOv2's.
    size = next(word for word in MILLIONS if word in name)
    assert sum(value.numel() for value in ours.parameters()) / 1e6 == pytest.approx(MILLIONS[size], rel=0.03)


def test_only_what_is_on_dinov3_has_a_base():
    assert {published_eomt(name).base for name in ON_DINOV3} == set(DINOV3_BASES.values())
    for name in (*ON_DINOV2, *ON_DINOV3):
        published = published_eomt(name)
        assert (published.base is not None) == published.config.dinov3 == name.endswith("_dinov3")
        assert published_eomt(f"hf-hub:{name}") == published
    for other in ("somebody/else", "/a/file.bin", "tue-mps/coco_panoptic_eomt_7b_640", f"{ON_DINOV2[0]}/x"):
        assert published_eomt(other) is None


def test_the_names_say_what_they_were_trained_with():
    classes = {("panoptic", "coco"): 133, ("instance", "coco"): 80}
    for name in (*ON_DINOV2, *ON_DINOV3):
        config = published_eomt(name).config
        dataset, task, _, _size, side, *_ = name.split("/")[1].split("_")
        assert config.image_size == (int(side), int(side))
        assert config.num_classes == classes.get((task, dataset), 150)
        assert config.num_queries == (100 if task == "semantic" else 200)


def test_the_authors_layout_has_one_name_for_each_of_our_keys():
    for name in ON_DINOV2:
        if not name.endswith(WHOLE):
            continue
        config = published_eomt(name).config
        with torch.device("meta"):
            state = EoMT(replace(config, depth=config.joint_blocks)).state_dict()
        names = TUE_MPS.keys(state)
        assert len({theirs for [theirs] in names.values()}) == len(state)
        assert all(theirs.startswith("network.") for [theirs] in names.values())
