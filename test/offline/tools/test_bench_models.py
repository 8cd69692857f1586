"""The same weights in our networks and in transformers'."""

import pytest
import torch

from ovseg_ros.core.proposals.eomt.network import EoMTConfig
from ovseg_ros.core.proposals.published import PublishedEoMT
from ovseg_ros.offline.tools import bench_models
from ovseg_ros.offline.tools.bench_models import model_pass_against_transformers


def test_both_passes_are_timed_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = EoMTConfig((64, 64), width=48, depth=3, heads=3, num_queries=7, num_classes=5, joint_blocks=2)
    monkeypatch.setattr(bench_models, "published_eomt", lambda name: PublishedEoMT(tiny, None))
    found = model_pass_against_transformers(torch.device("cpu"), rounds=2)
    assert found.largest_error < 1e-4
    assert found.ours_ms > 0 and found.theirs_ms > 0


def test_other_names_are_refused() -> None:
    for name in ("tue-mps/coco_panoptic_eomt_small_640_dinov3", "EoMT"):
        with pytest.raises(ValueError, match="is not the name of a published EoMT on DINOv2"):
            model_pass_against_transformers(torch.device("cpu"), name=name)
