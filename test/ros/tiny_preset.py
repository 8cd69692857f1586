"""A preset for tests: the real pipeline with networks that are tiny and untrained."""

from pathlib import Path

import torch
import yaml

from ovseg_ros.core.backbones.sentence_clip import ImageTower, build_clip
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.weights.strict import save_state_half


def write_tiny_preset(folder: Path) -> Path:
    """Writes a preset and its checkpoints: the tabletop's architecture, much smaller, with seeded random weights.

    Its thresholds let every mask through, so that there are segments to look at.
    """
    preset = {
        "description": "Untrained, for tests.",
        "model": {
            "kind": "two_stage",
            "input_size": [48, 64],
            "proposer": {
                "kind": "eomt",
                "checkpoint": "eomt.safetensors",
                "architecture": {
                    "image_size": [48, 64],
                    "width": 32,
                    "depth": 2,
                    "heads": 2,
                    "register_tokens": 0,
                    "num_queries": 6,
                    "num_classes": 2,
                    "joint_blocks": 1,
                },
            },
            "clip": {
                "kind": "sentence_clip",
                "checkpoint": "clip.safetensors",
                "architecture": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
            },
            "classifier": {"kind": "masked_crops", "min_objectness": 0.0},
        },
        "merge": {"object_threshold": 0.0, "overlap_threshold": 0.0, "mask_threshold": 0.0, "min_area": 1},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(preset))
    model = load_preset(str(path)).model
    torch.manual_seed(0)
    proposer = EoMT(model.proposer.architecture)
    for weights in proposer.parameters():
        weights.data *= 4 if weights.ndim > 1 else 1  # else all masks look alike
    save_state_half(proposer.state_dict(), folder / model.proposer.checkpoint)
    clip, _ = build_clip(model.clip.architecture)
    torch.nn.init.zeros_(clip.logit_bias)  # else everything is "none of these"
    save_state_half(ImageTower(clip).state_dict(), folder / model.clip.checkpoint)
    return path
