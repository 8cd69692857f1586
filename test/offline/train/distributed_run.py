"""A tiny EoMT trained by as many processes as there are; `test_distributed.py` starts it with and without torchrun.

python distributed_run.py FOLDER
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import LoopConfig, Task, run_loop
from ovseg_ros.offline.train.losses import MaskLossConfig, MaskTargets, mask_set_loss

EOMT = EoMTConfig((32, 32), width=16, depth=2, heads=2, num_queries=4, num_classes=3, joint_blocks=1)
LOOP = LoopConfig(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1, log_every=1, checkpoint_every=2)
LOSS = MaskLossConfig(no_object_weight=1.0)  # with another, each process would normalise by its own weights


def sample(step: int, number: int) -> tuple[Tensor, MaskTargets]:
    """Image 0 has no segment, image 3 has three."""
    generator = torch.Generator().manual_seed(100 * step + number)
    masks = (torch.rand(number, 8, 8, generator=generator) > 0.5).float()
    return torch.randn(3, 32, 32, generator=generator), MaskTargets(masks, torch.arange(number) % 3)


class Distributed(Task):
    """Remembers what it was shown."""

    def __init__(self, engine: Engine) -> None:
        torch.manual_seed(0)
        self.name, self.model = "distributed", EoMT(EOMT)
        self.engine = engine
        self.seen: list[tuple[int, int]] = []

    def losses(self, step: int, samples: range) -> dict[str, Tensor]:
        self.seen.extend((step, number) for number in samples)
        images, targets = zip(*[sample(step, number) for number in samples], strict=True)
        count = self.engine.mean(torch.tensor(float(sum(len(target.classes) for target in targets))))
        predictions = self.model.forward_masked(torch.stack(images), torch.zeros(1))
        return mask_set_loss(predictions, list(targets), LOSS, count=float(count))


def train(folder: Path) -> None:
    """Write the weights that come out, and what each process saw."""
    engine = Engine("cpu")
    task = Distributed(engine)
    run_loop(task, LOOP, folder, engine=engine)
    torch.save(
        {"model": task.model.state_dict(), "seen": task.seen, "world": engine.world}, folder / f"rank{engine.rank}.pt"
    )
    engine.wait()
    engine.close()


if __name__ == "__main__":
    train(Path(sys.argv[1]))
