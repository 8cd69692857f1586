"""The model whose masks words take part in, from a preset to a panoptic map."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from guidance_support import stir

from ovseg_ros.core.backbones.sentence_clip import ImageTower, build_clip
from ovseg_ros.core.build import build_segmenter, build_two_stage
from ovseg_ros.core.classification.word_ensemble import WordEnsembleClassifier
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.model import TwoStage
from ovseg_ros.core.presets import load_preset, preset_folder
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.padded import PaddedProposer, PromptGuidedProposer
from ovseg_ros.core.sections import TwoStageSection
from ovseg_ros.core.text_attention import TextProjections
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.strict import save_state_half

CPU = torch.device("cpu")
GENERATOR = {
    "kind": "eomt",
    "checkpoint": "eomt.safetensors",
    "architecture": {
        "image_size": [48, 64],
        "width": 32,
        "depth": 3,
        "heads": 2,
        "register_tokens": 0,
        "num_queries": 6,
        "num_classes": 2,
        "joint_blocks": 2,
    },
}
CLIP = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
CROPS = {"kind": "masked_crops", "min_objectness": 0.0}
EVERYTHING = {"object_threshold": 0.0, "overlap_threshold": 0.0, "mask_threshold": 0.0, "min_area": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Presets `plain`, `fresh` (guidance that was not trained) and `trained` (as if), and their weights."""
    folder = tmp_path_factory.mktemp("presets")
    guided = {"kind": "prompt_guided", "generator": GENERATOR, "prompt": {"width": 8, "heads": 2}}
    proposers = {"plain": GENERATOR, "fresh": guided, "trained": {**guided, "checkpoint": "trained.safetensors"}}
    for name, proposer in proposers.items():
        model = {
            "kind": "two_stage",
            "input_size": [48, 64],
            "proposer": proposer,
            "clip": {"kind": "sentence_clip", "checkpoint": "clip.safetensors", "architecture": CLIP},
            "classifier": CROPS if name == "plain" else {"kind": "word_ensemble", "clip": CROPS},
        }
        preset = {"description": "Untrained.", "model": model, "merge": EVERYTHING}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(preset))
    config = section(folder, "plain")
    torch.manual_seed(0)
    generator = EoMT(config.proposer.architecture)
    stir(generator, 0.1)
    save_state_half(generator.state_dict(), folder / "eomt.safetensors")
    clip, _ = build_clip(config.clip.architecture)
    save_state_half(ImageTower(clip).state_dict(), folder / "clip.safetensors")
    network = model_of(folder, "fresh").proposer.network
    stir(network.guidance, 0.3)
    save_state_half(network.state_dict(), folder / "trained.safetensors")
    return folder


def section(folder: Path, name: str) -> TwoStageSection:
    return load_preset(str(folder / f"{name}.yaml")).model


def model_of(folder: Path, name: str) -> TwoStage:
    path = str(folder / f"{name}.yaml")
    return build_two_stage(section(folder, name), preset_folder(path), CPU).eval()


@pytest.fixture(scope="module")
def trained(folder: Path) -> TwoStage:
    return model_of(folder, "trained")


def asked(*names: str) -> Vocabulary:
    return Vocabulary.build([CategorySpec(name) for name in names])


