"""The training loop: schedule, log, exact resume after any stop, full disks, foreign checkpoints."""

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from summing_task import CONFIG, Sums, assert_equal_weights, losses_told, make_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.layers import DropPath
from torch import Tensor, nn

from ovseg_ros.core.errors import CheckpointError, ConfigError, TrainingError
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import LoopConfig, Task, TrainingStopped, run_loop
from ovseg_ros.offline.train.optimization import Schedule
from ovseg_ros.offline.train.state import steps_done


def run(task: Task, folder: Path, config: LoopConfig = CONFIG) -> None:
    run_loop(task, config, folder, engine=Engine("cpu"))


def train(folder: Path) -> nn.Module:
    task = Sums()
    run(task, folder)
    return task.model


def test_the_schedule_warms_up_and_decays_to_zero() -> None:
    schedule = Schedule(delay=0, warmup=CONFIG.warmup_steps, steps=CONFIG.steps)
    factors = [schedule(step) for step in range(CONFIG.steps + 1)]
    assert factors[0] == pytest.approx(1 / 5) and factors[4] == 1.0
    assert all(late <= early for early, late in pairwise(factors[5:]))
    assert factors[-1] == 0.0


def test_training_learns_and_logs(tmp_path: Path) -> None:
    model = train(tmp_path)
    assert not model.training
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["total"] < lines[0]["total"]


def test_the_log_has_scalars_and_pictures_for_tensorboard(tmp_path: Path) -> None:
    picture = np.full((4, 6, 3), 7, dtype=np.uint8)
    seen = []

    class Shown(Sums):
        def pictures(self) -> dict[str, np.ndarray]:
            seen.append((self.model.training, torch.is_grad_enabled()))
            return {"masks": picture}

    run(Shown(), tmp_path, replace(CONFIG, pictures_every=30))
    assert seen == [(False, False), (False, False)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = {"loss/square", "loss/total", "learning_rate", "gradient_norm", "images_per_second"}
    assert set(events.Tags()["scalars"]) == names
    assert [event.step for event in events.Scalars("loss/total")] == [20, 40, 60]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss/total")] == pytest.approx(
        [line["total"] for line in lines], abs=1e-4
    )
    assert all(event.value > 0 for name in ("learning_rate", "gradient_norm") for event in events.Scalars(name))
    assert [(image.step, image.width, image.height) for image in events.Images("masks")] == [(30, 6, 4), (60, 6, 4)]


@pytest.mark.parametrize("at", [1, 10, 37])
def test_an_interrupted_run_resumes_to_the_same_weights_and_log(tmp_path: Path, at: int) -> None:
    """Stopped before any checkpoint, right after one, and between log line and checkpoint."""
    unbroken = train(tmp_path / "unbroken")
    folder = tmp_path / "broken"

    def interrupt(step: int, losses: dict[str, Tensor]) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Sums(hook=interrupt), folder)
    assert_equal_weights(train(folder), unbroken)
    assert losses_told(folder) == losses_told(tmp_path / "unbroken")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_save_and_stop(tmp_path: Path, number: int, exit_code: int) -> None:
    unbroken = train(tmp_path / "unbroken")

    def terminate(step: int, losses: dict[str, Tensor]) -> None:
        if step == 12:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with pytest.raises(TrainingStopped, match="stopped at step 1[34] of 60; its state is saved") as stopped:
        run(Sums(hook=terminate), tmp_path / "stopped")
    assert stopped.value.exit_code == exit_code and signal.getsignal(number) is handler
    state = torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)
    assert state["step"] in (13, 14)
    assert_equal_weights(train(tmp_path / "stopped"), unbroken)


def test_a_second_ctrl_c_ends_at_once_without_damage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    unbroken = train(tmp_path / "unbroken")

    def interrupt(step: int, losses: dict[str, Tensor]) -> None:
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(Sums(hook=interrupt), tmp_path / "stopped")
    assert "Ctrl-C again ends at once" in capfd.readouterr().err
    assert torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)["step"] == 10
    assert_equal_weights(train(tmp_path / "stopped"), unbroken)


def test_a_signal_in_the_last_step_stops_what_would_follow(tmp_path: Path) -> None:
    def terminate(step: int, losses: dict[str, Tensor]) -> None:
        if step == CONFIG.steps - 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingStopped, match="stopped at step 60 of 60"):
        run(Sums(hook=terminate), tmp_path)


def test_too_little_memory_is_said_with_what_helps(tmp_path: Path) -> None:
    def fill(step: int, losses: dict[str, Tensor]) -> None:
        if step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(TrainingError, match=r"memory .* 4 samples at a time, at step 4; .*--accumulate 2 or more"):
        run(Sums(hook=fill), tmp_path / "whole")
    with pytest.raises(TrainingError, match="every part is one sample already"):
        run(Sums(hook=fill), tmp_path / "parts", replace(CONFIG, gradient_accumulation=4))


def test_the_seconds_of_a_resumed_run_go_on(tmp_path: Path) -> None:
    run(Sums(), tmp_path, replace(CONFIG, steps=40))
    log = tmp_path / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({**line, "seconds": 1000.0 + line["step"]}) + "\n" for line in lines))
    train(tmp_path)
    assert json.loads(log.read_text().splitlines()[-1])["seconds"] >= 1040


