"""The published architectures at their real sizes, on the meta device: keys and shapes of transformers' models."""

from dataclasses import replace

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel, EomtConfig, EomtForUniversalSegmentation

from ovseg_ros.core.proposals.eomt.layouts import (
    TRANSFORMERS,
    TRANSFORMERS_DINOV3,
    TUE_MPS,
    TUE_MPS_DINOV3,
    dinov3_base_keys,
    infer_config,
)
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.published import DINOV3_BASES, PUBLISHED_EOMT, published_eomt

ON_DINOV2 = [published for published in PUBLISHED_EOMT if not published.config.dinov3]
ON_DINOV3 = [published for published in PUBLISHED_EOMT if published.config.dinov3]

# One whole network of every size; the rest of the table with as few blocks as queries pass through.
WHOLE = ("small_640_2x", "base_640_2x", "coco_panoptic_eomt_large_640", "coco_panoptic_eomt_giant_640")

# What the authors' model zoo and configurations say of a name.
MILLIONS = {"small": 24, "base": 93.7, "large": 316.7, "giant": 1163.6}

# Meta's names of the ViTs, from transformers' conversion of them: width, depth, heads.
DINOV3_SIZES = {"vits16": (384, 12, 6), "vitb16": (768, 12, 12), "vitl16": (1024, 24, 16)}


def hub_word(published):
    return published.hub_name.split("/")[1]


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


@pytest.mark.parametrize("published", ON_DINOV2, ids=hub_word)
def test_keys_and_shapes_are_transformers_own(published):
    config = published.config
    if not published.hub_name.endswith(WHOLE):
        config = replace(config, depth=config.joint_blocks)
    ours, theirs = on_meta(config)
    state = theirs.state_dict()
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    keys = TRANSFORMERS.keys(config)
    assert set(keys) == set(shapes)
    assert {name for names in keys.values() for name in names} == set(state) - TRANSFORMERS.ignored
    for key, names in keys.items():
        shape = shapes[key][1:] if key == "encoder.pos_embed" else shapes[key]
        rows = sum(state[name].shape[0] for name in names)
        assert (rows, *state[names[0]].shape[1:]) == shape, key
    assert infer_config(TRANSFORMERS, state, {}, "a file") == config
    if config is published.config:
        size = next(word for word in MILLIONS if word in published.hub_name)
        assert sum(value.numel() for value in ours.parameters()) / 1e6 == pytest.approx(MILLIONS[size], rel=0.01)


@pytest.mark.parametrize("published", ON_DINOV3, ids=hub_word)
def test_on_dinov3_keys_and_shapes_are_those_of_the_base(published):
    """Every tensor of the ViT has one of its shape in the base, none is left; the heads are those of DINOv2's EoMTs."""
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
    in_base = {key: tuple(value.shape) for key, value in base.state_dict().items() if "mask_token" not in key}
    keys = dinov3_base_keys(config)
    assert {names[0]: shapes[key] for key, names in keys.items()} == in_base
    heads_only = set(shapes) - set(keys)
    same_size = replace(config, dinov3=False, depth=config.joint_blocks)
    with torch.device("meta"):
        on_dinov2 = EoMT(same_size).state_dict()
    assert heads_only == {key for key in on_dinov2 if not key.startswith("encoder.")}
    assert all(shapes[key] == tuple(on_dinov2[key].shape) for key in heads_only)
    for layout in (TUE_MPS_DINOV3, TRANSFORMERS_DINOV3):
        names = layout.keys(config)
        assert set(names) == set(shapes) and len({name for [name] in names.values()}) == len(shapes)
        state = {name: torch.empty(shapes[key], device="meta") for key, [name] in names.items()}
        state[layout.mask_probabilities] = torch.zeros(config.joint_blocks)
        assert infer_config(layout, state, {"image_size": config.image_size[0]}, "a file") == config
    # Without position embeddings and the keys' biases, within a few per cent of DINOv2's.
    size = next(word for word in MILLIONS if word in published.hub_name)
    assert sum(value.numel() for value in ours.parameters()) / 1e6 == pytest.approx(MILLIONS[size], rel=0.03)


def test_only_what_is_on_dinov3_has_a_base():
    assert len(ON_DINOV3) == 7 and {published.base for published in ON_DINOV3} == set(DINOV3_BASES.values())
    for published in PUBLISHED_EOMT:
        on_dinov3 = published.hub_name.endswith("_dinov3")
        assert (published.base is not None) == published.config.dinov3 == on_dinov3
        assert published_eomt(published.hub_name) is published_eomt(f"hf-hub:{published.hub_name}") is published
    assert published_eomt("somebody/else") is published_eomt("/a/file.bin") is None


def test_the_table_says_what_the_names_say():
    names = [published.hub_name for published in PUBLISHED_EOMT]
    assert len(set(names)) == len(names)
    classes = {("panoptic", "COCO"): 133, ("instance", "COCO"): 80}
    for published in PUBLISHED_EOMT:
        dataset, task, _, _size, side, *_ = published.hub_name.split("/")[1].split("_")
        dataset = {"ade": "ade20k"}.get(dataset, dataset)  # the authors' own name of one of them
        assert (dataset, task) == (published.dataset.lower(), published.task)
        assert published.config.image_size == (int(side), int(side))
        assert published.config.num_classes == classes.get((published.task, published.dataset), 150)


def test_the_authors_layout_has_one_name_for_each_of_our_keys():
    for published in ON_DINOV2:
        if not published.hub_name.endswith(WHOLE):
            continue
        config = replace(published.config, depth=published.config.joint_blocks)
        with torch.device("meta"):
            keys = set(EoMT(config).state_dict())
        names = TUE_MPS.keys(config)
        assert set(names) == keys
        assert len({name for [name] in names.values()}) == len(keys)