PIXELS = torch.rand(2, 3, 90, 120, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_masks_of_a_fresh_one_are_the_generators_to_the_bit(folder: Path) -> None:
    plain, fresh = model_of(folder, "plain"), model_of(folder, "fresh")
    assert type(plain.proposer) is PaddedProposer and type(fresh.proposer) is PromptGuidedProposer
    assert isinstance(fresh.classifier, WordEnsembleClassifier)
    words = asked("cup", "red things", "unknown")
    expected, found = plain.propose(PIXELS, plain.prepare(words)), fresh.propose(PIXELS, fresh.prepare(words))
    for name in ("mask_logits", "query_embeddings", "class_logits"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    # What its head for words would say before a training is noise, so it says nothing.
    assert expected.word_logits is None and found.word_logits is None
    assert torch.equal(found.objectness, expected.objectness)


@torch.inference_mode()
def test_words_make_the_masks_and_prompts_of_several_may_be_in_use_at_once(trained: TwoStage) -> None:
    cups, red = trained.prepare(asked("cup", "bowl")), trained.prepare(asked("red things"))
    first = trained(PIXELS, cups)
    other = trained(PIXELS, red)
    again = trained(PIXELS, cups)
    assert torch.equal(first.mask_logits, again.mask_logits)
    assert torch.equal(first.class_logits, again.class_logits)
    assert (first.mask_logits - other.mask_logits).abs().max() > 1e-2
    assert first.class_logits.shape == (2, 6, 3) and other.class_logits.shape == (2, 6, 2)
    assert torch.isfinite(first.class_logits).all()


@torch.inference_mode()
def test_what_it_says_is_the_generators_names_and_clips(trained: TwoStage) -> None:
    prompt = trained.prepare(asked("cup", "bowl", "unknown"))
    masks, said = trained.propose(PIXELS, prompt), trained(PIXELS, prompt)
    assert torch.equal(said.mask_logits, masks.mask_logits)
    probabilities = said.class_logits.exp()
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(2, 6))
    torch.testing.assert_close(said.objectness, 1 - masks.word_logits.softmax(dim=-1)[..., -1])
    named = trained.classify(PIXELS, masks, prompt)
    torch.testing.assert_close(named.class_logits, said.class_logits)


@torch.inference_mode()
def test_other_words_after_the_masks_make_other_masks(trained: TwoStage) -> None:
    """Masks of one prompt are not to be named under another, which would show what was not asked for."""
    cups, red = trained.prepare(asked("cup", "bowl")), trained.prepare(asked("red things"))
    masks = trained.propose(PIXELS, cups)
    assert (trained.propose(PIXELS, red).mask_logits - masks.mask_logits).abs().max() > 1e-2
    with pytest.raises(ValueError, match="2 words guided these masks, 1 are to name them"):
        trained.classify(PIXELS, masks, red)


def test_a_prompt_holds_the_words_keys_and_frames_make_none(trained: TwoStage, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [], TextProjections.key_values
    monkeypatch.setattr(TextProjections, "key_values", lambda self, rows: calls.append(1) or original(self, rows))
    prompt = trained.prepare(asked("cup", "bowl"))
    assert len(calls) == 2  # a joint block each
    with torch.inference_mode():
        trained(PIXELS, prompt)
        trained(PIXELS, prompt)
    assert len(calls) == 2


def test_panoptic_maps_show_the_words_of_their_prompt(folder: Path) -> None:
    segmenter = build_segmenter(str(folder / "trained.yaml"), "cpu")
    image = (PIXELS[0].permute(1, 2, 0) * 255).byte().numpy()
    cups, red = (segmenter.prepare(asked(*names)) for names in (("cup", "bowl"), ("red things",)))
    found, other = segmenter.segment(image, cups), segmenter.segment(image, red)
    assert {segment.label for segment in found.segments} <= {"cup", "bowl"}
    assert {segment.label for segment in other.segments} == {"red things"}
    assert not np.array_equal(found.segment_ids, other.segment_ids)


def test_a_file_without_guidance_is_no_trained_one(folder: Path) -> None:
    preset = yaml.safe_load((folder / "trained.yaml").read_text())
    preset["model"]["proposer"]["checkpoint"] = "eomt.safetensors"
    (folder / "wrong.yaml").write_text(yaml.safe_dump(preset))
    with pytest.raises(CheckpointError, match="missing: guidance.prompts.0.query.weight"):
        model_of(folder, "wrong")


@torch.inference_mode()
def test_unknown_alone_is_remarked_on(trained: TwoStage, folder: Path) -> None:
    assert "'unknown' alone finds nothing with this preset" in trained.prepare(asked("unknown")).remarks[-1]
    assert not any("alone" in remark for remark in trained.prepare(asked("cup", "unknown")).remarks)
    assert not any("alone" in remark for remark in model_of(folder, "plain").prepare(asked("unknown")).remarks)