def test_a_run_says_where_and_how_it_computes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(Sums(), tmp_path, replace(CONFIG, gradient_accumulation=2))
    told = "test: steps 0 to 60 on cpu, single precision, batch 4 = 1 processes x 2 parts x 2"
    assert told in capsys.readouterr().out and not caplog.text
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    run(Sums(model), tmp_path / "norm", replace(CONFIG, gradient_accumulation=2, steps=1))
    assert "batch norm, which normalises each share of 2 by itself" in caplog.text and "drop path" not in caplog.text
    run(Sums(nn.Sequential(nn.Linear(3, 1), DropPath(0.5))), tmp_path / "drop", replace(CONFIG, steps=1))
    assert "drop path" not in caplog.text  # as there is one share
    halves = replace(CONFIG, gradient_accumulation=2, steps=1)
    run(Sums(nn.Sequential(nn.Linear(3, 1), DropPath(0.5))), tmp_path / "halves", halves)
    assert "drop path, which draws for each share of 2 by itself" in caplog.text
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)  # as `accelerate launch --cpu --num_processes 2` does
    Engine("cpu")
    assert "accelerate launch says that there are several processes, but this one trains alone" in caplog.text
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    Engine("cpu")
    assert "SLURM_STEP_NUM_TASKS says that there are several" in caplog.text


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    assert_equal_weights(train(tmp_path), train(tmp_path))


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_a_torn_state_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    unbroken = train(tmp_path)
    last = tmp_path / "last.pt"
    last.write_bytes(content := last.read_bytes()[:-2000] if content is None else content)
    assert_equal_weights(train(tmp_path), unbroken)
    assert "last.pt" in caplog.text and f"is damaged ({len(content)} bytes); going on from" in caplog.text
    assert "weights_only" not in caplog.text


def test_a_death_while_saving_costs_nothing(tmp_path: Path) -> None:
    unbroken = train(tmp_path)
    (tmp_path / ".last.pt.tmp").write_bytes(b"half")
    (tmp_path / "last.pt").unlink()  # between the two renames there is only previous.pt
    assert_equal_weights(train(tmp_path), unbroken)
    assert sorted(path.name for path in tmp_path.glob("*last*")) == ["last.pt"]


def test_two_torn_states_are_an_error(tmp_path: Path) -> None:
    train(tmp_path)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"torn")
    wanted = r"no checkpoint in .* can be read: .*last.pt is damaged \(4 bytes\); .*choose another --out"
    with pytest.raises(CheckpointError, match=wanted) as error:
        train(tmp_path)
    assert "weights_only" not in str(error.value)


def test_fewer_steps_than_are_done_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    done = CONFIG.steps
    with pytest.raises(ConfigError, match=f"{done} steps are done already, more than the {done - 1} that are asked"):
        run(Sums(), tmp_path, replace(CONFIG, steps=done - 1))
    assert (tmp_path / "last.pt").read_bytes() == before and steps_done(tmp_path) == done
    assert steps_done(tmp_path / "nothing") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a disk that is always full")
def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path) -> None:
    unbroken = train(tmp_path / "unbroken")
    folder = tmp_path / "full"

    def fill_up(step: int, losses: dict[str, Tensor]) -> None:
        if step == 25:
            (folder / ".last.pt.tmp").symlink_to("/dev/full")

    with pytest.raises(TrainingError, match=r"step 30 .*No space left on device.*last good one is kept"):
        run(Sums(hook=fill_up), folder)
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 20
    assert not list(folder.glob(".*"))
    assert_equal_weights(train(folder), unbroken)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_ends_the_run_and_keeps_the_state(tmp_path: Path, broken: str) -> None:
    model = make_model()

    def diverge(step: int, losses: dict[str, Tensor]) -> None:
        if step == 14:
            zero = sum(parameter.sum() for parameter in model.parameters()) * 0
            # The root's slope at 0 is infinite, its value is not.
            losses["extra"] = zero + float("nan") if broken == "loss" else zero.abs().sqrt()

    with pytest.raises(
        TrainingError, match=f"the {broken} of step 15 is not finite .*checkpoint of step 10 in .* is kept"
    ):
        run(Sums(model, diverge), tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 10
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_another_models_state_is_refused_with_the_keys(tmp_path: Path) -> None:
    train(tmp_path)
    other = nn.Sequential(nn.Linear(2, 8), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="last.pt does not fit this configuration; choose another --out") as error:
        run(Sums(other), tmp_path)
    assert "2 missing: 1.weight, 1.bias" in str(error.value)
    assert "2 unexpected: 3.weight, 3.bias" in str(error.value)
    assert "0.weight (file (8, 3), model (8, 2))" in str(error.value)


def test_another_configuration_is_refused_unless_it_is_free(tmp_path: Path) -> None:
    train(tmp_path)
    changed = replace(CONFIG, learning_rate=0.01, betas=(0.9, 0.999))
    with pytest.raises(CheckpointError, match=r"learning_rate was 0.05, now 0.01, betas was \[0.9, 0.98\]"):
        run(Sums(), tmp_path, changed)
    run(Sums(), tmp_path, replace(CONFIG, steps=62, checkpoint_every=1))
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 62


def test_frozen_parameters_are_neither_trained_nor_kept(tmp_path: Path) -> None:
    model = make_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    run(Sums(model), tmp_path)
    assert torch.equal(model[0].weight, before)
    assert set(torch.load(tmp_path / "last.pt", weights_only=True)["model"]) == {"3.weight", "3.bias"}


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, gradient_accumulation=3)
    with pytest.raises(ConfigError, match="a batch of 4 does not divide over 1 processes x 3 .* multiple of 3"):
        run(Sums(), tmp_path, config)


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda:99", None, "device 'cuda:99' is not there"),
        ("tpu9", None, "unknown device 'tpu9'"),
        ("cpu", "fp16", "fp16 needs a GPU"),
        ("cpu", "int4", "unknown mixed precision 'int4'; expected one of no, bf16, fp16"),
    ],
)
def test_devices_and_precisions_that_cannot_be_are_named(device: str, precision: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(device, precision)
