"""Presets of what scores pixels: what may stand in them, how they are built in both uses, what is missing."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from huggingface_hub import constants
from tiny_lmseg import CLIP, EOMT, write_tiny_lmseg, write_tiny_semantic

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.classification.lmseg import LMSegClassifier
from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.joint.semantic import SemanticModel
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.presets import PresetConfig, checkpoint_paths, load_preset, own_checkpoints, two_stage
from ovseg_ros.core.sections import SemanticSection, TwoStageSection
from ovseg_ros.core.trained_weights import trained_files
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.evaluate.measure import semantic_map

SIZES = {
    "lmseg_l": "large", "lmseg_b": "base", "lmseg_l_semantic": "large", "cat_seg_l": "large",
    "cat_seg_b_semantic": "base",
}  # fmt: skip
WORDS = Vocabulary.build([CategorySpec("red cube"), CategorySpec("cup", ("mug",)), CategorySpec("floor")])
SCORER: dict[str, Any] = {"architecture": {"image_size": [64, 64]}}
SEMANTIC: dict[str, Any] = {"kind": "semantic", "clip": CLIP, "scorer": SCORER}
NAMING: dict[str, Any] = {
    "kind": "two_stage", "input_size": [64, 96], "proposer": EOMT, "clip": CLIP,
    "classifier": {"kind": "lmseg", "scorer": SCORER},
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_the_bundled_presets_say_what_they_need(name: str, size: str) -> None:
    preset = load_preset(name)
    model = preset.model
    assert isinstance(model, TwoStageSection | SemanticSection)
    assert isinstance(model, SemanticSection) == name.endswith("_semantic")
    scorer = model.scorer if isinstance(model, SemanticSection) else model.naming.scorer
    space = "spaces/hamacojr/CAT-Seg-weights"
    assert scorer.warm_start == f"{space}/model_{size}.pth"
    named = {model.clip.checkpoint, space} | ({"facebook/sam-vit-base"} if scorer.sam is not None else set())
    named |= {model.generator.checkpoint} if isinstance(model, TwoStageSection) else set()
    assert {weights.repo for weights in preset.weights} == named
    bytes_of = {weights.file: weights.bytes for weights in preset.weights}
    assert bytes_of[f"model_{size}.pth"] == {"large": 2_298_213_993, "base": 819_132_441}[size]
    assert all(weights.licence for weights in preset.weights)
    assert preset.memory_gb is not None and preset.memory_gb > sum(w.bytes for w in preset.weights) / 1e9
    assert "Not measured here" in preset.expected
    assert preset.merge.object_threshold == 0  # else unseen masks vanish, and words that win no pixel surely
    architecture = scorer.architecture
    expected = {"large": ((336, 336), (7, 15)), "base": ((384, 384), (3, 7))}[size]
    assert (architecture.image_size, architecture.skip_layers) == expected and architecture.tunes_clip
    assert (architecture.layers, architecture.padded_words, architecture.window) == (2, 256, 12)
    if name.startswith("lmseg"):
        assert trained_files(model) == own_checkpoints(preset) == [f"lmseg_{name[6]}.safetensors"]
        assert f"ovseg train lmseg_{name[6]}_coco_stuff" in preset.description and model.descriptions is not None
    else:
        assert scorer.sam is None and trained_files(model) == own_checkpoints(preset) == []
    if isinstance(model, TwoStageSection):
        assert model.naming.void_correction == 0.5
    else:
        assert preset.merge.overlap_threshold == 0 and architecture.windows == (name == "lmseg_l_semantic")


@pytest.mark.parametrize("name", SIZES)
def test_missing_weights_are_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    missing = rf"is not on this machine; .* download {name} \("
    untrained = rf"\.safetensors does not exist; .* train {name[:7]}_coco_stuff"
    wanted = untrained if trained_files(load_preset(name).model) else missing
    for call, message in ((lambda: build_segmenter(name, "cpu"), wanted), (lambda: checkpoint_paths(name), missing)):
        with pytest.raises(CheckpointError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_both_uses_are_built_and_score_by_the_same_weights(tmp_path: Path) -> None:
    paths = write_tiny_lmseg(tmp_path), write_tiny_semantic(tmp_path)
    naming, dense = (build_segmenter(str(path), "cpu").model for path in paths)
    assert isinstance(naming, TwoStage) and isinstance(naming.classifier, LMSegClassifier)
    assert isinstance(dense, SemanticModel) and dense.input_size == (64, 64)
    mine, other = naming.classifier.scorer.state_dict(), dense.scorer.state_dict()
    assert mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
    assert {path.name for path in checkpoint_paths(str(tmp_path / "tiny_semantic.yaml"))} == {
        "clip.safetensors", "eomt.safetensors", "tiny_lmseg.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("windows", [False, True])
def test_the_semantic_map_is_the_scorers_own_choice(tmp_path: Path, windows: bool) -> None:
    segmenter = build_segmenter(str(write_tiny_semantic(tmp_path, scorer={"windows": windows})), "cpu")
    assert isinstance(segmenter.model, SemanticModel)
    image = torch.randint(0, 255, (50, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    prompt = segmenter.prepare(WORDS)
    found = segmenter.predict([image], prompt)
    with torch.inference_mode():
        scores = segmenter.model.scorer(segmenter.to_pixels([image]), prompt.words)
    direct = F.interpolate(scores.logits, (50, 90), mode="bilinear", align_corners=False)[0].argmax(dim=0)
    chosen = semantic_map(found.mask_logits[0], found.class_logits[0], WORDS, (50, 90))
    assert len(direct.unique()) > 1
    assert (chosen == direct.numpy()).mean() > 0.999  # but for ties of rounding


def test_without_a_training_the_scores_are_said_to_be_noise(tmp_path: Path) -> None:
    for write in (write_tiny_lmseg, write_tiny_semantic):
        path = write(tmp_path)
        trained = build_segmenter(str(path), "cpu")
        assert not any("noise" in remark for remark in trained.prepare(WORDS).remarks)
        values = yaml.safe_load(path.read_text())
        section = values["model"].get("classifier", values["model"])["scorer"]
        del section["checkpoint"]
        path.write_text(yaml.safe_dump(values))
        assert any("noise" in remark for remark in build_segmenter(str(path), "cpu").prepare(WORDS).remarks)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**SEMANTIC, "kind": "semantc"}, "unknown kind 'semantc'; did you mean 'semantic'"),
        (
            {**SEMANTIC, "scorer": {"architecture": {"tunes_clip": False}, "warm_start": "a.pth"}},
            "warm_start holds a trained CLIP, too; leave architecture.tunes_clip true",
        ),
        (
            {**NAMING, "proposer": {"kind": "prompt_guided", "generator": EOMT}},
            "classifier lmseg with tunes_clip reads words by a text tower of its own",
        ),
        (
            {
                **NAMING,
                "proposer": {"kind": "prompt_guided", "generator": EOMT},
                "classifier": {"kind": "word_ensemble", "clip": NAMING["classifier"]},
            },
            "classifier lmseg with tunes_clip reads words by a text tower of its own",
        ),
        ({**SEMANTIC, "instances": "some"}, "instances: .*none.*components"),
        ({**SEMANTIC, "max_instances": 0}, "max_instances: .*greater than or equal to 1"),
        ({**SEMANTIC, "input_size": [64, 64]}, "unknown key 'input_size'"),
        ({**SEMANTIC, "templates": ["mug"]}, "the template 'mug' must have {} once"),
        ({**SEMANTIC, "scorer": {"architecture": {"windws": True}}}, "unknown key 'windws'; did you mean 'windows'"),
        ({**SEMANTIC, "scorer": {"architecture": {"width": 30}}}, "width 30 is no multiple of heads 4"),
        ({**SEMANTIC, "scorer": {"architecture": {"fusion": {"kind": "mean"}}}}, "fusion.kind"),
        (
            {**SEMANTIC, "scorer": {"architecture": {"fusion": {"clip_share": 1.0}}}},
            "clip_share is 1.0, from where a sig",
        ),
        ({**SEMANTIC, "scorer": {"sam": {"kind": "sma"}}}, "sam: unknown kind 'sma'; did you mean 'sam'"),
        ({**SEMANTIC, "scorer": {"sam": {"image_size": 64}}}, "sam: missing kind; one of sam, eomt$"),
        ({**SEMANTIC, "scorer": {"sam": {"kind": "sam", "image_size": 1000}}}, "image_size: .*multiple of 16"),
        ({**SEMANTIC, "scorer": {"sam": {"kind": "sam", "heads": 5}}}, "width 768 is no multiple of heads 5"),
        ({**NAMING, "classifier": {"kind": "lmseg"}}, "classifier: missing scorer"),
    ],
)
def test_what_does_not_fit_is_named(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_mapping(PresetConfig, {"description": "For tests.", "model": model}, "mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ({"window": 3}, r"window 3 does not divide the 4 x 4 cells of image_size \[64, 64\]; choose one that does"),
        (
            {"image_size": [64, 72]},
            r"image_size is \[64, 72\]; expected multiples of CLIP's patches",
        ),
        ({"skip_layers": [2, 0]}, r"skip_layers is \[2, 0\]; expected two blocks, the earlier first"),
        ({"skip_layers": [0, 3]}, r"skip_layers must be 0 to 2 of this CLIP, got \[0, 3\]"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(tmp_path: Path, scorer: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_tiny_semantic(tmp_path, scorer=scorer)  # which builds it


def test_what_is_about_two_stages_says_so() -> None:
    with pytest.raises(ConfigError, match="cat_seg_b_semantic is of kind semantic, which has no two stages"):
        two_stage("cat_seg_b_semantic")
