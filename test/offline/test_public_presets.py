"""Every public preset from end to end: its own YAML, checkpoints of the published layouts, tiny and untrained."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny_mask2former import tiny_mask2former
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    EomtConfig,
    EomtForUniversalSegmentation,
)

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD
from ovseg_ros.core.presets import (
    checkpoint_paths,
    load_preset,
    preset_names,
    preset_path,
)
from ovseg_ros.core.proposals.eomt.layouts import TUE_MPS_DINOV3, dinov3_base_keys
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.sections import TwoStageSection
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.cli.main import main

MODELS = {name: model for name in preset_names() if isinstance(model := load_preset(name).model, TwoStageSection)}
GENERATORS = {name: model.generator.kind for name, model in MODELS.items()}
PUBLIC = [name for name, kind in GENERATORS.items() if kind != "eomt"]
EOMTS = [name for name in PUBLIC if GENERATORS[name] == "published_eomt"]
GUIDED = [name for name in PUBLIC if MODELS[name].proposer.kind == "prompt_guided"]
ENSEMBLES = [name for name in PUBLIC if MODELS[name].classifier.kind == "pooled"]
WORD = Vocabulary.build([CategorySpec("mug")])
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp", "image_size": 64}


def write_clip(folder: Path, vision: dict) -> None:
    description = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
    (folder / "clip.json").write_text(json.dumps(description))
    model = open_clip.CLIP(**description)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def write_eomt(folder: Path, num_labels: int = 133) -> None:
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        num_blocks=1,
        num_queries=12,
        num_upscale_blocks=2,
        num_labels=num_labels,
    )
    model = EomtForUniversalSegmentation(config)
    for weights in model.parameters():
        weights.data *= 4 if weights.ndim > 1 else 1  # else all masks look alike
    model.save_pretrained(folder)


def write_mask2former(folder: Path, names: tuple[str, ...] = ("cup", "floor", "wall")) -> None:
    tiny_mask2former(names, layers=2).save_pretrained(folder)


@pytest.fixture(scope="module", params=PUBLIC)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The preset itself, but for where its weights are, how large it is, and thresholds that let something through."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    values = yaml.safe_load(preset_path(request.param).read_text())
    model = values["model"]
    write_clip(folder, VIT if model["clip"]["architecture"].startswith("ViT") else CONVNEXT)
    (write_eomt if request.param in EOMTS else write_mask2former)(folder)
    model["input_size"] = [64, 64]
    model["proposer"].pop("checkpoint")
    model["proposer"].get("generator", model["proposer"])["checkpoint"] = "."  # of the guidance nothing, as untrained
    model["clip"] |= {"architecture": "clip.json", "checkpoint": "."}
    naming = model["classifier"].get("clip", model["classifier"])
    if naming["kind"] == "lmseg":
        scorer = naming["scorer"]
        scorer["architecture"] |= {"image_size": [64, 64], "skip_layers": [0, 1], "width": 32, "guidance_width": 8}
        scorer["architecture"]["upsampling"] = {"widths": [16, 16], "guidance_widths": [8, 4]}
        if "sam" in scorer:
            sizes = {"image_size": 64, "width": 32, "layers": 2, "heads": 2, "window": 3, "global_layers": 1}
            scorer["sam"] = {"kind": "sam", **sizes}
        scorer.pop("checkpoint", None), scorer.pop("warm_start")
    elif naming["kind"] == "pooled":
        naming["pooling"] = {"short_side": 64, "long_side": 107}
    else:
        naming["architecture"] |= {"input_size": 64, "seve_width": 16, "seve_heads": 2}
        del naming["checkpoint"]  # as before a training
    values["merge"] |= {"overlap_threshold": 0.0, "mask_threshold": 0.0, "min_area": 1}
    path = folder / f"{request.param}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def masks_of(segmenter: PanopticSegmenter, image: np.ndarray, words: Vocabulary = WORD) -> torch.Tensor:
    return segmenter.predict([image], segmenter.prepare(words)).mask_logits


def test_there_are_public_presets() -> None:
    assert {"eomt_l_convnext", "eomt_s_convnext", "eomt_b_vit_b", "pmp_eomt_l", "pmp_mask2former_b"} <= set(PUBLIC)


def test_evaluate_runs_and_its_figures_are_in_range(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main(["evaluate", "--preset", str(tiny), "--images", "2", "--device", "cpu", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    for group in ("seen", "unseen", "all"):
        assert 0 <= report[group]["pq"] <= 100
        assert 0 <= report[group]["miou"] <= 100
    assert 0 <= report["mask_recall_50"] <= 100
    assert set(report["checkpoints"]) == {"model.safetensors", "open_clip_model.safetensors"}


def test_results_have_the_images_shape_and_the_vocabularys_labels(tiny: Path) -> None:
    segmenter = build_segmenter(str(tiny), "cpu")
    image = torch.randint(0, 255, (50, 90, 3), dtype=torch.uint8).numpy()
    for names in (["mug"], ["mug", "wall", "person"], [f"thing {index}" for index in range(40)]):
        text = segmenter.prepare(Vocabulary.build([CategorySpec(name) for name in names]))
        result = segmenter.segment(image, text)
        assert result.segment_ids.shape == (50, 90)
        assert {segment.label for segment in result.segments} <= set(names)
        assert all(0 <= segment.score <= 1 for segment in result.segments)
        assert {int(value) for value in result.segment_ids.reshape(-1)} - {0} == {s.id for s in result.segments}
    assert len(segmenter.segment_batch([image, image], text)) == 2


def test_building_twice_gives_the_same_masks(tiny: Path) -> None:
    image = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8).numpy()
    first, second = (build_segmenter(str(tiny), "cpu") for _ in range(2))
    assert masks_of(first, image).equal(masks_of(second, image))
    assert len(checkpoint_paths(str(tiny))) == 2


@pytest.mark.parametrize("tiny", EOMTS, indirect=True)
def test_padding_is_black_as_the_published_eomts_saw_it(tiny: Path) -> None:
    segmenter = build_segmenter(str(tiny), "cpu")
    wide = torch.randint(0, 255, (32, 64, 3), dtype=torch.uint8).numpy()
    square = np.zeros((64, 64, 3), dtype=np.uint8)
    square[:32] = wide
    masks = masks_of(segmenter, wide)
    torch.testing.assert_close(masks, masks_of(segmenter, square)[..., : masks.shape[-2], :])


@pytest.mark.parametrize("tiny", GUIDED, indirect=True)
def test_words_change_masks_once_trained(tiny: Path) -> None:
    """The trained file holds the whole network; plans name it beside the file that the training began with."""
    untrained = build_segmenter(str(tiny), "cpu")
    image = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8).numpy()
    others = Vocabulary.build([CategorySpec("red cup"), CategorySpec("parking area")])
    assert masks_of(untrained, image).equal(masks_of(untrained, image, others))
    network = untrained.model.proposer.network
    for prompt in network.guidance.prompts:
        torch.nn.init.normal_(prompt.out.weight)
    save_state_half(network.state_dict(), tiny.parent / "trained.safetensors")
    values = yaml.safe_load(tiny.read_text())
    values["model"]["proposer"]["checkpoint"] = "trained.safetensors"
    path = tiny.parent / "trained.yaml"
    path.write_text(yaml.safe_dump(values))
    trained = build_segmenter(str(path), "cpu")
    assert not masks_of(trained, image).equal(masks_of(trained, image, others))
    files = [file.name for file in checkpoint_paths(str(path))]
    assert sorted(files) == ["model.safetensors", "open_clip_model.safetensors", "trained.safetensors"]


@pytest.mark.parametrize("tiny", GUIDED[:1], indirect=True)
def test_true_masks_which_no_words_guided_are_named_by_clip(tiny: Path, tmp_path: Path) -> None:
    for oracle in ("masks", "classes"):
        options = ["--images", "1", "--oracle", oracle, "--json", str(tmp_path / "figures.json")]
        assert main(["evaluate", "--preset", str(tiny), "--device", "cpu", *options]) == 0
        assert 0 <= json.loads((tmp_path / "figures.json").read_text())["all"]["pq"] <= 100


@pytest.mark.parametrize("tiny", ENSEMBLES, indirect=True)
def test_synonyms_for_other_classes_are_refused(tiny: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(tiny.read_text())
    for key in ("proposer", "clip"):
        values["model"][key]["checkpoint"] = str(tiny.parent)
    values["model"]["clip"]["architecture"] = str(tiny.parent / "clip.json")
    values["model"]["classifier"]["ensemble"]["synonyms"] = "ade20k_150"
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"ade20k_150.yaml does not describe the mask generator's 133 classes"):
        build_segmenter(str(other), "cpu")


def test_dinov3_takes_the_place_of_dinov2(tmp_path: Path) -> None:
    """Differences and base beside the preset, the base given by its folder."""
    torch.manual_seed(0)
    vit = DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, num_register_tokens=4
        )
    )
    vit.save_pretrained(tmp_path / "base")
    eomt = EoMT(EoMTConfig((64, 64), width=64, depth=2, heads=1, dinov3=True, num_queries=12, joint_blocks=1))
    keys = TUE_MPS_DINOV3.keys(eomt.state_dict())
    state = {keys[key][0]: value for key, value in eomt.state_dict().items()}
    in_base = vit.state_dict()
    for key, [name] in dinov3_base_keys(eomt.state_dict()).items():
        state[keys[key][0]] = state[keys[key][0]] - in_base[name]
    (tmp_path / "differences").mkdir()
    state["network.attn_mask_probs"] = torch.zeros(1)
    torch.save(state, tmp_path / "differences" / "pytorch_model.bin")
    write_clip(tmp_path, CONVNEXT)
    values = {
        "description": "For tests.",
        "model": {
            "kind": "two_stage",
            "input_size": [64, 96],
            "proposer": {"kind": "published_eomt", "checkpoint": "differences", "base": "base"},
            "clip": {"kind": "open_clip", "architecture": "clip.json", "checkpoint": "."},
            "classifier": {"kind": "pooled", "pooling": {"short_side": 64, "long_side": 107}},
        },
        "merge": {"object_threshold": 0.0, "overlap_threshold": 0.0, "mask_threshold": 0.0, "min_area": 1},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    segmenter = build_segmenter(str(path), "cpu")
    image = torch.randint(0, 255, (64, 96, 3), dtype=torch.uint8).numpy()
    normalised = (torch.from_numpy(image).float() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    with torch.inference_mode():
        expected = eomt.eval()(normalised.permute(2, 0, 1)[None]).mask_logits[0]
    torch.testing.assert_close(masks_of(segmenter, image).squeeze(0), expected, atol=1e-4, rtol=1e-4)
    assert [file.parent.name for file in checkpoint_paths(str(path))] == ["differences", "base", tmp_path.name]


def test_mask2former_takes_the_place_of_eomt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_mask2former(tmp_path / "generator")
    write_clip(tmp_path, CONVNEXT)
    values = {
        "description": "For tests.",
        "model": {
            "kind": "two_stage",
            "input_size": [64, 64],
            "proposer": {"kind": "mask2former", "checkpoint": "generator"},
            "clip": {"kind": "open_clip", "architecture": "clip.json", "checkpoint": "."},
            "classifier": {"kind": "pooled", "pooling": {"short_side": 64, "long_side": 64}, "ensemble": {}},
        },
        "merge": {"object_threshold": 0.0, "overlap_threshold": 0.0, "mask_threshold": 0.0, "min_area": 1},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    segmenter = build_segmenter(str(tmp_path / "mine.yaml"), "cpu")
    text = segmenter.prepare(Vocabulary.build([CategorySpec("cup"), CategorySpec("robot")]))
    result = segmenter.segment(np.zeros((40, 64, 3), dtype=np.uint8), text)
    assert result.segment_ids.shape == (40, 64)
    assert len(checkpoint_paths(str(tmp_path / "mine.yaml"))) == 2
