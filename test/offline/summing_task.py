"""A task of the training loop that takes no time: a tiny network learns sums; and what a run of it leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ovseg_ros.offline.train.loop import Task
from ovseg_ros.offline.train.loop_config import LoopConfig

CONFIG = LoopConfig(steps=60, batch_size=4, learning_rate=0.05, warmup_steps=5, checkpoint_every=10, seed=3)


def make_model() -> nn.Module:
    torch.manual_seed(CONFIG.seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.GELU(), nn.Linear(8, 1))


class Sums(Task):
    """The sum of three random numbers; `hook` is called at each step with the losses, and may change them."""

    def __init__(
        self, model: nn.Module | None = None, hook: Callable[[int, dict[str, Tensor]], object] | None = None
    ) -> None:
        self.name, self.model = "test", model if model is not None else make_model()
        self._hook = hook

    def losses(self, step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(CONFIG.batch_size, 3, generator=generator)[list(samples)]
        losses = {"square": (self.model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()}
        if self._hook is not None:
            self._hook(step, losses)
        return losses


def losses_told(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_equal_weights(ours: nn.Module, theirs: nn.Module) -> None:
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
