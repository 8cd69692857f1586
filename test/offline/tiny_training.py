"""A recipe that trains a tiny EoMT in seconds, a CLIP as tiny, and how tests run it."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from ovseg_ros.core.backbones.open_clip_model import model_description
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.cli.main import main

EOMT = "{image_size: [64, 96], width: 16, depth: 2, heads: 2, num_queries: 6, num_classes: 100, joint_blocks: 1}"
NETWORK = f"network: {{kind: eomt, checkpoint: tiny_eomt.safetensors, architecture: {EOMT}}}"

EOMT_RECIPE = f"""
stages:
  - kind: eomt
    {NETWORK}
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


def require_same_maps(out: Path, stage: str, *words: str) -> None:
    """What a run leaves is found by its folder and by its state, and both say the same, to half precision."""
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 255, (64, 96, 3), dtype=torch.uint8, generator=generator).numpy()
    found = []
    for preset in (out, out / stage / "last.pt"):
        segmenter = build_segmenter(str(preset), "cpu", REPRODUCIBLE)
        prompt = segmenter.prepare(Vocabulary.build([CategorySpec(word) for word in words]))
        found.append(segmenter.predict([frame], prompt))
    masks, logits = zip(*((one.mask_logits, one.class_logits) for one in found), strict=True)
    torch.testing.assert_close(*masks, atol=0.05, rtol=0.05)
    torch.testing.assert_close(*(one.log_softmax(dim=-1) for one in logits), atol=0.05, rtol=0.05)


def told(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_validation_changes_nothing(folder: Path, kind: str, recipe: str, data: Path) -> None:
    """Trains as a stage of that kind did in `folder`, with a validation of its images after each step."""
    again = folder / "validated"
    again.mkdir()
    assert run(again, f"{recipe}    validation: {{every: 1, images: 1, split: train, pictures: 0}}\n", data) == 0
    lines = told(again / kind)
    assert [line for line in lines if "val" not in line] == told(folder / kind)
    validations = [line["val"] for line in lines if "val" in line]
    assert len(validations) == len(told(folder / kind)) and all("miou" in val for val in validations)  # type: ignore[operator]
    assert {"model", "step", "score"} == set(torch.load(again / kind / "best.pt", weights_only=True))
    [result] = again.glob("tiny_*.safetensors")
    assert result.read_bytes() == (folder / result.name).read_bytes()
