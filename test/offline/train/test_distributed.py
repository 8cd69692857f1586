"""Two processes on the CPU, started by torchrun, learn what one does with the same batch."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "distributed_run.py"


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    spec = importlib.util.spec_from_file_location("distributed_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.train(tmp_path / "one")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]

    alone = torch.load(tmp_path / "one" / "rank0.pt", weights_only=True)
    ranks = [torch.load(tmp_path / "two" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert alone["world"] == 1 and [rank["world"] for rank in ranks] == [2, 2]
    assert sorted(ranks[0]["seen"] + ranks[1]["seen"]) == alone["seen"]  # each sample once
    for name, value in alone["model"].items():
        assert torch.equal(ranks[0]["model"][name], ranks[1]["model"][name]), name
        assert torch.allclose(ranks[0]["model"][name], value, atol=1e-5), name
    # The log, which only the first process writes, tells of the whole batch.
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 3
    for ours, theirs in zip(*logs, strict=True):
        assert json.loads(ours)["total"] == pytest.approx(json.loads(theirs)["total"], rel=1e-3)
