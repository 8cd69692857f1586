"""An LMSeg in small, as two presets with random weights beside them: naming an EoMT's masks, and without masks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import torch
import yaml
from safetensors.torch import save_file
from tiny_omtseg import stir

from ovseg_ros.core.backbones.open_clip_model import model_description
from ovseg_ros.core.backbones.sam import SamConfig, SamEncoder
from ovseg_ros.core.build import build_scorer, load_clip
from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.presets import PresetFolder, load_preset
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.sections import EoMTSection, SemanticSection, TwoStageSection
from ovseg_ros.core.weights.strict import save_state_half

Section = dict[str, Any]

SIZE = (64, 96)
CLIP_SHAPES: Section = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
CLIP: Section = {"kind": "open_clip", "architecture": "clip.json", "checkpoint": "clip.safetensors"}
EOMT: Section = {
    "kind": "eomt",
    "checkpoint": "eomt.safetensors",
    "architecture": {
        "image_size": list(SIZE), "width": 32, "depth": 2, "heads": 2, "register_tokens": 0, "num_queries": 6,
        "num_classes": 2, "joint_blocks": 1,
    },
}  # fmt: skip
SAM: Section = {
    "kind": "sam", "checkpoint": "sam.safetensors", "image_size": 64, "width": 32, "layers": 4, "heads": 2, "window": 3,
}  # fmt: skip
"""In place of `EOMT` as the encoder beside CLIP; building it takes seconds, of transformers' imports."""
ARCHITECTURE: Section = {
    "image_size": [64, 64],  # 4 x 4 cells
    "skip_layers": [0, 2],
    "width": 32,
    "heads": 2,
    "layers": 1,
    "window": 2,
    "guidance_width": 16,
    "padded_words": 8,
    "upsampling": {"widths": [16, 16], "skip_widths": [16, 16], "guidance_widths": [8, 8]},
}
MERGE: Section = {"object_threshold": 0.0, "overlap_threshold": 0.0, "mask_threshold": 0.0, "min_area": 1}


def write_tiny_lmseg(
    folder: Path, *, sam: Section | None = EOMT, scorer: Section | None = None, **changes: Any
) -> Path:
    """tiny_lmseg.yaml, which names the masks of a tiny EoMT, and its weights; all masks become segments.

    Args:
        folder: where everything is written.
        sam: the encoder beside CLIP, `EOMT` or `SAM`; None for none.
        scorer: of its architecture, what is other than `ARCHITECTURE`.
        changes: of the model.
    """
    classifier = {"kind": "lmseg", "scorer": _scorer(sam, scorer)}
    model = {"kind": "two_stage", "input_size": list(SIZE), "proposer": EOMT, "clip": CLIP, "classifier": classifier}
    return _write(folder / "tiny_lmseg.yaml", {**model, **changes})


def write_tiny_semantic(
    folder: Path, *, sam: Section | None = EOMT, scorer: Section | None = None, **changes: Any
) -> Path:
    """tiny_semantic.yaml, which scores pixels, and its weights; the arguments are those of `write_tiny_lmseg`."""
    model = {"kind": "semantic", "clip": CLIP, "scorer": _scorer(sam, scorer)}
    return _write(folder / "tiny_semantic.yaml", {**model, **changes})


def _scorer(sam: Section | None, changes: Section | None) -> Section:
    return {"architecture": {**ARCHITECTURE, **(changes or {})}, "sam": sam, "checkpoint": "tiny_lmseg.safetensors"}


def _write(path: Path, model: Section) -> Path:
    path.write_text(yaml.safe_dump({"description": "Random, for tests.", "model": model, "merge": MERGE}))
    config, files = load_preset(str(path)).model, PresetFolder(path.parent)
    assert isinstance(config, TwoStageSection | SemanticSection)
    (path.parent / "clip.json").write_text(json.dumps(CLIP_SHAPES))
    torch.manual_seed(0)
    clip = open_clip.CustomTextCLIP(**model_description(str(path.parent / "clip.json")))
    state = {key: value.contiguous() for key, value in clip.state_dict().items() if key != "text.attn_mask"}
    save_file(state, path.parent / "clip.safetensors")
    eomt = EoMT(from_mapping(EoMTSection, EOMT, "eomt").architecture)
    for weights in eomt.parameters():
        weights.data *= 4 if weights.ndim > 1 else 1  # else all masks look alike
    save_state_half(eomt.state_dict(), path.parent / "eomt.safetensors")
    section = config.classifier.scorer if isinstance(config, TwoStageSection) else config.scorer
    if isinstance(section.sam, SamConfig):
        save_file(SamEncoder(section.sam).state_dict(), path.parent / "sam.safetensors")
    loaded = load_clip(config.clip, config.templates, files, torch.device("cpu"))
    scorer = build_scorer(replace(section, checkpoint=None), loaded, files)
    stir(scorer, 0.05)  # else the fusion begins without SAM
    save_file(scorer.trained_state_dict(), path.parent / "tiny_lmseg.safetensors")
    return path
