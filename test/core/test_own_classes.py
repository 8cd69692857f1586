"""One trained EoMT with classes of its own, under every classifier and under words that guide it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.classification.pooled import PooledClassifier
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.presets import preset_path
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.core.word_logits import IMPOSSIBLE

ARCHITECTURE = {"width": 16, "depth": 2, "heads": 2, "num_queries": 6, "num_classes": 3, "joint_blocks": 1}
CLASSES = [{"name": "cup", "synonyms": ["mug"]}, "ball", "floor"]
WORDS = Vocabulary.build([CategorySpec(word) for word in ("mug", "ball", "zebra")])
IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
POOLED = {"kind": "pooled", "pooling": {"short_side": 64, "long_side": 96}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    network = EoMT(EoMTConfig((64, 96), **ARCHITECTURE))  # type: ignore[arg-type]
    save_state_half(network.state_dict(), made / "own.safetensors")
    return made


def of_own(folder: Path, preset: str, **model: Any) -> PanopticSegmenter:
    """A bundled preset, with that EoMT in its generator's place."""
    values = yaml.safe_load(preset_path(preset).read_text())
    section = {
        "kind": "eomt",
        "checkpoint": "own.safetensors",
        "architecture": {"image_size": [64, 96], **ARCHITECTURE},
        "classes": CLASSES,
    }
    values["model"] |= {"input_size": [64, 96], "proposer": section, **model}
    if preset == "tabletop_pmp":
        values["model"]["proposer"] = {
            "kind": "prompt_guided",
            "generator": section,
            "prompt": {"width": 16, "heads": 2},
        }
    (folder / "preset.yaml").write_text(yaml.safe_dump(values))
    return build_segmenter(str(folder / "preset.yaml"), "cpu", REPRODUCIBLE)


@pytest.mark.parametrize("preset", ["tabletop", "tabletop_fisa", "tabletop_lmseg", "tabletop_pmp"])
def test_every_classifier_names_its_masks(folder: Path, preset: str) -> None:
    segmenter = of_own(folder, preset)
    predicted = segmenter.predict([IMAGE], segmenter.prepare(WORDS))
    assert predicted.class_logits.shape == (1, 6, 4)
    assert predicted.class_logits.softmax(dim=-1).isfinite().all()


def test_an_ensemble_gives_its_classes_their_words(folder: Path) -> None:
    """Only words that are classes have a share of the mask generator's; the others are CLIP's alone."""
    segmenter = of_own(folder, "tabletop", classifier={**POOLED, "ensemble": {"alpha": 0.0, "beta": 1.0, "gamma": 0.0}})
    assert isinstance(segmenter.model.classifier, PooledClassifier)  # type: ignore[union-attr]
    own = segmenter.predict([IMAGE], segmenter.prepare(WORDS)).class_logits
    nothing = of_own(folder, "tabletop", classifier=POOLED)
    by_clip = nothing.predict([IMAGE], nothing.prepare(WORDS)).class_logits
    with torch.inference_mode():
        known = segmenter.model.proposer(segmenter.to_pixels([IMAGE]), None).class_logits  # type: ignore[operator,union-attr]
    is_named = own[..., 0] > IMPOSSIBLE  # a mask that is likelier nothing has no names, by whatever CLIP says of noise
    assert is_named.sum() > 1
    by_classes = (known[..., 0] - known[..., 1])[is_named]
    torch.testing.assert_close((own[..., 0] - own[..., 1])[is_named], by_classes, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(by_clip[..., 0] - by_clip[..., 1], own[..., 0] - own[..., 1], atol=1e-3)
