"""A recipe that trains a tiny EoMT in seconds, and how tests run it."""

import json
from pathlib import Path

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


def run(folder: Path, recipe: str, data: Path, *arguments: str) -> int:
    path = folder / "recipe.yaml"
    path.write_text(recipe)
    return main(["train", str(path), "--out", str(folder), "--data", str(data), "--device", "cpu", *arguments])


def told(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
