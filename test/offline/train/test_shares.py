"""Losses and gradients of the real trainings do not depend on how a batch is split, over parts or processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_run import IN_DOUBLE, NAMES, make, one_step, validated
from torch import Tensor

from ovseg_ros.offline.train.engine import Engine, Run

SCRIPT = Path(__file__).parents[1] / "distributed_run.py"
Step = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    """Of every training: one process, one part."""
    return {name: one_step(name, 1, tmp_path_factory.mktemp("whole"), Engine("cpu")) for name in NAMES}


def assert_same(ours: Step, theirs: Step, name: str) -> None:
    assert ours["gradients"].keys() == theirs["gradients"].keys() and len(ours["gradients"]) > 5
    assert ours["losses"].keys() == theirs["losses"].keys() and len(ours["losses"]) > 1
    for key, value in theirs["losses"].items():
        assert float(ours["losses"][key]) == pytest.approx(float(value), rel=1e-6), key
    found, wanted = (
        torch.cat([step["gradients"][key].flatten() for key in theirs["gradients"]]) for step in (ours, theirs)
    )
    # Single precision rounds by how much it is given.
    assert float((found - wanted).norm() / wanted.norm()) < (1e-12 if name in IN_DOUBLE else 1e-6)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_parts_change_nothing(whole: dict[str, Step], tmp_path: Path, name: str, parts: int) -> None:
    assert_same(one_step(name, parts, tmp_path, Engine("cpu")), whole[name], name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "clip"])
def test_samples_differ_in_what_losses_divide_by(tmp_path: Path, name: str) -> None:
    """Else the tests above would say nothing."""
    task, source = make(name, Run(None, tmp_path, Engine("cpu")))
    counts = task.counts(0, range(4))
    source.close()
    assert len(counts.unique(dim=0)) > 1, counts


@pytest.mark.timeout(900)
def test_two_processes_of_two_parts_change_nothing(whole: dict[str, Step], tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path), "2"],
        env=environment, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip  # seconds alone; the limit is for what never ends, not for a busy machine
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [rank["world"] for rank in ranks] == [2, 2]
    assert ranks[0]["validated"] == ranks[1]["validated"] == validated(Engine("cpu"))
    assert ranks[0]["validated"]["miou"] > 0
    for name in NAMES:
        assert_same(ranks[0][name], whole[name], name)
        for key, value in ranks[0][name]["gradients"].items():
            assert torch.equal(ranks[1][name]["gradients"][key], value), (name, key)
