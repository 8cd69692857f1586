"""A recipe that trains a tiny EoMT in seconds, a CLIP as tiny, and how tests run it."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from ovseg_ros.core.backbones.open_clip_model import model_description
from ovseg_ros.offline.cli.main import main

EOMT = "{image_size: [64, 96], width: 16, depth: 2, heads: 2, num_queries: 6, num_classes: 100, joint_blocks: 1}"

EOMT_RECIPE = f"""
stages:
  - kind: eomt
    network: {{kind: eomt, checkpoint: tiny_eomt.safetensors, architecture: {EOMT}}}
    data: {{kind: panoptic, dataset: tabletop, split: train, workers: 2}}
    augmentation: {{kind: jitter, size: [64, 96], scale: [0.5, 2.0]}}
    loop:
      {{steps: 4, batch_size: 2, learning_rate: 1.0e-3, warmup_steps: 1, encoder: {{warmup_steps: 1}},
        gradient_clip: 0.01, checkpoint_every: 5, log_every: 1, pictures_every: 2}}
    loss: {{points: 64}}
    annealing_starts: [1]
    annealing_ends: [3]
"""

CLIP = """
{"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
 "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}
"""


def write_clip(folder: Path) -> None:
    """Random weights, `clip.safetensors`, and their architecture, `clip.json`."""
    (folder / "clip.json").write_text(CLIP)
    torch.manual_seed(0)
    clip = open_clip.CustomTextCLIP(**model_description(str(folder / "clip.json")))
    state = {key: value.contiguous() for key, value in clip.state_dict().items() if key != "text.attn_mask"}
    save_file(state, folder / "clip.safetensors")


def run(folder: Path, recipe: str, data: Path, *arguments: str) -> int:
    path = folder / "recipe.yaml"
    path.write_text(recipe)
    return main(["train", str(path), "--out", str(folder), "--data", str(data), "--device", "cpu", *arguments])


def told(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
