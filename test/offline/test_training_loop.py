"""The training loop: schedule, exact resume after a kill, foreign checkpoints."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.offline.training_loop import LoopConfig, learning_rate_factor, run_loop

CONFIG = LoopConfig(steps=60, batch_size=4, learning_rate=0.05, warmup_steps=5, checkpoint_every=10, seed=3)

SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_training_loop import CONFIG, make_model, losses_of
from ovseg_ros.offline.training_loop import run_loop
model = make_model()
losses = losses_of(model)
def slow(step):
    time.sleep(0.02)
    return losses(step)
run_loop(model, slow, CONFIG, Path(sys.argv[1]), name="killed")
"""


def make_model() -> nn.Module:
    torch.manual_seed(CONFIG.seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.GELU(), nn.Linear(8, 1))


def losses_of(model: nn.Module):  # type: ignore[no-untyped-def]
    def losses_at(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(CONFIG.batch_size, 3, generator=generator)
        return {"square": (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()}

    return losses_at


def train(folder: Path) -> nn.Module:
    model = make_model()
    run_loop(model, losses_of(model), CONFIG, folder, name="test")
    return model


def test_the_schedule_warms_up_and_decays_to_zero() -> None:
    factors = [learning_rate_factor(step, CONFIG) for step in range(CONFIG.steps + 1)]
    assert factors[0] == pytest.approx(1 / 5) and factors[4] == 1.0
    assert all(late <= early for early, late in pairwise(factors[5:]))
    assert factors[-1] == 0.0


def test_training_learns_and_logs(tmp_path: Path) -> None:
    model = train(tmp_path)
    assert not model.training
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["total"] < lines[0]["total"]


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """SIGKILL at some step after the first checkpoint; the resumed run ends where an unbroken one does, bit for bit."""
    unbroken = train(tmp_path / "unbroken")
    folder = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "last.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert (folder / "last.pt").exists()
    resumed = train(folder)
    for ours, theirs in zip(resumed.state_dict().values(), unbroken.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = train(tmp_path)
    again = train(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_another_models_state_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    other = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="last.pt does not fit this configuration; choose another --out"):
        run_loop(other, lambda step: {"a": other.weight.sum()}, CONFIG, tmp_path, name="other")
    (tmp_path / "last.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="last.pt"):
        train(tmp_path)
