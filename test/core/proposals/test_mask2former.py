"""transformers' Mask2Former behind MaskProposals, with random weights: its own outputs, padding, strict loading."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_mask2former import STAGES, tiny_mask2former, tiny_swin
from transformers import ResNetConfig

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.mask2former import load_mask2former

LABELS = {0: "cup", 1: "floor", 2: "wall"}


def make(backbone):
    torch.manual_seed(0)
    resnet = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 32, 64], depths=[1, 1, 1, 1], out_features=STAGES)
    kinds = {"swin": tiny_swin(depths=[1, 1, 2, 1]), "resnet": resnet}
    return tiny_mask2former(LABELS.values(), layers=3, backbone=kinds[backbone]).eval()


@pytest.fixture(scope="module", params=["swin", "resnet"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    network = make(request.param)
    network.save_pretrained(folder)
    return network, folder


@torch.no_grad()
def test_the_wrapper_gives_the_librarys_own_outputs(saved):
    network, folder = saved
    loaded = load_mask2former(str(folder))
    assert loaded.class_names == ("cup", "floor", "wall")
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        proposals, outputs = loaded.model(images), network(pixel_values=images)
    assert proposals.mask_logits.shape == (2, 7, 16, 24)
    assert proposals.query_embeddings.shape == (2, 7, 32)
    assert proposals.class_logits.shape == (2, 7, 4)
    torch.testing.assert_close(proposals.mask_logits, outputs.masks_queries_logits)
    torch.testing.assert_close(proposals.class_logits, outputs.class_queries_logits)
    torch.testing.assert_close(proposals.query_embeddings, outputs.transformer_decoder_last_hidden_state)


@torch.inference_mode()
def test_sizes_that_are_no_multiple_of_32_are_padded_and_the_masks_cut_back(saved):
    network, folder = saved
    model = load_mask2former(str(folder)).model
    images = torch.randn(1, 3, 60, 84)
    outputs = network(pixel_values=F.pad(images, (0, 12, 0, 4)))
    proposals = model(images)
    assert proposals.mask_logits.shape == (1, 7, 15, 21)
    torch.testing.assert_close(proposals.mask_logits, outputs.masks_queries_logits[..., :15, :21])
    with pytest.raises(ValueError, match="multiples of 4 pixels, got 62 x 64"):
        model(torch.randn(1, 3, 62, 64))


def copy_of(saved, tmp_path):
    for file in saved[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / "model.safetensors"


def test_missing_unexpected_and_ill_shaped_keys_are_listed(saved, tmp_path):
    file = copy_of(saved, tmp_path)
    state = {key: value.clone() for key, value in load_file(file).items()}  # the file is written over
    del state["class_predictor.bias"]
    state["extra"] = torch.zeros(1)
    bent = "model.transformer_module.queries_embedder.weight"
    state[bent] = state[bent][:-1].contiguous()
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as error:
        load_mask2former(str(tmp_path))
    for part in ("1 missing: class_predictor.bias", "1 unexpected: extra", f"1 of another shape: {bent}"):
        assert part in str(error.value)


def test_what_is_no_mask2former_is_refused(saved, tmp_path):
    file = copy_of(saved, tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded as a Mask2Former"):
        load_mask2former(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "eomt"}))
    with pytest.raises(CheckpointError, match="model_type in its config.json is 'eomt'"):
        load_mask2former(str(tmp_path))
    with pytest.raises(CheckpointError, match="hf download facebook/mask2former-swin-base-coco-panoptic-x"):
        load_mask2former("facebook/mask2former-swin-base-coco-panoptic-x")
