"""The published architectures at their real sizes, on the meta device: keys and shapes of transformers' EoMT."""

from dataclasses import replace

import pytest
import torch
from transformers import EomtConfig, EomtForUniversalSegmentation

from ovseg_ros.core.proposals.eomt import EoMT
from ovseg_ros.core.proposals.eomt_layouts import TRANSFORMERS, TUE_MPS, infer_config
from ovseg_ros.core.proposals.published import PUBLISHED_EOMT

# One whole network of every size; the rest of the table with as few blocks as queries pass through.
WHOLE = ("small_640_2x", "base_640_2x", "coco_panoptic_eomt_large_640", "coco_panoptic_eomt_giant_640")

# What the authors' model zoo and configurations say of a name.
MILLIONS = {"small": 24, "base": 93.7, "large": 316.7, "giant": 1163.6}


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


@pytest.mark.parametrize("published", PUBLISHED_EOMT, ids=lambda published: published.hub_name.split("/")[1])
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


def test_the_table_says_what_the_names_say():
    names = [published.hub_name for published in PUBLISHED_EOMT]
    assert len(set(names)) == len(names)
    classes = {("panoptic", "COCO"): 133, ("instance", "COCO"): 80}
    for published in PUBLISHED_EOMT:
        dataset, task, _, _size, side, *_ = published.hub_name.split("/")[1].split("_")
        assert (dataset, task) == (published.dataset.lower(), published.task)
        assert published.config.image_size == (int(side), int(side))
        assert published.config.num_classes == classes.get((published.task, published.dataset), 150)


def test_the_authors_layout_has_one_name_for_each_of_our_keys():
    for published in PUBLISHED_EOMT:
        if not published.hub_name.endswith(WHOLE):
            continue
        config = replace(published.config, depth=published.config.joint_blocks)
        with torch.device("meta"):
            keys = set(EoMT(config).state_dict())
        names = TUE_MPS.keys(config)
        assert set(names) == keys
        assert len({name for [name] in names.values()}) == len(keys)
